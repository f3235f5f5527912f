//! The tunnel's own packets, and routes and address translation of others that would lead them astray.

mod support;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage,
};
use netlink_packet_route::{AddressFamily, route::RouteAttribute};
use socket2::{Domain, Protocol, Socket, Type};
use support::{
    isolated,
    net::Net,
    plan,
    state::{assert_same, dump_routes, nft_batch, nft_batch_with, nftables, snapshot},
};
use tencrypt::offload::VnetHdr;
use tencrypt_tun::{Capture, Change, Part, Received, bind_to_interface, mark_socket};

const CANARY: &[u8] = b"the canary sings in plain";
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 128, 7, 7));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x128, 7, 0, 0, 0, 0, 7));

fn udp(v4: bool) -> Socket {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("socket")
}

fn send(socket: &Socket, to: IpAddr) -> std::io::Result<usize> {
    socket.send_to(CANARY, &SocketAddr::new(to, 7777).into())
}

/// Tells if a packet with the canary comes out of the device.
fn comes_out(capture: &Capture) -> bool {
    std::thread::sleep(std::time::Duration::from_millis(50));
    let mut buf = vec![0; 65_536 + VnetHdr::LEN];
    let mut found = false;
    while let Received::Packet { len, .. } = capture.device().read(&mut buf).expect("reads") {
        found |= buf[VnetHdr::LEN..VnetHdr::LEN + len].ends_with(CANARY);
    }
    found
}

/// Adds a route to the main table: by a gateway without a device, or to the device without a gateway.
fn add_route(net: &Net, to: &str, gateway: Option<&str>) {
    let to: tencrypt::IpNet = to.parse().unwrap();
    let mut route = rtnetlink::RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .expect("prefix")
        .priority(50);
    match gateway {
        Some(gateway) => route = route.gateway(gateway.parse().unwrap()).expect("gateway"),
        None => route = route.output_interface(net.index("tenc0")),
    }
    net.wait(net.handle.route().add(route.build()).execute());
}

#[test]
fn a_gateway_that_is_named_without_a_device_is_found_at_the_interface() {
    isolated("a_gateway_that_is_named_without_a_device_is_found_at_the_interface", || {
        let net = Net::new();
        let wire = net.pod();
        let capture = Capture::install(plan()).expect("installs");
        // Protected gateways all of them: no default route, one to a range, one to a host, one of IPv6.
        for (to, gateway) in [
            ("0.0.0.0/0", "10.128.1.254"),
            ("203.0.113.0/24", "10.128.1.254"),
            ("198.51.100.7/32", "10.128.1.9"),
            ("2001:db8::/32", "fd00:128:1::254"),
        ] {
            add_route(&net, to, Some(gateway));
            let gateway: IpAddr = gateway.parse().unwrap();
            let families = [AddressFamily::Inet, AddressFamily::Inet6];
            let route = families.into_iter().flat_map(|family| dump_routes(&net, family)).find(|route| {
                route.attributes.contains(&RouteAttribute::Gateway(gateway.into()))
                    && route.attributes.contains(&RouteAttribute::Priority(50))
            });
            let attributes = route.expect("the route").attributes;
            assert!(attributes.contains(&RouteAttribute::Oif(net.index("eth0"))), "{to}: {attributes:?}");
        }
        // What table 8362 says is still what counts for an application.
        for to in [V4, V6] {
            send(&udp(to.is_ipv4()), to).expect("sends");
            assert!(comes_out(&capture), "{to}");
            assert!(!wire.carried(CANARY));
        }
    });
}

#[test]
fn a_socket_that_asks_for_no_gateway_sends_nothing_in_plain() {
    isolated("a_socket_that_asks_for_no_gateway_sends_nothing_in_plain", || {
        let net = Net::new();
        let wire = net.pod();
        let neighbour: IpAddr = "10.128.1.9".parse().unwrap();
        wire.on_node(|net| net.address("eth0", "10.128.1.9/24"));
        let direct = |to: IpAddr| {
            let socket = udp(to.is_ipv4());
            support::sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, &1_i32.to_ne_bytes());
            send(&socket, to)
        };
        direct(neighbour).expect("sends");
        support::eventually("the probe sees it without a capture", || wire.carried(CANARY));
        let mut capture = Capture::install(plan()).expect("installs");
        let result = direct(neighbour);
        assert!(!wire.carried(CANARY));
        assert_eq!(result.expect_err("refused").kind(), ErrorKind::PermissionDenied);
        assert_eq!(capture.counters().expect("counts").leak, 1);
    });
}

#[test]
fn the_tunnels_own_packets_do_not_go_into_the_tunnel() {
    isolated("the_tunnels_own_packets_do_not_go_into_the_tunnel", || {
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let marked = |to: IpAddr| {
            let socket = udp(to.is_ipv4());
            mark_socket(&socket).expect("marks");
            socket
        };
        for to in [V4, V6] {
            // A socket bound to the device. IPv6 has no way there at all: for it the device is on no link.
            let ways = u64::from(to.is_ipv4());
            let bound = marked(to);
            bind_to_interface(&bound, plan().tun).expect("binds");
            let before = capture.counters().expect("counts");
            assert!(send(&bound, to).is_err());
            assert!(!comes_out(&capture));
            let after = capture.counters().expect("counts");
            assert_eq!((after.looped, after.leak), (before.looped + ways, before.leak));
            // An application's is a packet like any other.
            let unmarked = udp(to.is_ipv4());
            bind_to_interface(&unmarked, plan().tun).expect("binds");
            send(&unmarked, to).expect("sends");
            assert!(comes_out(&capture));
            // A route of somebody else's.
            send(&marked(to), to).expect("passes");
            support::eventually("the tunnel's packet on the wire", || wire.carried(CANARY));
            add_route(&net, if to.is_ipv4() { "10.128.7.7/32" } else { "fd00:128:7::7/128" }, None);
            assert_eq!(send(&marked(to), to).expect_err("refused").kind(), ErrorKind::PermissionDenied);
            assert!(!comes_out(&capture));
            assert_eq!(capture.counters().expect("counts").looped, before.looped + ways + 1);
        }
    });
}

/// Somebody else's NAT chain: table, its family being inet, and chain.
fn foreign_nat() -> (TableMessage, NfTablesMessage) {
    let table = TableMessage { attributes: vec![TableAttribute::Name("sidecar".into())] };
    let chain = NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table("sidecar".into()),
            ChainAttribute::Name("outbound".into()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(InetHookNumber::LocalOut)),
                Hook::Priority((-100_i32).cast_unsigned()),
            ]),
            ChainAttribute::Type("nat".into()),
        ],
    });
    (table, chain)
}

fn own_nat_chains() -> usize {
    let of_table = |message: &NfTablesMessage| match message {
        NfTablesMessage::NewChain(chain) => {
            chain.attributes.contains(&ChainAttribute::Table("tencrypt_nat".into()))
        }
        _ => false,
    };
    nftables().iter().filter(|message| of_table(message)).count()
}

#[test]
fn address_translation_is_there_only_while_others_have_one() {
    isolated("address_translation_is_there_only_while_others_have_one", || {
        let net = Net::new();
        let _wire = net.pod();
        let before = snapshot(&net);
        let mut capture = Capture::install(plan()).expect("installs");
        assert_eq!(own_nat_chains(), 0, "it would switch connection tracking on");
        let standing = snapshot(&net);
        let (table, chain) = foreign_nat();
        nft_batch(vec![NfTablesMessage::NewTable(table.clone()), chain]);
        capture.follow(Change::Missed).expect("follows");
        assert_eq!(own_nat_chains(), 3);
        let translating = snapshot(&net);
        capture.follow(Change::Missed).expect("follows");
        assert_same(&snapshot(&net), &translating);
        nft_batch(vec![NfTablesMessage::DeleteTable(table.clone())]);
        capture.follow(Change::Missed).expect("follows");
        assert_same(&snapshot(&net), &standing);

        // There from the start, and gone with the capture, by itself or by `down`.
        capture.remove().expect("removes");
        let (_, chain) = foreign_nat();
        nft_batch(vec![NfTablesMessage::NewTable(table.clone()), chain]);
        let capture = Capture::install(plan()).expect("installs");
        assert_eq!(own_nat_chains(), 3);
        drop(capture);
        Capture::clean(plan().interface, plan().tun).expect("cleans");
        nft_batch(vec![NfTablesMessage::DeleteTable(table)]);
        assert_same(&snapshot(&net), &before);
    });
}

/// Chains and rules of the table for address translation, without the numbers that the kernel gives them.
fn own_nat() -> Vec<String> {
    let of_table = |message: NfTablesMessage| match message {
        NfTablesMessage::NewChain(ChainMessage { attributes }) => {
            let is_ours = attributes.contains(&ChainAttribute::Table("tencrypt_nat".into()));
            let kept = |attribute: &ChainAttribute| {
                matches!(
                    attribute,
                    ChainAttribute::Name(_) | ChainAttribute::Hook(_) | ChainAttribute::Policy(_)
                )
            };
            is_ours.then(|| format!("{:?}", attributes.into_iter().filter(kept).collect::<Vec<_>>()))
        }
        NfTablesMessage::NewRule(RuleMessage { attributes }) => {
            let is_ours = attributes.contains(&RuleAttribute::Table("tencrypt_nat".into()));
            let kept = |attribute: &RuleAttribute| {
                matches!(attribute, RuleAttribute::Chain(_) | RuleAttribute::Expressions(_))
            };
            is_ours.then(|| format!("{:?}", attributes.into_iter().filter(kept).collect::<Vec<_>>()))
        }
        _ => None,
    };
    nftables().into_iter().filter_map(of_table).collect()
}

#[test]
fn address_translation_that_somebody_edits_is_put_back_whole() {
    isolated("address_translation_that_somebody_edits_is_put_back_whole", || {
        let net = Net::new();
        let _wire = net.pod();
        let (table, chain) = foreign_nat();
        nft_batch(vec![NfTablesMessage::NewTable(table), chain]);
        let mut capture = Capture::install(plan()).expect("installs");
        let standing = own_nat();
        assert_eq!(standing.len(), 3 + 6, "{standing:#?}");
        let name = || RuleAttribute::Table("tencrypt_nat".into());
        let without_rules = |chain: &str| {
            let attributes = vec![name(), RuleAttribute::Chain(chain.into())];
            (NfTablesMessage::DeleteRule(RuleMessage { attributes }), 0)
        };
        let rule_before = |chain: &str| {
            let rule = vec![name(), RuleAttribute::Chain(chain.into()), RuleAttribute::Expressions(vec![])];
            (NfTablesMessage::NewRule(RuleMessage { attributes: rule }), 0x400)
        };
        let table = || TableMessage { attributes: vec![TableAttribute::Name("tencrypt_nat".into())] };
        let edits = [
            without_rules("out"),
            without_rules("in"),
            without_rules("post"),
            rule_before("out"),
            (NfTablesMessage::DeleteTable(table()), 0),
        ];
        for (restored, edit) in (1..).zip(edits) {
            nft_batch_with(vec![edit]);
            assert_ne!(own_nat(), standing);
            capture.follow(Change::Chains).expect("follows");
            assert_eq!(own_nat(), standing, "edit {restored}");
            let chains = capture.parts().into_iter().find(|state| state.part == Part::Chains).expect("there");
            assert_eq!((chains.restored, &chains.problem), (restored, &None));
            assert!(chains.found.is_some_and(|found| found.contains("tencrypt_nat")));
        }
        assert!(!capture.is_closed());
    });
}
