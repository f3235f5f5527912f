//! Links and addresses through rtnetlink.

use std::{
    fs,
    io::Read as _,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    address::AddressHeaderFlags,
    link::{LinkAttribute, LinkFlags, LinkMessage, State},
};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use socket2::{Domain, Protocol, Socket, Type};
use tencrypt::IpNet;
use tencrypt_tun::NetNs;
use tokio::runtime::Runtime;

use super::{another_namespace, eventually};

/// A connection to the namespace of the thread that made it.
pub(crate) struct Net {
    runtime: Runtime,
    pub(crate) handle: Handle,
}

/// The other end of eth0, and what comes out of it.
pub(crate) struct Wire {
    pub(crate) node: NetNs,
    sniffer: Socket,
}

impl Wire {
    /// Tells if any packet that came out since the last call holds these bytes. Packets on a veth arrive within
    /// the call that sends them, or soon after.
    pub(crate) fn carried(&self, canary: &[u8]) -> bool {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut packet = [0; 65_536];
        let mut found = false;
        while let Ok(length) = (&self.sniffer).read(&mut packet) {
            found |= packet[..length].windows(canary.len()).any(|window| window == canary);
        }
        found
    }

    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce(&Net) -> T + Send) -> T {
        self.node.run(|| work(&Net::new())).expect("runs")
    }
}

fn sniffer() -> Socket {
    // ETH_P_ALL in network byte order.
    let all = i32::from(3_u16.to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all))).expect("packet socket");
    socket.set_nonblocking(true).expect("non-blocking");
    socket
}

impl Net {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let handle = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
            tokio::spawn(connection);
            handle
        });
        Self { runtime, handle }
    }

    pub(crate) fn wait<T>(&self, work: impl Future<Output = Result<T, rtnetlink::Error>>) -> T {
        self.runtime.block_on(work).expect("netlink request")
    }

    /// The pod's eth0: 10.128.1.5/24 and fd00:128:1::5/64, default routes through .1, which is at the other end.
    pub(crate) fn pod(&self) -> Wire {
        let wire = self.wire();
        self.pod_addresses();
        wire
    }

    /// The pod's eth0 without addresses, connected to the gateway.
    pub(crate) fn wire(&self) -> Wire {
        let node = another_namespace();
        self.veth_to("eth0", &node);
        let sniffer = node.run(|| {
            let net = Self::new();
            net.address("eth0", "10.128.1.1/24");
            net.quick_address("eth0", "fd00:128:1::1/64");
            net.up("eth0");
            sniffer()
        });
        // For the link-local address, whose detection would otherwise end in the middle of a test.
        set_sysctl("ipv6", "eth0", "accept_dad", "0");
        self.up("eth0");
        let wire = Wire { sniffer: sniffer.expect("runs"), node };
        eventually("carrier", || self.is_running("eth0") && wire.on_node(|net| net.is_running("eth0")));
        wire
    }

    /// A second interface of the pod's, net1 with 10.200.0.5/24 and fd00:200::5/64, in a network where protected addresses
    /// answer: 10.128.200.1 and fd00:128:200::1.
    pub(crate) fn second_wire(&self) -> Wire {
        let node = another_namespace();
        self.veth_to("net1", &node);
        let sniffer = node.run(|| {
            let net = Self::new();
            for address in ["10.200.0.1/24", "10.128.200.1/32"] {
                net.address("eth0", address);
            }
            for address in ["fd00:200::1/64", "fd00:128:200::1/128"] {
                net.quick_address("eth0", address);
            }
            net.up("eth0");
            sniffer()
        });
        set_sysctl("ipv6", "net1", "accept_dad", "0");
        self.up("net1");
        self.address("net1", "10.200.0.5/24");
        self.quick_address("net1", "fd00:200::5/64");
        // Without one a bound socket has no way in IPv6.
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix("fd00:128:200::".parse().expect("address"), 64)
            .expect("prefix")
            .output_interface(self.index("net1"));
        self.wait(self.handle.route().add(route.build()).execute());
        let wire = Wire { sniffer: sniffer.expect("runs"), node };
        eventually("carrier", || self.is_running("net1") && wire.on_node(|net| net.is_running("eth0")));
        wire
    }

    pub(crate) fn pod_addresses(&self) {
        self.address("eth0", "10.128.1.5/24");
        self.quick_address("eth0", "fd00:128:1::5/64");
        let index = self.index("eth0");
        for gateway in ["10.128.1.1", "fd00:128:1::1"] {
            let gateway: IpAddr = gateway.parse().expect("address");
            let whole: IpNet = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().expect("prefix");
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(whole.addr(), 0)
                .and_then(|route| route.gateway(gateway))
                .expect("route")
                .output_interface(index)
                .build();
            self.wait(self.handle.route().add(route).execute());
        }
    }

    fn is_tentative(&self) -> bool {
        let addresses = self.wait(self.handle.address().get().execute().try_collect::<Vec<_>>());
        addresses.iter().any(|address| address.header.flags.contains(AddressHeaderFlags::Tentative))
    }

    /// A pair of connected links, the second one in the other namespace under the name eth0.
    pub(crate) fn veth_to(&self, name: &str, other: &NetNs) {
        self.wait(self.handle.link().add(LinkVeth::new(name, "veth-peer").build()).execute());
        let moved = LinkUnspec::new_with_index(self.index("veth-peer"))
            .name("eth0")
            .setns_by_fd(other.as_fd().as_raw_fd());
        self.wait(self.handle.link().set(moved.build()).execute());
    }

    /// A link of a kind that is not TUN.
    pub(crate) fn bridge(&self, name: &str) {
        self.wait(self.handle.link().add(LinkBridge::new(name).build()).execute());
    }

    fn is_running(&self, name: &str) -> bool {
        self.link(name).is_some_and(|link| {
            link.header.flags.contains(LinkFlags::Running)
                && link.attributes.contains(&LinkAttribute::OperState(State::Up))
        })
    }

    pub(crate) fn delete(&self, name: &str) {
        self.wait(self.handle.link().del(self.index(name)).execute());
    }

    pub(crate) fn up(&self, name: &str) {
        self.set(LinkUnspec::new_with_index(self.index(name)).up().build());
    }

    pub(crate) fn down(&self, name: &str) {
        self.set(LinkUnspec::new_with_index(self.index(name)).down().build());
    }

    pub(crate) fn mtu(&self, name: &str, mtu: u32) {
        self.set(LinkUnspec::new_with_index(self.index(name)).mtu(mtu).build());
    }

    fn set(&self, change: LinkMessage) {
        self.wait(self.handle.link().set(change).execute());
    }

    pub(crate) fn address(&self, name: &str, address: &str) {
        let net: IpNet = address.parse().expect("address");
        self.wait(self.handle.address().add(self.index(name), net.addr(), net.prefix_len()).execute());
    }

    /// As [`address`](Self::address), without duplicate address detection.
    pub(crate) fn quick_address(&self, name: &str, address: &str) {
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0").expect("accept_dad");
        self.address(name, address);
        // Not at once even so: the work is deferred.
        eventually("the address is usable", || !self.is_tentative());
    }

    pub(crate) fn remove_address(&self, name: &str, address: &str) {
        let net: IpNet = address.parse().expect("address");
        let all = self.wait(
            self.handle.address().get().set_address_filter(net.addr()).execute().try_collect::<Vec<_>>(),
        );
        let index = self.index(name);
        for message in all.into_iter().filter(|message| message.header.index == index) {
            self.wait(self.handle.address().del(message).execute());
        }
    }

    pub(crate) fn index(&self, name: &str) -> u32 {
        self.link(name).expect("link exists").header.index
    }

    pub(crate) fn link(&self, name: &str) -> Option<LinkMessage> {
        let links = self.wait(self.handle.link().get().execute().try_collect::<Vec<_>>());
        let named = LinkAttribute::IfName(name.to_owned());
        links.into_iter().find(|link| link.attributes.contains(&named))
    }

    /// Packets the link has sent.
    pub(crate) fn sent(&self, name: &str) -> u64 {
        let link = self.link(name).expect("link exists");
        let stats = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats.tx_packets),
            _ => None,
        });
        stats.expect("statistics")
    }

    pub(crate) fn link_mtu(&self, name: &str) -> u32 {
        let link = self.link(name).expect("link exists");
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        mtu.expect("MTU")
    }
}

/// A setting of an interface, `family` being `ipv4` or `ipv6`; `absent` where the interface has none of the family.
pub(crate) fn sysctl(family: &str, interface: &str, key: &str) -> String {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{key}");
    fs::read_to_string(path).map_or_else(|_| "absent".to_owned(), |value| value.trim().to_owned())
}

pub(crate) fn set_sysctl(family: &str, interface: &str, key: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{family}/conf/{interface}/{key}"), value).expect("setting");
}
