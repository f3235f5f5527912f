//! Ways of packets: into the device, around it, or nowhere.

mod support;

use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use support::{
    eventually, isolated,
    net::{Net, Wire, sysctl},
    plan, player, prefix, role,
    state::{assert_same, elements, routes_8362, snapshot},
};
use tencrypt::{UnansweredPolicy, offload::VnetHdr};
use tencrypt_tun::{
    Capture, Delivered, InterfaceName, RawSockets, Received, RouteLookup, SocketTable, TunDevice,
    bind_to_interface, mark_socket,
};

const CANARY: &[u8] = b"the canary sings in plain";

/// Destinations inside the protected ranges, off the pod's own subnet.
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 128, 7, 7));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x128, 7, 0, 0, 0, 0, 7));

fn eth0() -> InterfaceName {
    plan().interface
}

fn udp(v4: bool) -> Socket {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("socket")
}

/// Sends the canary from an ordinary socket.
fn say(to: IpAddr) -> std::io::Result<usize> {
    udp(to.is_ipv4()).send_to(CANARY, &SocketAddr::new(to, 7777).into())
}

/// Sends the canary from a socket bound to eth0, which ignores table 8362.
fn say_bound(to: IpAddr) -> std::io::Result<usize> {
    let socket = udp(to.is_ipv4());
    bind_to_interface(&socket, eth0())?;
    socket.set_broadcast(true)?;
    socket.send_to(CANARY, &SocketAddr::new(to, 7777).into())
}

/// Reads from the device until a packet holds the canary; nothing within the time: none does.
fn read_canary(device: &TunDevice, time: Duration) -> Option<Vec<u8>> {
    let mut buf = vec![0; 65_536 + VnetHdr::LEN];
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        match device.read(&mut buf).expect("reads") {
            Received::Packet { len, .. } => {
                let packet = &buf[VnetHdr::LEN..VnetHdr::LEN + len];
                if packet.ends_with(CANARY) {
                    return Some(packet.to_vec());
                }
            }
            Received::Empty => std::thread::sleep(Duration::from_millis(1)),
            other => panic!("{other:?}"),
        }
    }
    None
}

fn is_unreachable(result: std::io::Result<usize>) -> bool {
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable))
}

#[test]
fn the_probe_sees_a_canary_without_a_capture() {
    isolated("the_probe_sees_a_canary_without_a_capture", || {
        let net = Net::new();
        let wire = net.pod();
        for to in [V4, V6] {
            assert!(!wire.carried(CANARY));
            say(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
            say_bound(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
        }
    });
}

#[test]
fn protected_packets_come_out_of_the_device_and_nowhere_else() {
    isolated("protected_packets_come_out_of_the_device_and_nowhere_else", || {
        let net = Net::new();
        let wire = net.pod();
        let capture = Capture::install(plan()).expect("installs");
        let wait = Duration::from_secs(2);
        say(V4).expect("sends");
        let packet = read_canary(capture.device(), wait).expect("captured");
        assert_eq!((&packet[12..16], &packet[16..20]), (&[10, 128, 1, 5][..], &[10, 128, 7, 7][..]));
        say(V6).expect("sends");
        let packet = read_canary(capture.device(), wait).expect("captured");
        let source: IpAddr = "fd00:128:1::5".parse().unwrap();
        assert_eq!(IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).unwrap()), source);
        assert!(!wire.carried(CANARY));
    });
}

#[test]
fn nameservers_outside_the_ranges_are_captured_and_other_addresses_are_not() {
    isolated("nameservers_outside_the_ranges_are_captured_and_other_addresses_are_not", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        let nameserver: IpAddr = "198.51.100.53".parse().unwrap();
        plan.nameservers = vec![nameserver];
        let capture = Capture::install(plan).expect("installs");
        say(nameserver).expect("sends");
        assert!(read_canary(capture.device(), Duration::from_secs(2)).is_some());
        assert!(!wire.carried(CANARY));
        say("198.51.100.54".parse().unwrap()).expect("sends");
        eventually("the neighbour's packet on the wire", || wire.carried(CANARY));
    });
}

#[test]
fn what_is_written_to_the_device_reaches_the_application() {
    isolated("what_is_written_to_the_device_reaches_the_application", || {
        let net = Net::new();
        let _wire = net.pod();
        let capture = Capture::install(plan()).expect("installs");
        let application = UdpSocket::bind("10.128.1.5:7777").expect("binds");
        application.set_read_timeout(Some(Duration::from_secs(2))).expect("time-out");
        // The packet of a peer: our own, turned round.
        application.send_to(CANARY, SocketAddr::new(V4, 7777)).expect("sends");
        let mut packet = read_canary(capture.device(), Duration::from_secs(2)).expect("captured");
        for byte in 0..4 {
            packet.swap(12 + byte, 16 + byte);
        }
        assert_eq!(capture.device().write(VnetHdr::default(), &packet).expect("writes"), Delivered::Done);
        let mut buf = [0; 100];
        let (length, from) = application.recv_from(&mut buf).expect("delivered");
        assert_eq!((&buf[..length], from.ip()), (CANARY, V4));
        assert_eq!(capture.device().write(VnetHdr::default(), &[0; 20]).expect("writes"), Delivered::Refused);
    });
}

#[test]
fn external_destinations_go_round_the_device_until_they_are_denied() {
    isolated("external_destinations_go_round_the_device_until_they_are_denied", || {
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let before = snapshot(&net);
        let brief = Duration::from_millis(100);
        for to in [V4, V6] {
            capture.allow_external(to, Duration::from_secs(60)).expect("allows");
            capture.allow_external(to, Duration::from_secs(60)).expect("allows again");
            say(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
            assert!(read_canary(capture.device(), brief).is_none());

            capture.deny_external(to).expect("denies");
            capture.deny_external(to).expect("denies again");
            say(to).expect("sends");
            assert!(read_canary(capture.device(), Duration::from_secs(2)).is_some());
            assert!(!wire.carried(CANARY));
        }
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn a_protected_host_of_its_own_can_be_external_and_is_captured_again() {
    isolated("a_protected_host_of_its_own_can_be_external_and_is_captured_again", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        plan.protected = vec![prefix("10.128.7.7/32"), prefix("fd00:128:7::7/128")];
        let mut capture = Capture::install(plan).expect("installs");
        let before = routes_8362(&net);
        for to in [V4, V6] {
            capture.allow_external(to, Duration::from_secs(60)).expect("allows");
            say(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
            capture.deny_external(to).expect("denies");
            say(to).expect("sends");
            assert!(read_canary(capture.device(), Duration::from_secs(2)).is_some());
        }
        assert_eq!(routes_8362(&net), before);
    });
}

#[test]
fn the_kernel_ends_a_bypass_by_itself_and_a_refresh_prolongs_it() {
    isolated("the_kernel_ends_a_bypass_by_itself_and_a_refresh_prolongs_it", || {
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        for to in [V4, V6] {
            let set = if to.is_ipv4() { "external4" } else { "external6" };
            capture.allow_external(to, Duration::from_millis(400)).expect("allows");
            assert_eq!(elements(set).len(), 1);
            say(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
            capture.allow_external(to, Duration::from_millis(1200)).expect("prolongs");
            std::thread::sleep(Duration::from_millis(700));
            say(to).expect("still passes");
            eventually("the canary on the wire", || wire.carried(CANARY));
            std::thread::sleep(Duration::from_millis(700));
            // The route is still there, the element is not.
            assert_eq!(elements(set), [""; 0]);
            let before = capture.counters().expect("counts").leak;
            assert_eq!(say(to).expect_err("dropped").kind(), ErrorKind::PermissionDenied);
            assert!(!wire.carried(CANARY));
            assert_eq!(capture.counters().expect("counts").leak, before + 1);
        }
    });
}

#[test]
fn an_address_inside_a_static_external_prefix_can_be_allowed_and_denied() {
    isolated("an_address_inside_a_static_external_prefix_can_be_allowed_and_denied", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        plan.external = ["10.128.7.0/24", "10.128.9.9/32", "fd00:128:7::/48"].map(prefix).into();
        let mut capture = Capture::install(plan).expect("installs");
        let standing = snapshot(&net);
        for to in [V4, V6, "10.128.9.9".parse().unwrap()] {
            capture.allow_external(to, Duration::from_millis(50)).expect("allows");
            capture.deny_external(to).expect("denies");
            std::thread::sleep(Duration::from_millis(100));
            say(to).expect("sends");
            eventually("the prefix stands", || wire.carried(CANARY));
        }
        assert_eq!(elements("external4"), ["10.128.7.0-10.128.8.0", "10.128.9.9-10.128.9.10"]);
        assert_eq!(elements("external6"), ["fd00:128:7::-fd00:128:8::"]);
        assert_same(&snapshot(&net), &standing);
    });
}

#[test]
fn neighbouring_external_addresses_come_and_go_one_by_one() {
    isolated("neighbouring_external_addresses_come_and_go_one_by_one", || {
        let net = Net::new();
        let _wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let address = |last: u8| IpAddr::from([10, 128, 7, last]);
        for last in [7, 8, 6, 255, 0] {
            capture.allow_external(address(last), Duration::from_secs(60)).expect("allows");
        }
        let length = Duration::from_secs(60);
        capture.allow_external("255.255.255.255".parse().unwrap(), length).expect("the last of all");
        capture.allow_external("0.0.0.0".parse().unwrap(), length).expect("the first of all");
        capture
            .allow_external("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(), length)
            .expect("the last");
        capture.deny_external(address(7)).expect("denies");
        assert_eq!(
            elements("external4"),
            [
                "0.0.0.0-0.0.0.1",
                "10.128.7.0-10.128.7.1",
                "10.128.7.6-10.128.7.7",
                "10.128.7.8-10.128.7.9",
                "10.128.7.255-10.128.8.0",
                "255.255.255.255-",
            ]
        );
        assert_eq!(elements("external6"), ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-"]);
    });
}

#[test]
fn sockets_bound_to_the_interface_leak_nothing() {
    isolated("sockets_bound_to_the_interface_leak_nothing", || {
        let net = Net::new();
        let wire = net.pod();
        // A subnet outside the protected ranges has a broadcast address too.
        net.address("eth0", "192.0.2.5/24");
        let mut capture = Capture::install(plan()).expect("installs");
        let interface = net.index("eth0");
        for to in [V4, V6, "10.128.1.9".parse().unwrap(), "fd00:128:1::9".parse().unwrap()] {
            refused(&mut capture, &wire, || say_bound(to));
            refused(&mut capture, &wire, || {
                let socket = udp(to.is_ipv4());
                let (level, name) = match to {
                    // IP_UNICAST_IF takes the index in network byte order, as IPV6_UNICAST_IF does.
                    IpAddr::V4(_) => (libc::IPPROTO_IP, 50),
                    IpAddr::V6(_) => (libc::IPPROTO_IPV6, 76),
                };
                support::sys::set_option(&socket, level, name, &interface.to_be_bytes());
                socket.send_to(CANARY, &SocketAddr::new(to, 7777).into())
            });
        }
        // Everybody on the link: own broadcast, all ones, multicast, link-local.
        for to in [
            "10.128.1.255",
            "192.0.2.255",
            "255.255.255.255",
            "224.0.0.251",
            "239.1.1.1",
            "ff02::fb",
            "ff05::2",
            "fe80::9",
        ] {
            refused(&mut capture, &wire, || say_bound(to.parse().unwrap()));
        }
        // The gateway and configured addresses are exempt.
        for to in ["10.128.1.1", "fd00:128:1::1"] {
            say_bound(to.parse().unwrap()).expect("sends");
            eventually("the gateway is spoken to", || wire.carried(CANARY));
            say(to.parse().unwrap()).expect("sends");
            eventually("the gateway is spoken to", || wire.carried(CANARY));
        }
        // So are destinations outside the protected ranges.
        say_bound("198.51.100.1".parse().unwrap()).expect("sends");
        eventually("the outside is spoken to", || wire.carried(CANARY));
    });
}

/// `send` sends nothing, and what it tried is counted: once, and a second time where the kernel sends a copy back to
/// the pod itself, as it does with multicast.
fn refused(capture: &mut Capture, wire: &Wire, send: impl FnOnce() -> std::io::Result<usize>) {
    let before = capture.counters().expect("counts");
    let result = send();
    assert!(!wire.carried(CANARY));
    let after = capture.counters().expect("counts");
    assert!((1..=2).contains(&(after.leak - before.leak)), "{result:?}: {before:?}, then {after:?}");
    assert_eq!(after.plain_in, before.plain_in);
}

#[test]
fn internal_addresses_inside_an_external_prefix_hear_nothing_in_plain() {
    isolated("internal_addresses_inside_an_external_prefix_hear_nothing_in_plain", || {
        let net = Net::new();
        let wire = net.pod();
        let mut plan = plan();
        plan.external = vec![prefix("10.128.7.0/24"), prefix("fd00:128:7::/48")];
        let mut capture = Capture::install(plan).expect("installs");
        for to in [V4, V6] {
            capture.allow_external(to, Duration::from_secs(60)).expect("allows");
            capture.add_internal(to).expect("proven internal");
            refused(&mut capture, &wire, || say_bound(to));
            capture.remove_internal(to).expect("removes");
            say_bound(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
        }
    });
}

#[test]
fn a_bypass_ends_at_once_where_the_destination_is_proven_internal() {
    isolated("a_bypass_ends_at_once_where_the_destination_is_proven_internal", || {
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let routes = routes_8362(&net);
        for to in [V4, V6] {
            let set = if to.is_ipv4() { "external4" } else { "external6" };
            capture.allow_external(to, Duration::from_secs(60)).expect("allows");
            say(to).expect("sends");
            eventually("the canary on the wire", || wire.carried(CANARY));
            capture.add_internal(to).expect("proven internal");
            assert_eq!((elements(set), routes_8362(&net)), (vec![], routes.clone()));
            say(to).expect("sends");
            assert!(read_canary(capture.device(), Duration::from_secs(2)).is_some());
            refused(&mut capture, &wire, || say_bound(to));
            assert!(!wire.carried(CANARY));
        }
    });
}

#[test]
fn a_lookup_says_what_the_kernel_leads_around_the_device() {
    isolated("a_lookup_says_what_the_kernel_leads_around_the_device", || {
        let net = Net::new();
        let _wire = net.pod();
        let plan = plan();
        let (tun, mut lookup) = (plan.tun, RouteLookup::open(plan.tun).expect("opens"));
        let mut capture = Capture::install(plan).expect("installs");
        for to in [V4, V6] {
            assert!(!lookup.leads_around(to).expect("looks"), "{to}: to {}", tun.as_str());
            capture.allow_external(to, Duration::from_secs(60)).expect("allows");
            assert!(lookup.leads_around(to).expect("looks"), "{to}");
            capture.deny_external(to).expect("denies");
            assert!(!lookup.leads_around(to).expect("looks"), "{to}");
        }
        // To the pod itself nothing goes out, and where there is no way neither.
        assert!(!lookup.leads_around(IpAddr::from([127, 0, 0, 1])).expect("looks"));
        drop(capture);
        for to in [V4, V6] {
            assert!(!lookup.leads_around(to).expect("looks"), "{to}: unreachable");
        }
    });
}

#[test]
fn marked_and_raw_sockets_pass_everything() {
    isolated("marked_and_raw_sockets_pass_everything", || {
        let net = Net::new();
        let wire = net.pod();
        let mut capture = Capture::install(plan()).expect("installs");
        let raw = RawSockets::open().expect("raw sockets");
        for to in [V4, V6] {
            let socket = udp(to.is_ipv4());
            mark_socket(&socket).expect("marks");
            socket.send_to(CANARY, &SocketAddr::new(to, 7777).into()).expect("sends");
            eventually("the tunnel's packet on the wire", || wire.carried(CANARY));

            say(to).expect("sends");
            let packet = read_canary(capture.device(), Duration::from_secs(2)).expect("captured");
            assert!(!wire.carried(CANARY));
            raw.send(&packet).expect("bypasses");
            eventually("the bypassed packet on the wire", || wire.carried(CANARY));
        }
        let mut large = vec![0; 1501];
        large[0] = 0x45;
        large[16..20].copy_from_slice(&[10, 128, 7, 7]);
        assert_eq!(raw.send(&large).expect_err("above the MTU").raw_os_error(), Some(libc::EMSGSIZE));
        for nonsense in [&[][..], &[0x45; 19], &[0x60; 39], &[0x75; 60]] {
            assert_eq!(raw.send(nonsense).expect_err("no packet").kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(capture.counters().expect("counts").leak, 0);
    });
}

/// Sends the canary from the node with this source address, which the node takes for the occasion.
fn node_says(wire: &Wire, source: &str, to: SocketAddr) {
    let prefix = if to.is_ipv4() { "/32" } else { "/128" };
    wire.on_node(|net| {
        net.quick_address("eth0", &format!("{source}{prefix}"));
        let socket = UdpSocket::bind(SocketAddr::new(source.parse().unwrap(), 7777)).expect("binds");
        socket.send_to(CANARY, to).expect("sends");
        drop(socket);
        net.remove_address("eth0", &format!("{source}{prefix}"));
    });
}

fn hears(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("time-out");
    let mut buf = [0; 100];
    socket.recv(&mut buf).is_ok_and(|length| &buf[..length] == CANARY)
}

#[test]
fn plaintext_of_protected_sources_is_dropped_and_counted_and_of_external_ones_passes() {
    isolated("plaintext_of_protected_sources_is_dropped_and_counted_and_of_external_ones_passes", || {
        let net = Net::new();
        let wire = net.pod();
        let own = [
            ("10.128.1.5:7000", "10.128.7.7", "198.51.100.7"),
            ("[fd00:128:1::5]:7000", "fd00:128:7::7", "2001:db8::7"),
        ];
        for unknown in [UnansweredPolicy::Drop, UnansweredPolicy::Plain] {
            let mut plan = plan();
            plan.unknown = unknown;
            let mut capture = Capture::install(plan).expect("installs");
            for (own, peer, outside) in own {
                let application = UdpSocket::bind(own).expect("binds");
                let to = application.local_addr().expect("address");
                let address: IpAddr = peer.parse().unwrap();

                node_says(&wire, outside, to);
                assert!(hears(&application), "sources outside the ranges pass");

                let before = capture.counters().expect("counts").plain_in;
                node_says(&wire, peer, to);
                let passes = unknown == UnansweredPolicy::Plain;
                assert_eq!(hears(&application), passes, "{unknown:?}: unknown {peer}");
                assert_eq!(capture.counters().expect("counts").plain_in, before + u64::from(!passes));

                capture.allow_external(address, Duration::from_secs(60)).expect("allows");
                node_says(&wire, peer, to);
                assert!(hears(&application), "{unknown:?}: external {peer}");

                capture.add_internal(address).expect("proven internal");
                let before = capture.counters().expect("counts").plain_in;
                node_says(&wire, peer, to);
                assert!(!hears(&application), "{unknown:?}: internal {peer}");
                assert_eq!(capture.counters().expect("counts").plain_in, before + 1);
            }
            capture.remove().expect("removes");
        }
    });
}

#[test]
fn the_tunnels_own_datagrams_come_in_and_others_on_its_port_do_not() {
    isolated("the_tunnels_own_datagrams_come_in_and_others_on_its_port_do_not", || {
        let net = Net::new();
        let wire = net.pod();
        let _capture = Capture::install(plan()).expect("installs");
        for (own, peer) in [("10.128.1.5:8362", "10.128.7.7"), ("[fd00:128:1::5]:8362", "fd00:128:7::7")] {
            let own: SocketAddr = own.parse().unwrap();
            let tunnel = udp(own.is_ipv4());
            mark_socket(&tunnel).expect("marks");
            tunnel.bind(&own.into()).expect("binds");
            let tunnel = UdpSocket::from(std::os::fd::OwnedFd::from(tunnel));
            node_says(&wire, peer, own);
            assert!(hears(&tunnel), "{own}");
            drop(tunnel);
            let impostor = UdpSocket::bind(own).expect("binds");
            node_says(&wire, peer, own);
            assert!(!hears(&impostor), "{own}");
        }
    });
}

#[test]
fn neighbours_are_found_after_the_chains_are_in_place() {
    isolated("neighbours_are_found_after_the_chains_are_in_place", || {
        let net = Net::new();
        let wire = net.pod();
        let _capture = Capture::install(plan()).expect("installs");
        // A pod on the same subnet: its neighbour advertisements carry its protected address.
        wire.on_node(|net| {
            net.address("eth0", "10.128.1.9/24");
            net.quick_address("eth0", "fd00:128:1::9/64");
        });
        for to in ["10.128.1.9", "fd00:128:1::9"] {
            let to: IpAddr = to.parse().unwrap();
            let socket = udp(to.is_ipv4());
            mark_socket(&socket).expect("marks");
            socket.send_to(CANARY, &SocketAddr::new(to, 8362).into()).expect("sends");
            eventually("the neighbour is reached", || wire.carried(CANARY));
        }
    });
}

#[test]
fn killing_the_process_closes_the_namespace_and_the_next_one_takes_over() {
    const TEST: &str = "killing_the_process_closes_the_namespace_and_the_next_one_takes_over";
    isolated(TEST, || {
        if role() == "agent" {
            let mut capture = Capture::install(plan()).expect("installs");
            capture.allow_external(IpAddr::from([10, 128, 8, 8]), Duration::from_secs(600)).expect("allows");
            println!("ready");
            std::thread::sleep(Duration::from_secs(60));
            return;
        }
        let net = Net::new();
        let wire = net.pod();
        support::net::set_sysctl("ipv4", "eth0", "rp_filter", "1");
        let before = snapshot(&net);
        let mut agent = player(TEST, "agent");
        let output = BufReader::new(agent.stdout.take().expect("piped"));
        assert!(output.lines().any(|line| line.expect("line").ends_with("ready")));
        assert!(say(V4).is_ok());
        agent.kill().expect("kills");
        agent.wait().expect("ends");

        for to in [V4, V6] {
            assert!(is_unreachable(say(to)), "{to}");
            let _ = say_bound(to);
            assert!(!wire.carried(CANARY));
        }
        let left = routes_8362(&net);
        assert!(left.iter().all(|line| !line.starts_with("unicast")), "{left:?}");
        assert!(left.contains(&"unreachable 10.128.0.0/16 metric 4278198272".to_owned()));
        assert!(left.contains(&"unreachable fd00:128::/32 metric 4278198272".to_owned()));

        // The next one starts over what is left, without the bypass of the dead one.
        let mut capture = Capture::install(plan()).expect("takes over");
        assert_eq!(elements("external4"), [""; 0]);
        assert!(!routes_8362(&net).contains(&"throw 10.128.8.8/32".to_owned()));
        assert_eq!(capture.counters().expect("counts").leak, 0);
        say(V4).expect("sends");
        assert!(read_canary(capture.device(), Duration::from_secs(2)).is_some());
        assert_eq!(sysctl("ipv4", "eth0", "rp_filter"), "2");
        capture.remove().expect("removes");
        assert_same(&snapshot(&net), &before);
    });
}

#[test]
fn connections_in_use_are_seen() {
    isolated("connections_in_use_are_seen", || {
        let net = Net::new();
        let wire = net.pod();
        let mut table = SocketTable::open().expect("opens");
        assert!(table.destinations().expect("lists").is_empty());
        wire.on_node(|_| {
            // Listeners live on after this closure: they are leaked on purpose until the process ends.
            for address in ["10.128.1.1:9000", "[fd00:128:1::1]:9000"] {
                std::mem::forget(TcpListener::bind(address).expect("listens"));
            }
        });
        let v4 = TcpStream::connect("10.128.1.1:9000").expect("connects");
        let v6 = TcpStream::connect("[fd00:128:1::1]:9000").expect("connects");
        let connected = UdpSocket::bind("[::]:0").expect("binds");
        connected.connect("[::ffff:10.128.7.7]:53").expect("connects");
        let loose = UdpSocket::bind("0.0.0.0:0").expect("binds");
        loose.send_to(CANARY, "10.128.1.1:9001").expect("sends");
        let expected: Vec<IpAddr> =
            ["10.128.1.1", "10.128.7.7", "fd00:128:1::1"].map(|text| text.parse().unwrap()).into();
        assert_eq!(table.destinations().expect("lists").into_iter().collect::<Vec<_>>(), expected);
        drop((v4, v6, connected));
        eventually("closed connections are forgotten", || {
            let left = table.destinations().expect("lists");
            !left.contains(&expected[1])
        });
    });
}

#[test]
fn a_device_that_is_down_or_gone_says_so() {
    isolated("a_device_that_is_down_or_gone_says_so", || {
        let net = Net::new();
        let _wire = net.pod();
        let capture = Capture::install(plan()).expect("installs");
        net.down("tenc0");
        let mut buf = [0; 2048];
        let device = capture.device();
        assert_eq!(device.read(&mut buf).expect("reads"), Received::Empty);
        assert_eq!(device.write(VnetHdr::default(), &[0x45; 40]).expect("writes"), Delivered::Down);
        net.up("tenc0");
        assert_eq!(device.read(&mut buf).expect("reads"), Received::Empty);
        net.delete("tenc0");
        assert_eq!(device.read(&mut buf).expect("reads"), Received::Gone);
        assert_eq!(device.write(VnetHdr::default(), &[0x45; 40]).expect("writes"), Delivered::Down);
    });
}
