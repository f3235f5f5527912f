//! Nodes with pods on a bridge, as in the figure of an OpenShift network: pods' `eth0` in `br0`, the bridges of
//! several nodes joined by VXLAN into one flat network, service addresses translated by the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, Ordering};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::Result;
use crate::link::{self, Mac, Peer};
use crate::nat::{self, Ports, Side};
use crate::netns::NetNs;
use crate::tamper;

/// MTU of a pod's `eth0` where the network below adds nothing, bytes.
pub const PLAIN_MTU: u32 = 1500;
/// MTU of a pod's `eth0` behind VXLAN over a 1500-byte network, bytes: 50 less for outer Ethernet, IPv4, UDP and
/// VXLAN headers (RFC 7348 section 4.3).
pub const VXLAN_MTU: u32 = 1450;

const BRIDGE: &str = "br0";
const UNDERLAY: &str = "under0";
const UNDERLAY_MTU: u32 = 1500;
const VNI: u32 = 42;

/// A node: a namespace with the bridge `br0`, whose address is the default gateway of the node's pods.
#[derive(Debug)]
pub struct Node {
    netns: NetNs,
    gateway: (Ipv4Net, Ipv6Net),
    mac_prefix: u8,
    pods: AtomicU8,
}

impl Node {
    /// A node whose bridge has these addresses. The prefixes are those of the whole pod network.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses namespace or bridge.
    pub fn new(gateway4: Ipv4Net, gateway6: Ipv6Net) -> Result<Self> {
        let netns = NetNs::new()?;
        netns.set_sysctl("ipv4/ip_forward", "1")?;
        netns.set_sysctl("ipv6/conf/all/forwarding", "1")?;
        // Bridged frames must not meet the node's address translation; there only if br_netfilter is loaded.
        for setting in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            if netns.sysctl(setting).is_some() {
                netns.set_sysctl(setting, "0")?;
            }
        }
        let mac = mac_of(gateway4.addr());
        netns.run(|| {
            link::add_bridge(BRIDGE, mac)?;
            link::up(BRIDGE)?;
            link::add_address(BRIDGE, IpNet::V4(gateway4))?;
            link::add_address(BRIDGE, IpNet::V6(gateway6))?;
            nat::prepare()
        })?;
        let mac_prefix = gateway4.addr().octets()[2];
        Ok(Self { netns, gateway: (gateway4, gateway6), mac_prefix, pods: AtomicU8::new(0) })
    }

    /// Starts a pod on this node: `eth0` with both addresses and `mtu` bytes, default routes by the node.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses a step, such as a route by a gateway that is not in
    /// the addresses' network.
    pub fn pod(&self, v4: Ipv4Addr, v6: Ipv6Addr, mtu: u32) -> Result<Pod> {
        let netns = NetNs::new()?;
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        let port = format!("veth{number}");
        let mac = mac_of(v4);
        let port_mac = [0x02, 0xfe, self.mac_prefix, 0, 0, number];
        self.netns.run(|| {
            link::add_veth(&port, port_mac, &Peer { netns: netns.as_fd(), name: "eth0", mac }, mtu)?;
            // A port of a bridge needs no address of its own; the pod has a link-local one, as any pod.
            crate::netns::write_sysctl(&format!("ipv6/conf/{port}/disable_ipv6"), "1")?;
            link::set_master(&port, BRIDGE)?;
            link::up(&port)
        })?;
        let (gateway4, gateway6) = self.gateway;
        netns.run(|| {
            link::up("eth0")?;
            link::add_address("eth0", net(v4.into(), gateway4.prefix_len()))?;
            link::add_address("eth0", net(v6.into(), gateway6.prefix_len()))?;
            link::add_route(net(Ipv4Addr::UNSPECIFIED.into(), 0), gateway4.addr().into())?;
            link::add_route(net(Ipv6Addr::UNSPECIFIED.into(), 0), gateway6.addr().into())?;
            link::wait_for_v6("eth0")
        })?;
        Ok(Pod { netns, v4, v6, mac, port })
    }

    /// Makes `service` an address behind which `backends` answer, for pods of this node (others, who use another
    /// node as gateway, need it there as well). Connections go to the backends in turn and reach them with the
    /// node's address as source. A backend may call its own service.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel has no nftables, or not its address translation.
    ///
    /// # Panics
    /// Without backends, or if they are not of the service's address family.
    pub fn service(&self, service: IpAddr, backends: &[IpAddr], ports: &Ports) -> Result<()> {
        assert!(!backends.is_empty(), "a service needs a backend");
        assert!(backends.iter().all(|backend| backend.is_ipv4() == service.is_ipv4()), "one address family");
        self.netns.run(|| nat::forward(service, backends, ports))
    }

    /// Takes away all services of this node, and forgets the connections that it translated: so does kube-proxy where a
    /// service's backend is gone, before it forwards to another one.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel tracks no connections.
    pub fn end_services(&self) -> Result<()> {
        self.netns.run(|| nat::end_services().and_then(|()| nat::forget_connections()))
    }

    /// From now on backends see the addresses of a service's clients, as with kube-proxy between nodes. Their replies
    /// have to come by this node.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel has no nftables.
    pub fn keep_sources(&self) -> Result<()> {
        self.netns.run(nat::keep_sources)
    }

    /// Gives what this node forwards from one range to another an address of the node's own as source.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel has not nftables' address translation.
    pub fn masquerade(&self, from: Ipv4Net, to: Ipv4Net) -> Result<()> {
        self.netns.run(|| nat::masquerade(from, to))
    }

    /// Gives `br0` a further address.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if it has the address already.
    pub fn add_address(&self, address: IpNet) -> Result<()> {
        self.netns.run(|| link::add_address(BRIDGE, address))
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is one, or the gateway is not next to this node.
    pub fn add_route(&self, to: IpNet, gateway: IpAddr) -> Result<()> {
        self.netns.run(|| link::add_route(to, gateway))
    }

    /// Takes a route away.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is none to this range.
    pub fn delete_route(&self, to: IpNet) -> Result<()> {
        self.netns.run(|| link::delete_route(to))
    }

    /// Sets the port of a pod of this node in `br0` up or down; down is as a cable that was pulled.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if it is a pod of another node.
    pub fn set_port_up(&self, pod: &Pod, up: bool) -> Result<()> {
        self.netns.run(|| link::set_up(pod.port(), up))
    }

    /// The node's namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The addresses of `br0`: the default gateways of the node's pods.
    pub fn gateway(&self) -> (Ipv4Addr, Ipv6Addr) {
        (self.gateway.0.addr(), self.gateway.1.addr())
    }
}

/// Joins the bridges of two nodes by VXLAN over a cable of 1500 bytes MTU: their pods are one flat network then.
/// The pods' MTU should be [`VXLAN_MTU`]. A node can be joined once.
///
/// # Errors
/// [`Error::Os`](crate::Error::Os) if the kernel refuses a device, such as VXLAN that it was built without.
pub fn join(one: &Node, other: &Node) -> Result<()> {
    // Documentation addresses (RFC 5737): nothing else in the laboratory uses them.
    let (address1, address2) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    one.netns.run(|| {
        let peer = Peer { netns: other.netns.as_fd(), name: UNDERLAY, mac: mac_of(address2) };
        link::add_veth(UNDERLAY, mac_of(address1), &peer, UNDERLAY_MTU)
    })?;
    for (node, local, remote) in [(one, address1, address2), (other, address2, address1)] {
        node.netns.run(|| {
            link::add_address(UNDERLAY, net(local.into(), 24))?;
            link::up(UNDERLAY)?;
            let [.., low] = local.octets();
            link::add_vxlan("vxlan0", [0x02, 0xfd, 0, 0, 0, low], VNI, local, remote, VXLAN_MTU)?;
            crate::netns::write_sysctl("ipv6/conf/vxlan0/disable_ipv6", "1")?;
            link::set_master("vxlan0", BRIDGE)?;
            link::up("vxlan0")
        })?;
    }
    Ok(())
}

/// Joins two namespaces by a cable, without bridge or node: a veth pair whose ends are both called `eth0`, with these
/// addresses and `mtu` bytes. The shortest way there is, for measuring what lies on it.
///
/// # Errors
/// [`Error::Os`](crate::Error::Os) if the kernel refuses a device, such as a second `eth0` in a namespace.
pub fn cable(ends: [(&NetNs, Ipv4Net); 2], mtu: u32) -> Result<()> {
    let [(one, address1), (other, address2)] = ends;
    one.run(|| {
        let peer = Peer { netns: other.as_fd(), name: "eth0", mac: mac_of(address2.addr()) };
        link::add_veth("eth0", mac_of(address1.addr()), &peer, mtu)
    })?;
    for (netns, address) in ends {
        netns.set_up_device("eth0", address.into(), mtu)?;
    }
    Ok(())
}

/// A pod: a namespace with `eth0` in a node's bridge.
#[derive(Debug)]
pub struct Pod {
    netns: NetNs,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    mac: Mac,
    port: String,
}

impl Pod {
    /// The pod's namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// The Ethernet address of `eth0`.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The name of the pod's port of `br0`, in the node's namespace.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Changes the MTU of `eth0`, bytes.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses the MTU, such as one out of the device's range.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        self.netns.run(|| link::set_mtu("eth0", mtu))
    }

    /// Sets `eth0` up or down. Down removes IPv6 addresses and routes, as the kernel does.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the pod has no `eth0` any more.
    pub fn set_up(&self, up: bool) -> Result<()> {
        self.netns.run(|| link::set_up("eth0", up))
    }

    /// Gives `eth0` a further address.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the pod has the address already.
    pub fn add_address(&self, address: IpNet) -> Result<()> {
        self.netns.run(|| link::add_address("eth0", address))
    }

    /// Sends what is of `protocol` (`IPPROTO_*`), to `port` if one is given, to port `to` of the pod, as a sidecar's
    /// init container does, in both families; but for what has [`SIDECAR_MARK`](crate::SIDECAR_MARK) on its way out.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel has not nftables' address translation.
    pub fn redirect(&self, side: Side, protocol: u8, port: Option<u16>, to: u16) -> Result<()> {
        self.netns.run(|| nat::redirect(side, protocol, port, to))
    }

    /// Drops what comes into the pod and is of no connection that it began, but for loopback and ICMPv6.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel tracks no connections.
    pub fn firewall(&self) -> Result<()> {
        self.netns.run(nat::firewall)
    }

    /// Has the pod's [`firewall`](Self::firewall) accept what comes in for this port, at any device.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no firewall.
    pub fn let_in(&self, protocol: u8, port: u16) -> Result<()> {
        self.netns.run(|| nat::let_in(protocol, port))
    }

    /// Drops what comes into the pod at a device, long before a firewall would.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses.
    pub fn drop_at(&self, device: &str) -> Result<()> {
        self.netns.run(|| nat::drop_at(device))
    }

    /// Replaces the default route of the gateway's family by one that names the gateway alone, and no device.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no default route, or the kernel finds no way to the gateway.
    pub fn replace_gateway(&self, gateway: IpAddr) -> Result<()> {
        let any: IpAddr =
            if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let whole = net(any, 0);
        self.netns.run(|| link::delete_route(whole).and_then(|()| link::add_route(whole, gateway)))
    }

    /// Takes an address from `eth0`.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the pod does not have the address.
    pub fn delete_address(&self, address: IpNet) -> Result<()> {
        self.netns.run(|| link::delete_address("eth0", address))
    }

    /// Removes a device of this pod.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no such device, or it cannot be removed.
    pub fn delete_device(&self, name: &str) -> Result<()> {
        self.netns.run(|| link::delete(name))
    }

    /// Deletes the routing rules that look into this table, of both families.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses.
    pub fn delete_rules(&self, table: u32) -> Result<()> {
        self.netns.run(|| tamper::delete_rules(table))
    }

    /// Deletes the routes in this table, of both families.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses.
    pub fn flush_routes(&self, table: u32) -> Result<()> {
        self.netns.run(|| tamper::flush_routes(table))
    }

    /// Adds a routing rule of this preference that leads everything into the main table, of both families.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is the same one already.
    pub fn add_rule(&self, preference: u32) -> Result<()> {
        self.netns.run(|| tamper::add_rule(preference))
    }

    /// Deletes what [`Pod::add_rule`] added.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is none.
    pub fn delete_rule(&self, preference: u32) -> Result<()> {
        self.netns.run(|| tamper::delete_rule(preference))
    }

    /// Deletes all tables of nftables, as a firewall does that starts anew.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel has no nftables.
    pub fn flush_nftables(&self) -> Result<()> {
        self.netns.run(tamper::flush_nftables)
    }

    /// Sets a device of this pod up or down.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no such device.
    pub fn set_device_up(&self, name: &str, up: bool) -> Result<()> {
        self.netns.run(|| tamper::set_up(name, up))
    }

    /// The IPv6 link-local address of `eth0`, formed from its Ethernet address (RFC 4291 appendix A).
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let mut octets = [0; 16];
        octets[0] = 0xfe;
        octets[1] = 0x80;
        octets[8..].copy_from_slice(&[a ^ 0x02, b, c, 0xff, 0xfe, d, e, f]);
        octets.into()
    }
}

/// Locally administered, and different for different addresses.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x00, a, b, c, d]
}

fn net(address: IpAddr, prefix: u8) -> IpNet {
    IpNet::new_assert(address, prefix)
}
