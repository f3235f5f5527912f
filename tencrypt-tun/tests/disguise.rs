//! Packets that look like what may pass, and are not; and those that are and do.

mod support;

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use netlink_packet_route::route::RouteProtocol;
use socket2::{Domain, Protocol, Socket, Type};
use support::{
    eventually, isolated,
    net::{Net, Wire},
    plan,
    state::elements,
};
use tencrypt_tun::{Capture, Change, bind_to_interface, mark_socket};

const CANARY: &[u8] = b"the canary sings in plain";
/// Options of setsockopt (include/uapi/linux/in.h, in6.h).
const IP_OPTIONS: i32 = 4;
const IPV6_RTHDR: i32 = 57;

fn udp(v4: bool) -> Socket {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("socket")
}

/// Sends the canary to a protected address by way of the gateway, which is exempt.
fn detour(kind: &str) -> std::io::Result<usize> {
    let (socket, to) = match kind {
        "loose" | "strict" => {
            let socket = udp(true);
            let option = if kind == "loose" { 131 } else { 137 };
            // Three bytes of header, one stop, an end.
            let value = [option, 7, 4, 10, 128, 1, 1, 0];
            support::sys::set_option(&socket, libc::IPPROTO_IP, IP_OPTIONS, &value);
            (socket, "10.128.7.7".parse::<IpAddr>().unwrap())
        }
        _ => {
            let socket = udp(false);
            let gateway: std::net::Ipv6Addr = "fd00:128:1::1".parse().unwrap();
            // A segment routing header (RFC 8754): two segments, the last one first, of which one is left.
            let header = [&[0, 4, 4, 1, 1, 0, 0, 0][..], &[0; 16], &gateway.octets()].concat();
            support::sys::set_option(&socket, libc::IPPROTO_IPV6, IPV6_RTHDR, &header);
            (socket, "fd00:128:7::7".parse::<IpAddr>().unwrap())
        }
    };
    bind_to_interface(&socket, plan().interface)?;
    socket.send_to(CANARY, &SocketAddr::new(to, 7777).into())
}

#[test]
fn routes_that_a_packet_brings_with_it_are_refused() {
    isolated("routes_that_a_packet_brings_with_it_are_refused", || {
        let net = Net::new();
        let wire = net.pod();
        let kinds = ["loose", "strict", "segments"];
        for kind in kinds {
            detour(kind).expect("sends");
            eventually("the probe sees it without a capture", || wire.carried(CANARY));
        }
        let mut capture = Capture::install(plan()).expect("installs");
        for (refused, kind) in (1..).zip(kinds) {
            assert!(detour(kind).is_err(), "{kind}");
            assert!(!wire.carried(CANARY), "{kind}");
            assert_eq!(capture.counters().expect("counts").leak, refused, "{kind}");
        }
        // A packet with other options, to the gateway, passes.
        let socket = udp(true);
        support::sys::set_option(&socket, libc::IPPROTO_IP, IP_OPTIONS, &[7, 7, 4, 0, 0, 0, 0, 0]);
        socket.send_to(CANARY, &"10.128.1.1:7777".parse::<SocketAddr>().unwrap().into()).expect("sends");
        eventually("recorded routes pass", || wire.carried(CANARY));
    });
}

/// A message of DHCP, or what is not quite one: the first byte, the cookie, and the canary where options are.
fn bootp(op: u8, cookie: [u8; 4]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[0] = op;
    [message, cookie.to_vec(), CANARY.to_vec()].concat()
}

/// Sends from this port of a socket bound to the interface.
fn say(source: u16, to: &str, message: &[u8]) -> std::io::Result<usize> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = udp(to.is_ipv4());
    bind_to_interface(&socket, plan().interface)?;
    socket.set_broadcast(true)?;
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    socket.bind(&SocketAddr::new(any, source).into())?;
    let to = match to {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
        v4 => v4,
    };
    socket.send_to(message, &to.into())
}

#[test]
fn dhcp_passes_and_what_only_has_its_ports_does_not() {
    isolated("dhcp_passes_and_what_only_has_its_ports_does_not", || {
        const COOKIE: [u8; 4] = [99, 130, 83, 99];
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let v6 = |kind: u8| [&[kind, 0, 0, 1], CANARY].concat();
        for (source, to, message) in [
            (68, "255.255.255.255:67", bootp(1, COOKIE)),
            (546, "[ff02::1:2]:547", v6(1)),
            (546, "[ff02::1:2]:547", v6(11)),
        ] {
            say(source, to, &message).expect("sends");
            eventually("DHCP on the wire", || wire.carried(CANARY));
        }
        for (source, to, message) in [
            (68, "255.255.255.255:67", CANARY.to_vec()),
            (68, "255.255.255.255:67", bootp(1, [0; 4])),
            (68, "255.255.255.255:67", bootp(2, COOKIE)),
            (6800, "255.255.255.255:67", bootp(1, COOKIE)),
            (68, "255.255.255.255:68", bootp(1, COOKIE)),
            (68, "224.0.0.251:67", bootp(1, COOKIE)),
            (68, "10.128.1.255:67", bootp(1, COOKIE)),
            (546, "[ff02::1:2]:547", v6(12)),
            (5460, "[ff02::1:2]:547", v6(1)),
            (546, "[ff02::1]:547", v6(1)),
            (546, "[fe80::9]:547", v6(1)),
        ] {
            let before = capture.counters().expect("counts").leak;
            let _ = say(source, to, &message);
            assert!(!wire.carried(CANARY), "from port {source} to {to}");
            assert!(capture.counters().expect("counts").leak > before, "from port {source} to {to}");
        }
    });
}

#[test]
fn a_router_that_only_advertised_itself_is_not_exempt() {
    isolated("a_router_that_only_advertised_itself_is_not_exempt", || {
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let exempt = elements("exempt6");
        let known: Vec<IpAddr> = capture.gateways().to_vec();
        let gateway: IpAddr = "fe80::666".parse().unwrap();
        let route = |protocol| {
            rtnetlink::RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix("::".parse().unwrap(), 0)
                .and_then(|route| route.gateway(gateway))
                .expect("route")
                .output_interface(net.index("eth0"))
                .priority(512)
                .protocol(protocol)
                .build()
        };
        net.wait(net.handle.route().add(route(RouteProtocol::Ra)).execute());
        capture.follow(Change::MainRoute).expect("follows");
        assert_eq!((elements("exempt6"), capture.gateways()), (exempt, known.as_slice()));
        let socket = udp(false);
        bind_to_interface(&socket, plan().interface).expect("binds");
        assert!(socket.send_to(CANARY, &SocketAddr::new(gateway, 7777).into()).is_err());
        assert!(!wire.carried(CANARY));
        // One that somebody has set is.
        net.wait(net.handle.route().del(route(RouteProtocol::Ra)).execute());
        net.wait(net.handle.route().add(route(RouteProtocol::Static)).execute());
        capture.follow(Change::MainRoute).expect("follows");
        assert!(capture.gateways().contains(&gateway));
        assert!(elements("exempt6").iter().any(|range| range.starts_with("fe80::666-")));
    });
}

/// Sends an ICMPv6 message of this type with the canary behind its eight bytes, in a packet of this hop limit.
fn icmpv6(from: &str, to: &str, kind: u8, hops: u32) -> std::io::Result<usize> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).expect("raw socket");
    socket.set_unicast_hops_v6(hops).expect("hop limit");
    let [from, to] = [from, to].map(|address| SocketAddr::new(address.parse().unwrap(), 0));
    socket.bind(&from.into()).expect("binds");
    bind_to_interface(&socket, plan().interface)?;
    socket.send_to(&[&[kind, 0, 0, 0, 0, 0, 0, 0], CANARY].concat(), &to.into())
}

#[test]
fn what_neighbours_say_passes_only_if_it_is_of_the_link() {
    isolated("what_neighbours_say_passes_only_if_it_is_of_the_link", || {
        let (own, other) = ("fd00:128:1::5", "fd00:128:1::9");
        let net = Net::new();
        let wire = net.pod();
        wire.on_node(|net| net.quick_address("eth0", "fd00:128:1::9/64"));
        let mut capture = Capture::install(plan()).expect("installs");
        let counts = |capture: &mut Capture| {
            std::thread::sleep(Duration::from_millis(20));
            let now = capture.counters().expect("counts");
            (now.plain_in, now.leak)
        };
        // In: solicitation, advertisement, and a router's.
        for kind in [135, 136, 134] {
            for (hops, dropped) in [(255, 0), (254, 1), (64, 1)] {
                let before = counts(&mut capture);
                wire.on_node(|_| icmpv6(other, own, kind, hops)).expect("sends");
                let after = counts(&mut capture);
                assert_eq!(after.0 - before.0, dropped, "type {kind}, hop limit {hops}");
            }
        }
        // Out: an advertisement and both solicitations.
        for kind in [136, 135, 133] {
            icmpv6(own, other, kind, 255).expect("sends");
            eventually("it is on the wire", || wire.carried(CANARY));
            let before = counts(&mut capture);
            assert!(icmpv6(own, other, kind, 64).is_err(), "type {kind}");
            assert!(!wire.carried(CANARY), "type {kind}");
            assert_eq!(counts(&mut capture).1, before.1 + 1);
        }
    });
}

/// Sends a datagram that does not fit one packet, from the node under this address.
fn node_says_at_length(wire: &Wire, source: &str, to: SocketAddr) {
    let prefix = if to.is_ipv4() { "/32" } else { "/128" };
    wire.on_node(|net| {
        net.quick_address("eth0", &format!("{source}{prefix}"));
        let socket = UdpSocket::bind(SocketAddr::new(source.parse().unwrap(), 53)).expect("binds");
        socket.send_to(&[7; 4000], to).expect("sends");
        drop(socket);
        net.remove_address("eth0", &format!("{source}{prefix}"));
    });
}

#[test]
fn nameservers_answers_come_in_whole_though_they_come_in_pieces() {
    isolated("nameservers_answers_come_in_whole_though_they_come_in_pieces", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        plan.nameservers = vec!["10.128.9.10".parse().unwrap()];
        plan.upstreams = vec!["fd00:128:9::10".parse().unwrap()];
        let mut capture = Capture::install(plan).expect("installs");
        for (own, nameserver, other) in [
            ("10.128.1.5:5300", "10.128.9.10", "10.128.9.11"),
            ("[fd00:128:1::5]:5300", "fd00:128:9::10", "fd00:128:9::11"),
        ] {
            let own: SocketAddr = own.parse().unwrap();
            let hears = |is_marked: bool, source: &str| {
                let socket = udp(own.is_ipv4());
                if is_marked {
                    mark_socket(&socket).expect("marks");
                }
                socket.bind(&own.into()).expect("binds");
                socket.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
                let socket = UdpSocket::from(std::os::fd::OwnedFd::from(socket));
                node_says_at_length(&wire, source, own);
                socket.recv(&mut [0; 5000]).is_ok_and(|length| length == 4000)
            };
            assert!(hears(true, nameserver), "an upstream socket's answer");
            let before = capture.counters().expect("counts").plain_in;
            assert!(!hears(true, other), "the pieces of somebody else");
            assert!(capture.counters().expect("counts").plain_in > before);
            let before = capture.counters().expect("counts").plain_in;
            assert!(!hears(false, nameserver), "the first piece decides");
            assert!(capture.counters().expect("counts").plain_in > before);
        }
    });
}

#[test]
fn what_waited_for_a_neighbour_is_not_sent_when_it_answers() {
    isolated("what_waited_for_a_neighbour_is_not_sent_when_it_answers", || {
        let net = Net::new();
        let wire = net.pod();
        let neighbours = ["10.128.1.77", "fd00:128:1::77"];
        let answers = |wire: &Wire, [v4, v6]: [&str; 2]| {
            wire.on_node(|net| {
                net.address("eth0", &format!("{v4}/24"));
                net.quick_address("eth0", &format!("{v6}/64"));
            });
        };
        let ask = |neighbours: [&str; 2]| {
            for to in neighbours {
                let to: IpAddr = to.parse().unwrap();
                udp(to.is_ipv4()).send_to(CANARY, &SocketAddr::new(to, 7777).into()).expect("waits");
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let controls = ["10.128.1.78", "fd00:128:1::78"];
        ask(controls);
        assert!(!wire.carried(CANARY));
        answers(&wire, controls);
        eventually("the probe sees what waited", || wire.carried(CANARY));

        ask(neighbours);
        let _capture = Capture::install(plan()).expect("installs");
        answers(&wire, neighbours);
        let end = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < end {
            assert!(!wire.carried(CANARY));
        }
    });
}
