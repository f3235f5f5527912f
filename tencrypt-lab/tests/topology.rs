//! Pods, nodes, services: does the network the other tests stand on carry what it should?

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use common::Network;
use tencrypt_lab::{
    Binding, Direction, HttpServer, NetNs, Node, Ping, Ports, RawUdp, Snapshot, TcpServer, UdpEcho,
    VXLAN_MTU, cable, http_get, join, send_bound, send_unreachable, sweep, test, throughput, transfer,
    udp_echo,
};

const LIMIT: Duration = Duration::from_secs(20);

fn ping(from: &NetNs, to: IpAddr) {
    let report = Ping::new(to).run(from).unwrap();
    assert!(report.is_complete(), "{to}: {report:?}");
}

#[test]
fn pods_reach_each_other_on_one_node_and_across_vxlan() {
    test("pods_reach_each_other_on_one_node_and_across_vxlan", || {
        let net = Network::new();
        for to in net.b.addresses().into_iter().chain(net.far.addresses()) {
            ping(net.a.netns(), to);
            // The MTU of a pod behind VXLAN, and neither a byte more nor a fragment.
            let report = sweep(net.a.netns(), to, 1440..=1455, false).unwrap();
            assert_eq!(report.unanswered, [1451, 1452, 1453, 1454, 1455], "{to}: {report:?}");
            assert_eq!(report.errno, Some(90), "EMSGSIZE");
            let report = sweep(net.a.netns(), to, 1440..=1460, true).unwrap();
            assert!(report.is_complete(), "{to}: {report:?}");
        }
    });
}

#[test]
fn an_address_nobody_has_gives_no_reply() {
    test("an_address_nobody_has_gives_no_reply", || {
        let net = Network::new();
        let nobody = Ping { wait: Duration::from_millis(300), ..Ping::new("10.128.0.99".parse().unwrap()) };
        let report = nobody.run(net.a.netns()).unwrap();
        assert_eq!((report.replies, report.unanswered.len()), (0, 3), "{report:?}");
    });
}

#[test]
fn tcp_moves_content_intact_in_both_directions_and_families() {
    test("tcp_moves_content_intact_in_both_directions_and_families", || {
        let net = Network::new();
        let _servers = [TcpServer::start(&net.b, 9000).unwrap(), TcpServer::start(&net.far, 9000).unwrap()];
        for to in net.b.addresses().into_iter().chain(net.far.addresses()) {
            let to = SocketAddr::new(to, 9000);
            for direction in [Direction::Upload, Direction::Download] {
                let moved = transfer(net.a.netns(), to, direction, 16_000_001, 7, LIMIT).unwrap();
                assert!(moved.is_intact(), "{to} {direction:?}: {moved:?}");
                let other = transfer(net.a.netns(), to, direction, 1000, 8, LIMIT).unwrap();
                assert_ne!(moved.sent, other.sent);
            }
            assert!(throughput(net.a.netns(), to, Duration::from_millis(200)).unwrap().bytes > 1_000_000);
        }
    });
}

#[test]
fn services_answer_on_the_same_node_across_nodes_and_to_their_own_backend() {
    test("services_answer_on_the_same_node_across_nodes_and_to_their_own_backend", || {
        let net = Network::new();
        let services: [IpAddr; 2] = ["172.30.0.10".parse().unwrap(), "fd00:30::10".parse().unwrap()];
        let ported: [IpAddr; 2] = ["172.30.0.11".parse().unwrap(), "fd00:30::11".parse().unwrap()];
        for node in &net.nodes {
            for (family, service) in services.into_iter().enumerate() {
                node.service(service, &[net.b.addresses()[family]], &Ports::All).unwrap();
                node.service(ported[family], &[net.b.addresses()[family]], &Ports::Only(vec![(80, 9000)]))
                    .unwrap();
            }
        }
        let server = TcpServer::start(&net.b, 9000).unwrap();
        let echo = UdpEcho::start(&net.b, 8362).unwrap();
        for client in [&net.a, &net.far, &net.b] {
            for (service, ported) in services.into_iter().zip(ported) {
                ping(client.netns(), service);
                let moved = transfer(
                    client.netns(),
                    SocketAddr::new(service, 9000),
                    Direction::Download,
                    1_000_000,
                    1,
                    LIMIT,
                );
                assert!(moved.unwrap().is_intact());
                let moved = transfer(
                    client.netns(),
                    SocketAddr::new(ported, 80),
                    Direction::Upload,
                    1_000_000,
                    2,
                    LIMIT,
                );
                assert!(moved.unwrap().is_intact());
                let lost =
                    udp_echo(client.netns(), SocketAddr::new(service, 8362), [0, 1, 1400, 3000], LIMIT);
                assert_eq!(lost.unwrap(), [0; 0]);
                let wait = Duration::from_millis(50);
                let lost = udp_echo(client.netns(), SocketAddr::new(ported, 8362), [10], wait).unwrap();
                assert_eq!(lost, [10], "a service forwards its own ports only");
            }
        }
        assert_eq!((server.accepted(), echo.received()), (12, 24));
    });
}

#[test]
fn a_service_spreads_connections_over_its_backends() {
    test("a_service_spreads_connections_over_its_backends", || {
        let net = Network::new();
        let service = "172.30.0.20".parse().unwrap();
        net.nodes[0].service(service, &[net.b.v4(), net.far.v4(), net.a.v4()], &Ports::All).unwrap();
        let backends = [&net.a, &net.b, &net.far].map(|pod| HttpServer::start(pod, 80, "hello").unwrap());
        for _ in 0..12 {
            let body =
                http_get(net.a.netns(), SocketAddr::new(service, 80), "shop", "secret", LIMIT).unwrap();
            assert_eq!(body, b"hello");
        }
        assert_eq!(backends.map(|backend| backend.accepted()), [4; 3]);
    });
}

#[test]
fn a_socket_bound_to_eth0_sends_by_every_means() {
    test("a_socket_bound_to_eth0_sends_by_every_means", || {
        let net = Network::new();
        let echo = UdpEcho::start(&net.b, 7000).unwrap();
        let mut expected = 0;
        for to in net.b.addresses() {
            let to = SocketAddr::new(to, 7000);
            assert_eq!(udp_echo(net.a.netns(), to, [10], LIMIT).unwrap(), [0; 0]);
            for &binding in Binding::EVASIONS {
                send_bound(net.a.netns(), binding, "eth0", to, b"bound").unwrap();
            }
            expected += 5;
        }
        let local = SocketAddr::new(net.b.link_local().into(), 7000);
        // Not delivered, since the echo server is bound to the pod's own addresses, but sent: the sniffer's test sees it.
        send_bound(net.a.netns(), Binding::Routes, "eth0", local, b"bound").unwrap();
        let by_device = Ping { device: Some("eth0".to_owned()), ..Ping::new(net.b.v6()) };
        assert!(by_device.run(net.a.netns()).unwrap().is_complete());
        let end = Instant::now() + LIMIT;
        while echo.received() < expected && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(echo.received(), expected);
    });
}

#[test]
fn a_snapshot_is_equal_until_something_changes_and_again_when_that_is_undone() {
    test("a_snapshot_is_equal_until_something_changes_and_again_when_that_is_undone", || {
        let net = Network::new();
        let before = Snapshot::take(net.a.netns()).unwrap();
        ping(net.a.netns(), net.b.v4());
        ping(net.a.netns(), net.b.v6());
        assert_eq!(before.difference(&Snapshot::take(net.a.netns()).unwrap()), [""; 0]);
        for wanted in ["device eth0 kind veth mtu 1450", "address 10.128.0.21/14", "address fd00:128::21/64"]
        {
            assert_eq!(before.lines(wanted).count(), 1, "{wanted}\n{before}");
        }
        for wanted in [
            "route v4 table 254 default/0 unicast",
            "route v6 table 254 default/0 unicast",
            "rule v4",
            "rule v6",
        ] {
            assert!(before.lines(wanted).count() >= 1, "{wanted}\n{before}");
        }

        net.a.netns().set_sysctl("ipv4/conf/eth0/rp_filter", "1").unwrap();
        net.a.add_address("10.131.0.1/32".parse().unwrap()).unwrap();
        let changed = before.difference(&Snapshot::take(net.a.netns()).unwrap());
        for wanted in [
            "+ setting ipv4/conf/eth0/rp_filter 1",
            "+ address 10.131.0.1/32",
            "+ route v4 table 255 10.131.0.1/32",
        ] {
            assert!(changed.iter().any(|line| line.starts_with(wanted)), "{wanted} in {changed:#?}");
        }
        net.a.netns().set_sysctl("ipv4/conf/eth0/rp_filter", "0").unwrap();
        net.a.delete_address("10.131.0.1/32".parse().unwrap()).unwrap();
        assert_eq!(before.difference(&Snapshot::take(net.a.netns()).unwrap()), [""; 0]);

        let node = Snapshot::take(net.nodes[0].netns()).unwrap();
        assert_eq!(node.lines("nftables ip").count(), 2, "{node}");
    });
}

#[test]
fn a_cable_joins_two_namespaces_at_its_mtu() {
    test("a_cable_joins_two_namespaces_at_its_mtu", || {
        let (one, other) = (NetNs::new().unwrap(), NetNs::new().unwrap());
        let ends = [(&one, "10.200.0.1/24".parse().unwrap()), (&other, "10.200.0.2/24".parse().unwrap())];
        cable(ends, 1400).unwrap();
        ping(&one, "10.200.0.2".parse().unwrap());
        ping(&other, "10.200.0.1".parse().unwrap());
        let report = sweep(&one, "10.200.0.2".parse().unwrap(), 1399..=1402, false).unwrap();
        assert_eq!(report.unanswered, [1401, 1402], "{report:?}");
    });
}

#[test]
fn between_routed_nodes_sources_are_translated_kept_behind_services_and_services_end() {
    test("between_routed_nodes_sources_are_translated_kept_behind_services_and_services_end", || {
        let near = Node::new("10.128.0.1/24".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap();
        let far = Node::new("10.128.2.1/24".parse().unwrap(), "fd00:128::2:1/64".parse().unwrap()).unwrap();
        join(&near, &far).unwrap();
        let between = IpAddr::from([10, 128, 2, 254]);
        near.add_address("10.128.2.254/24".parse().unwrap()).unwrap();
        far.add_route("10.128.0.0/24".parse().unwrap(), between).unwrap();
        let a = near.pod([10, 128, 0, 21].into(), "fd00:128::21".parse().unwrap(), VXLAN_MTU).unwrap();
        let b = far.pod([10, 128, 2, 22].into(), "fd00:128::22".parse().unwrap(), VXLAN_MTU).unwrap();
        let service = IpAddr::from([172, 30, 0, 10]);
        near.service(service, &[b.v4()], &Ports::All).unwrap();

        let server = b.netns().run(|| UdpSocket::bind((b.v4(), 9000))).unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        // The address that the server sees, once its answer came from where the question went.
        let seen = |to: IpAddr| {
            let client = a.netns().run(|| UdpSocket::bind((a.v4(), 0))).unwrap();
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.connect((to, 9000)).unwrap();
            client.send(b"question").unwrap();
            let mut buffer = [0; 16];
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"answer", from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 6);
            from.ip()
        };
        assert_eq!((seen(b.v4()), seen(service)), (a.v4(), between));
        near.keep_sources().unwrap();
        assert_eq!((seen(b.v4()), seen(service)), (a.v4(), a.v4()));
        near.masquerade("10.128.0.0/24".parse().unwrap(), "10.128.2.0/24".parse().unwrap()).unwrap();
        assert_eq!(seen(b.v4()), between);

        let socket = a.netns().run(|| UdpSocket::bind((a.v4(), 0))).unwrap();
        socket.connect((service, 9000)).unwrap();
        socket.send(b"before").unwrap();
        near.end_services().unwrap();
        server.set_nonblocking(true).unwrap();
        while server.recv(&mut [0; 16]).is_ok() {}
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let _ = socket.send(b"after");
        assert!(socket.recv(&mut [0; 16]).is_err());
        assert!(server.recv(&mut [0; 16]).is_err(), "a connection of before goes on");
    });
}

#[test]
fn raw_sockets_say_what_others_would() {
    test("raw_sockets_say_what_others_would", || {
        let net = Network::new();
        let at = |address: IpAddr, port| match address {
            IpAddr::V4(address) => SocketAddrV4::new(address, port),
            IpAddr::V6(_) => unreachable!("of IPv4"),
        };
        let (a, b) = (at(net.a.v4(), 9000), at(net.b.v4(), 9000));
        let to = RawUdp::open(net.a.netns(), a.port()).unwrap();
        let liar = RawUdp::open(net.far.netns(), 9000).unwrap();
        liar.send(b, a, b"not of b").unwrap();
        assert_eq!(to.receive(LIMIT).unwrap(), Some((b.into(), b"not of b".to_vec())));
        assert_eq!(to.receive(Duration::from_millis(20)).unwrap(), None);

        let socket = net.a.netns().run(|| UdpSocket::bind((net.a.v4(), 9001))).unwrap();
        socket.connect(b).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let stranger = [198, 51, 100, 7].into();
        send_unreachable(net.far.netns(), stranger, (at(net.a.v4(), 9001), b)).unwrap();
        assert_eq!(socket.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}
