//! The leak probe sees what it should, and says so.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::Network;
use tencrypt_lab::{
    Binding, Content, Direction, HttpServer, Keep, Node, Ping, Ports, Report, Sniffer, TcpServer, UdpEcho,
    Watch, hexdump, http_get, send_bound, test, transfer, udp_echo,
};

const LIMIT: Duration = Duration::from_secs(20);
const CANARY: &str = "canary-5f2c9d1e";

fn seen(sniffer: &Sniffer) -> Report {
    assert!(sniffer.settle(Duration::from_millis(60), LIMIT));
    sniffer.report()
}

fn watch(net: &Network) -> Watch {
    Watch::new([&net.a, &net.b, &net.far], CANARY.as_bytes())
}

#[test]
fn the_canary_is_seen_between_pods_of_one_node_and_on_both_nodes_across_vxlan() {
    test("the_canary_is_seen_between_pods_of_one_node_and_on_both_nodes_across_vxlan", || {
        let net = Network::new();
        let _servers =
            [&net.b, &net.far].map(|pod| HttpServer::start(pod, 80, format!("<p>{CANARY}</p>")).unwrap());
        let keep = Keep { frames: 50, bytes: 2000 };
        let near = Sniffer::start(net.nodes[0].netns(), watch(&net).keep(keep)).unwrap();
        let far = Sniffer::start(net.nodes[1].netns(), watch(&net)).unwrap();
        let get = |to: IpAddr| {
            let body = http_get(net.a.netns(), SocketAddr::new(to, 80), "shop", CANARY, LIMIT).unwrap();
            assert!(String::from_utf8(body).unwrap().contains(CANARY));
        };
        for to in net.b.addresses() {
            get(to);
            let report = seen(&near);
            assert_eq!(report.canary, 2, "one request, one response: {report}");
            assert!(report.leaks >= 4 && report.lost == 0 && !report.is_clean(), "{report}");
            assert!(
                report.leaked.iter().any(|leak| matches!(leak.content, Content::Tcp { destination: 80, .. }))
            );
            let readable = |frame: &Vec<u8>| String::from_utf8_lossy(frame).contains("GET /account");
            let request = report.kept.iter().find(|frame| readable(frame)).expect("the request was kept");
            assert!(hexdump(request).contains("47 45 54 20"), "{}", hexdump(request));
            near.reset();
        }
        assert_eq!(seen(&far).canary, 0, "nothing for the other node");
        for to in net.far.addresses() {
            get(to);
            // The response comes in by the cable, in VXLAN, and again out of it.
            assert_eq!(seen(&near).canary, 3, "{}", near.report());
            assert_eq!(seen(&far).canary, 3, "{}", far.report());
            assert!(far.report().leaks >= 2);
            near.reset();
            far.reset();
        }
    });
}

#[test]
fn tunnel_frames_and_traffic_with_others_are_no_leak_but_pings_groups_and_link_local_are() {
    test("tunnel_frames_and_traffic_with_others_are_no_leak_but_pings_groups_and_link_local_are", || {
        let net = Network::new();
        let _echo = UdpEcho::start(&net.b, 8362).unwrap();
        let sniffer = Sniffer::start(net.nodes[0].netns(), watch(&net)).unwrap();
        for to in net.b.addresses() {
            let lost = udp_echo(net.a.netns(), SocketAddr::new(to, 8362), [100, 1000], LIMIT).unwrap();
            assert_eq!(lost, [0; 0]);
        }
        let (gateway4, gateway6) = net.nodes[0].gateway();
        for to in [IpAddr::from(gateway4), gateway6.into()] {
            assert!(Ping::new(to).run(net.a.netns()).unwrap().is_complete());
        }
        let report = seen(&sniffer);
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.tunnel, 8);

        let expect_leak = |what: &str, at_least: u64| {
            let report = seen(&sniffer);
            assert!(report.leaks >= at_least, "{what}: {report}");
            sniffer.reset();
        };
        Ping { count: 1, ..Ping::new(net.b.v4()) }.run(net.a.netns()).unwrap();
        expect_leak("ping", 2);
        for to in ["224.0.0.9:7000", "255.255.255.255:7000", "10.131.255.255:7000", "[ff02::123]:7000"] {
            send_bound(net.a.netns(), Binding::Routes, "eth0", to.parse().unwrap(), b"hello").unwrap();
            expect_leak(to, 1);
        }
        let local = SocketAddr::new(net.b.link_local().into(), 7000);
        send_bound(net.a.netns(), Binding::Routes, "eth0", local, b"hello").unwrap();
        // The other pod's kernel says that nobody listens.
        expect_leak("link-local", 2);
        for &binding in Binding::EVASIONS {
            send_bound(net.a.netns(), binding, "eth0", SocketAddr::new(net.far.v6(), 8000), b"hello")
                .unwrap();
            let report = seen(&sniffer);
            assert!(report.leaks >= 1, "{binding:?}: {report}");
            sniffer.reset();
        }
    });
}

#[test]
fn of_long_frames_the_first_bytes_are_enough_to_tell_a_leak_but_no_canary_behind_them() {
    test("of_long_frames_the_first_bytes_are_enough_to_tell_a_leak_but_no_canary_behind_them", || {
        let net = Network::new();
        let send = |before: usize| {
            let message = [vec![b'.'; before], CANARY.as_bytes().to_vec()].concat();
            let to = SocketAddr::new(net.b.v4(), 7000);
            send_bound(net.a.netns(), Binding::Routes, "eth0", to, &message).unwrap();
        };
        let sniffer = Sniffer::start(net.nodes[0].netns(), watch(&net).first(512)).unwrap();
        for (before, canary) in [(100, true), (1_000, false)] {
            send(before);
            let report = seen(&sniffer);
            assert!(report.leaks > 0 && report.lost == 0, "{before}: {report}");
            assert_eq!(report.canary > 0, canary, "{before}: {report}");
            assert!(report.bytes > before as u64, "the length on the wire counts: {report}");
            sniffer.reset();
        }
    });
}

#[test]
fn a_service_counts_as_the_tenants_own_where_it_is_named() {
    test("a_service_counts_as_the_tenants_own_where_it_is_named", || {
        let net = Network::new();
        let service = "172.30.0.10".parse().unwrap();
        net.nodes[0].service(service, &[net.b.v4()], &Ports::All).unwrap();
        let sniffer = Sniffer::start(net.nodes[0].netns(), watch(&net).address(service)).unwrap();
        assert!(Ping::new(service).run(net.a.netns()).unwrap().is_complete());
        assert!(seen(&sniffer).leaks >= 3);
    });
}

#[test]
fn large_transfers_are_seen_whole() {
    test("large_transfers_are_seen_whole", || {
        let net = Network::new();
        let _servers = [&net.b, &net.far].map(|pod| TcpServer::start(pod, 9000).unwrap());
        // Twice this fits into the sniffer's ring, so that nothing is lost on a busy machine.
        let bytes = 24 << 20;
        // Across VXLAN the far node sees all of it on the cable and again out of the cable.
        for (pod, node, times) in [(&net.b, &net.nodes[0], 1), (&net.far, &net.nodes[1], 2)] {
            let sniffer = Sniffer::start(node.netns(), watch(&net)).unwrap();
            let to = SocketAddr::new(pod.v6(), 9000);
            let moved = transfer(net.a.netns(), to, Direction::Upload, bytes, 3, LIMIT).unwrap();
            assert!(moved.is_intact());
            let report = seen(&sniffer);
            println!("{:.0} Mbit/s, {report}", moved.mbit_per_s());
            assert!(report.bytes >= times * bytes, "{report}");
            assert_eq!(report.lost, 0, "{report}");
        }
    });
}

#[test]
fn a_quiet_node_settles_and_a_busy_one_does_not() {
    test("a_quiet_node_settles_and_a_busy_one_does_not", || {
        let node = Node::new("10.128.0.1/16".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap();
        let a = node.pod("10.128.0.21".parse().unwrap(), "fd00:128::21".parse().unwrap(), 1500).unwrap();
        let sniffer = Sniffer::start(node.netns(), Watch::new([&a], b"")).unwrap();
        assert!(sniffer.settle(Duration::from_millis(100), LIMIT));
        std::thread::scope(|scope| {
            let busy = Ping { count: 50, ..Ping::new(node.gateway().0.into()) };
            scope.spawn(move || busy.run(a.netns()).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            assert!(!sniffer.settle(Duration::from_millis(200), Duration::from_millis(500)));
        });
    });
}
