//! Two pods of one tenant talk encrypted, on one bridge and across nodes: by pod address and by service, over IPv4 and
//! IPv6, with the leak probe on every node.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use support::{Cluster, LIMIT, Running};
use tencrypt_lab::{
    Binding, Direction, Ping, Snapshot, TcpServer, UdpEcho, Watch, send_bound, sweep, test, test_within,
    transfer, udp_echo,
};

/// Bytes that tencrypt adds to a packet over IPv4: 20 IP, 8 UDP, 16 header, 16 tag (docs/wire-format.md).
const OVER_V4: u32 = 60;
/// Over IPv6: 20 more.
const OVER_V6: u32 = 80;

const TCP: u16 = 9000;
const UDP: u16 = 9001;
const MIB: u64 = 1 << 20;
/// Bytes of a large transfer. There are 16, of about 8 s each in a debug build where both pods share two cores.
const LARGE: u64 = 1 << 30;
/// For all eight of a test, and for one: a busy machine may take several times as long.
const LARGE_LIMIT: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(150));

/// A cluster with a service before pod `b`, both pods protected, and the probe, whose positive control has passed for
/// all of `targets`.
struct Protected {
    cluster: Cluster,
    targets: Vec<IpAddr>,
    probe: support::Probe,
    a: Running,
    b: Running,
}

impl Protected {
    fn new(cluster: Cluster) -> Self {
        Self::seen_by(cluster, |watch| watch)
    }

    /// [`Protected::new`] with the leak probe that `watch` makes of the usual one.
    fn seen_by(cluster: Cluster, watch: impl FnOnce(Watch) -> Watch) -> Self {
        let service = cluster.service(10);
        let targets: Vec<IpAddr> = cluster.b.addresses().into_iter().chain(service).collect();
        let probe = cluster.probe_with(watch(service.into_iter().fold(cluster.watch(), Watch::address)));
        cluster.control(&probe, targets.iter().copied());
        let a = cluster.up(&cluster.a, "");
        let b = cluster.up(&cluster.b, "");
        probe.reset();
        Self { cluster, targets, probe, a, b }
    }

    /// Panics if anything of the tenant was readable, or if the program dropped packets for a reason that a sound
    /// network does not give.
    fn assert_sound(&self) {
        self.probe.assert_only_encrypted();
        for (pod, running) in [("a", &self.a), ("b", &self.b)] {
            assert!(running.packets("encrypted") > 0 && running.packets("decrypted") > 0, "{pod}");
            for reason in ["malformed", "auth", "inner_malformed", "inner_source", "inner_destination"] {
                assert_eq!(running.drops(reason), 0, "{pod}: {reason}: {}", running.status());
            }
        }
    }
}

fn ping_udp_tcp_and_the_canary_pass_encrypted(cluster: Cluster) {
    let net = Protected::new(cluster);
    let from = net.cluster.a.netns();
    let (server, echo) =
        (TcpServer::start(&net.cluster.b, TCP).unwrap(), UdpEcho::start(&net.cluster.b, UDP).unwrap());
    for &to in &net.targets {
        let ping = Ping::new(to).run(from).unwrap();
        assert!(ping.is_complete(), "{to}: {ping:?}\n{}", net.a.log());
        let lost = udp_echo(from, SocketAddr::new(to, UDP), [0, 1, 1200, 1440, 9000, 60_000], LIMIT).unwrap();
        assert_eq!(lost, [0; 0], "{to}: lengths of datagrams that did not come back");
        for direction in [Direction::Upload, Direction::Download] {
            let moved = transfer(from, SocketAddr::new(to, TCP), direction, MIB + 1, 3, LIMIT).unwrap();
            assert!(moved.is_intact(), "{to}: {moved:?}");
        }
        net.cluster.say_canary(to);
        net.probe.assert_only_encrypted();
        net.probe.reset();
    }
    // The other way round: b asks, a answers.
    let _echo = UdpEcho::start(&net.cluster.a, UDP).unwrap();
    for to in net.cluster.a.addresses() {
        let ping = Ping::new(to).run(net.cluster.b.netns()).unwrap();
        assert!(ping.is_complete(), "{to}: {ping:?}");
        let lost = udp_echo(net.cluster.b.netns(), SocketAddr::new(to, UDP), [100], LIMIT).unwrap();
        assert_eq!(lost, [0; 0], "{to}");
    }
    net.assert_sound();
    assert_eq!((server.accepted(), echo.received()), (8, 24));
}

#[test]
fn ping_udp_and_tcp_pass_encrypted_on_one_bridge() {
    test("ping_udp_and_tcp_pass_encrypted_on_one_bridge", || {
        ping_udp_tcp_and_the_canary_pass_encrypted(Cluster::on_one_node());
    });
}

#[test]
fn ping_udp_and_tcp_pass_encrypted_across_nodes() {
    test("ping_udp_and_tcp_pass_encrypted_across_nodes", || {
        ping_udp_tcp_and_the_canary_pass_encrypted(Cluster::on_two_nodes());
    });
}

/// Echoes of every length around the MTU of tenc0 and that of eth0, whole and in fragments.
fn every_length_of_echo_passes(cluster: Cluster) {
    let net = Protected::new(cluster);
    let from = net.cluster.a.netns();
    let eth0 = net.cluster.mtu;
    for pod in [&net.cluster.a, &net.cluster.b] {
        let snapshot = Snapshot::take(pod.netns()).unwrap();
        let device = snapshot.lines("device tenc0 ").next().expect("there is a device tenc0");
        assert!(device.contains(&format!(" mtu {} ", eth0 - OVER_V4)), "{device}");
    }
    assert_eq!(net.a.status()["mtu"], eth0 - OVER_V4);
    for &to in &net.targets {
        let mtu = eth0 - if to.is_ipv4() { OVER_V4 } else { OVER_V6 };
        let lengths = (mtu - 40) as usize..=(eth0 + 40) as usize;
        let report = sweep(from, to, lengths.clone(), true).unwrap();
        assert!(report.is_complete(), "{to}, fragments: {report:?}");
        let report = sweep(from, to, lengths, false).unwrap();
        let too_long: Vec<usize> = (mtu as usize + 1..=(eth0 + 40) as usize).collect();
        assert_eq!(report.unanswered, too_long, "{to}, whole: {report:?}");
        assert_eq!((report.refused as usize, report.errno), (too_long.len(), Some(libc::EMSGSIZE)), "{to}");
    }
    net.assert_sound();
}

#[test]
fn every_length_of_echo_around_the_mtu_passes_on_one_bridge() {
    test("every_length_of_echo_around_the_mtu_passes_on_one_bridge", || {
        let cluster = Cluster::on_one_node();
        assert_eq!(cluster.mtu - OVER_V4, 1440);
        every_length_of_echo_passes(cluster);
    });
}

#[test]
fn every_length_of_echo_around_the_mtu_passes_across_nodes() {
    test("every_length_of_echo_around_the_mtu_passes_across_nodes", || {
        let cluster = Cluster::on_two_nodes();
        assert_eq!(cluster.mtu - OVER_V4, 1390);
        every_length_of_echo_passes(cluster);
    });
}

fn large_transfers_arrive_intact(cluster: Cluster) {
    // The canary is said in frames shorter than this.
    let net = Protected::seen_by(cluster, |watch| watch.first(2_048));
    let _server = TcpServer::start(&net.cluster.b, TCP).unwrap();
    for &to in &net.targets {
        for direction in [Direction::Upload, Direction::Download] {
            let to_port = SocketAddr::new(to, TCP);
            let moved = transfer(net.cluster.a.netns(), to_port, direction, LARGE, 5, LARGE_LIMIT.1).unwrap();
            println!("{to} {direction:?}: {} MiB, {:.0} Mbit/s", moved.bytes / MIB, moved.mbit_per_s());
            assert!(moved.is_intact(), "{to} {direction:?}: {moved:?}");
        }
        net.cluster.say_canary(to);
        net.probe.assert_only_encrypted();
        net.probe.reset();
    }
}

#[test]
fn large_transfers_arrive_intact_on_one_bridge() {
    test_within("large_transfers_arrive_intact_on_one_bridge", LARGE_LIMIT.0, || {
        large_transfers_arrive_intact(Cluster::on_one_node());
    });
}

#[test]
fn large_transfers_arrive_intact_across_nodes() {
    test_within("large_transfers_arrive_intact_across_nodes", LARGE_LIMIT.0, || {
        large_transfers_arrive_intact(Cluster::on_two_nodes());
    });
}

#[test]
fn the_first_datagram_to_an_address_nobody_named_arrives_encrypted() {
    test("the_first_datagram_to_an_address_nobody_named_arrives_encrypted", || {
        let net = Protected::new(Cluster::on_one_node());
        let echo = UdpEcho::start(&net.cluster.b, UDP).unwrap();
        let peers = net.a.peers();
        assert_eq!(peers.as_array().map(Vec::len), Some(0), "nobody was asked before: {peers}");
        let mut expected = 0;
        for &to in &net.targets {
            let to = SocketAddr::new(to, UDP);
            // One datagram, never repeated, to a literal address. There was no DNS, there is no fact.
            send_bound(net.cluster.a.netns(), Binding::Routes, "eth0", to, support::CANARY.as_bytes())
                .unwrap();
            expected += 1;
            assert!(arrived(&echo, expected), "{to}: {}\n{}", net.a.status(), net.a.log());
        }
        net.probe.assert_only_encrypted();
        assert!(net.a.packets("held") >= 1, "{}", net.a.status());
        assert_eq!(net.a.packets("bypassed"), 0);
    });
}

/// Waits for exactly this number of datagrams.
fn arrived(echo: &UdpEcho, expected: u64) -> bool {
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while echo.received() < expected && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    echo.received() == expected
}
