//! Pods with several lanes, alike and not: streams both ways, services, restarts, and flows that keep to their lane.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use support::{CANARY, Cluster, LIMIT, PROTECTED, Probe, Running};
use tencrypt_lab::{
    Content, Direction, Frame, Keep, Ping, Pod, Signal, TUNNEL_PORT, TcpServer, UdpEcho, Watch, inside, test,
    transfer, udp_echo,
};

const TCP: u16 = 9000;
const UDP: u16 = 9001;
const MIB: u64 = 1 << 20;
/// Streams at a time: with 2 lanes all on one of them once in 128.
const STREAMS: u64 = 8;
/// `tencrypt --help`: not permitted.
const NOT_PERMITTED: i32 = 4;
/// Set to 1, it makes a test that cannot run fail.
const REQUIRED: &str = "TENCRYPT_TEST_LANES_REQUIRED";

fn network(lanes: u8) -> String {
    format!("[network]\nprotected = {PROTECTED}\nlanes = {lanes}\n")
}

/// Runs `body`, a test of pods with several lanes, in a world, or says `NOT RUN` where the kernel refuses such pods: to an
/// ordinary user. Where they are required, a test that cannot run fails.
///
/// # Panics
/// As [`test`]; and to an ordinary user, if `CI` is `true` or `TENCRYPT_TEST_LANES_REQUIRED` is 1.
fn test_lanes(name: &str, body: impl FnOnce()) {
    if inside() || is_root() {
        return test(name, body);
    }
    let is = |variable: &str, value: &str| env::var_os(variable).is_some_and(|set| set == value);
    let reason = "the kernel grants more than one lane to the machine's root alone";
    assert!(!is("CI", "true") && !is(REQUIRED, "1"), "{name} cannot run: {reason}");
    // Past the test harness, which keeps what a test prints that does not fail.
    let line = format!("NOT RUN: {name}: {reason} ({REQUIRED}=1 makes this a failure)\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Tells if this process is of the machine's root, and not of one in a user namespace.
fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Starts a pod with so many lanes.
fn up(cluster: &Cluster, pod: &Pod, lanes: u8) -> Running {
    let mut running = cluster.start(pod, &network(lanes));
    if let Err(error) = running.program.wait_ready(LIMIT) {
        panic!("{error}: {:?}", running.program.wait(LIMIT).unwrap());
    }
    running
}

fn both(cluster: &Cluster, lanes: (u8, u8)) -> (Running, Running) {
    (up(cluster, &cluster.a, lanes.0), up(cluster, &cluster.b, lanes.1))
}

/// A probe that takes the lanes' ports for the tunnel's; its positive control has passed for all of `targets`.
fn probe(cluster: &Cluster, targets: &[IpAddr], watch: impl FnOnce(Watch) -> Watch) -> Probe {
    let watched = targets.iter().fold(cluster.watch().lanes(2), |watch, address| watch.address(*address));
    let probe = cluster.probe_with(watch(watched));
    cluster.control(&probe, targets.iter().copied());
    probe
}

/// Several streams at once, half of them in each direction.
fn streams(from: &Pod, to: SocketAddr) {
    thread::scope(|scope| {
        for stream in 0..STREAMS {
            scope.spawn(move || {
                let direction = if stream % 2 == 0 { Direction::Upload } else { Direction::Download };
                let moved = transfer(from.netns(), to, direction, 4 * MIB, stream, LIMIT).unwrap();
                assert!(moved.is_intact(), "{to} stream {stream}: {moved:?}");
            });
        }
    });
}

fn assert_sound(running: &Running) {
    for reason in ["malformed", "auth", "inner_malformed", "inner_source", "inner_destination"] {
        assert_eq!(running.drops(reason), 0, "{reason}: {}", running.status());
    }
}

fn everything_passes_encrypted(cluster: Cluster, lanes: (u8, u8)) {
    let service = cluster.service(10);
    let targets: Vec<IpAddr> = cluster.b.addresses().into_iter().chain(service).collect();
    let probe = probe(&cluster, &targets, |watch| watch);
    let (a, b) = both(&cluster, lanes);
    assert_eq!(
        (a.status()["lanes"].as_u64(), b.status()["lanes"].as_u64()),
        (Some(lanes.0.into()), Some(lanes.1.into()))
    );
    probe.reset();
    let _servers = (TcpServer::start(&cluster.b, TCP).unwrap(), TcpServer::start(&cluster.a, TCP).unwrap());
    let _echoes = (UdpEcho::start(&cluster.b, UDP).unwrap(), UdpEcho::start(&cluster.a, UDP).unwrap());
    for &to in &targets {
        let ping = Ping::new(to).run(cluster.a.netns()).unwrap();
        assert!(ping.is_complete(), "{to}: {ping:?}\n{}", a.log());
        // A socket each: flows of every lane.
        for _ in 0..STREAMS {
            let lost = udp_echo(cluster.a.netns(), SocketAddr::new(to, UDP), [0, 1200, 9000], LIMIT).unwrap();
            assert_eq!(lost, [0; 0], "{to}: lengths that did not come back");
        }
        streams(&cluster.a, SocketAddr::new(to, TCP));
        cluster.say_canary(to);
        probe.assert_only_encrypted();
        probe.reset();
    }
    for to in cluster.a.addresses() {
        streams(&cluster.b, SocketAddr::new(to, TCP));
        let lost = udp_echo(cluster.b.netns(), SocketAddr::new(to, UDP), [100], LIMIT).unwrap();
        assert_eq!(lost, [0; 0], "{to}");
    }
    probe.assert_only_encrypted();
    for running in [&a, &b] {
        assert_sound(running);
        let peers = running.peers();
        assert_eq!(peers.as_array().map(Vec::len), Some(1), "one peer, however many lanes: {peers}");
        let pairs = u64::from(lanes.0.max(lanes.1));
        assert_eq!(peers[0]["lanes"].as_u64(), Some(pairs), "{peers}");
    }
}

#[test]
fn more_than_one_lane_is_granted_to_root_and_refused_to_others_in_words() {
    test("more_than_one_lane_is_granted_to_root_and_refused_to_others_in_words", || {
        let cluster = Cluster::on_one_node();
        if is_root() {
            assert_eq!(up(&cluster, &cluster.a, 2).status()["lanes"].as_u64(), Some(2));
            return;
        }
        let mut running = cluster.start(&cluster.a, &network(2));
        let finished = running.program.wait(LIMIT).unwrap();
        assert_eq!(finished.status.code(), Some(NOT_PERMITTED), "{finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
        assert!(finished.stderr.contains("more than one lane: the kernel refuses"), "{finished:?}");
        assert_eq!(up(&cluster, &cluster.b, 1).status()["lanes"].as_u64(), Some(1));
    });
}

#[test]
fn two_lanes_and_two_pass_everything_encrypted() {
    test_lanes("two_lanes_and_two_pass_everything_encrypted", || {
        everything_passes_encrypted(Cluster::on_one_node(), (2, 2));
    });
}

#[test]
fn two_lanes_and_one_pass_everything_encrypted_across_nodes() {
    test_lanes("two_lanes_and_one_pass_everything_encrypted_across_nodes", || {
        everything_passes_encrypted(Cluster::on_two_nodes(), (2, 1));
    });
}

#[test]
fn one_lane_and_two_pass_everything_encrypted() {
    test_lanes("one_lane_and_two_pass_everything_encrypted", || {
        everything_passes_encrypted(Cluster::on_one_node(), (1, 2));
    });
}

#[test]
fn a_flow_keeps_to_one_lane_and_flows_use_both() {
    test_lanes("a_flow_keeps_to_one_lane_and_flows_use_both", || {
        let cluster = Cluster::on_one_node();
        let to = SocketAddr::new(cluster.b.v4(), UDP);
        let keep = Keep { frames: 100_000, bytes: 64 };
        let probe = probe(&cluster, &[cluster.b.v4()], |watch| watch.keep(keep));
        let (_a, _b) = both(&cluster, (2, 2));
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let mut lanes = BTreeMap::new();
        for flow in 0..16_u16 {
            let socket = cluster.a.netns().run(|| UdpSocket::bind((cluster.a.v4(), 40_000 + flow))).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            let exchange = |payload: &[u8]| {
                socket.send(payload).unwrap();
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], payload);
            };
            // Handshakes are over with the first.
            exchange(CANARY.as_bytes());
            probe.report();
            probe.reset();
            for _ in 0..10 {
                exchange(CANARY.as_bytes());
            }
            let report = probe.report();
            assert!(report.is_clean(), "{report}");
            let ports: BTreeSet<(u16, u16)> = report.kept.iter().filter_map(|frame| ports(frame)).collect();
            let [(source, destination)] = ports.iter().copied().collect::<Vec<_>>()[..] else {
                panic!("flow {flow} was seen between {ports:?}");
            };
            assert_eq!(source, destination, "flow {flow}: another lane there");
            *lanes.entry(source).or_insert(0) += 1;
        }
        assert!(lanes.keys().eq([&TUNNEL_PORT, &(TUNNEL_PORT + 1)]), "flows a lane: {lanes:?}");
    });
}

/// The ports of a record on the wire.
fn ports(frame: &[u8]) -> Option<(u16, u16)> {
    match Frame::parse(frame)?.content {
        Content::Udp { source, destination } => Some((source, destination)),
        _ => None,
    }
}

#[test]
fn a_killed_pod_with_lanes_leaves_nothing_open_and_is_found_again() {
    test_lanes("a_killed_pod_with_lanes_leaves_nothing_open_and_is_found_again", || {
        let cluster = Cluster::on_one_node();
        let probe = probe(&cluster, &[cluster.b.v4()], |watch| watch);
        let (a, mut b) = both(&cluster, (2, 2));
        probe.reset();
        let _server = TcpServer::start(&cluster.b, TCP).unwrap();
        let to = SocketAddr::new(cluster.b.v4(), TCP);
        streams(&cluster.a, to);
        b.program.signal(Signal::Kill).unwrap();
        b.program.wait(LIMIT).unwrap();
        let ping = Ping { count: 2, wait: Duration::from_millis(300), ..Ping::new(cluster.b.v4()) };
        assert_eq!(ping.run(cluster.a.netns()).unwrap().replies, 0);
        let b = up(&cluster, &cluster.b, 2);
        // Each lane of a's notices for itself, 15 s after what it sent went unanswered.
        let end = Instant::now() + LIMIT * 2;
        let _echo = UdpEcho::start(&cluster.b, UDP).unwrap();
        let echo = SocketAddr::new(cluster.b.v4(), UDP);
        let mut in_row = 0;
        while in_row < 16 {
            assert!(Instant::now() < end, "not found again: {}", a.status());
            let lost = udp_echo(cluster.a.netns(), echo, [100], Duration::from_millis(500)).unwrap();
            in_row = if lost.is_empty() { in_row + 1 } else { 0 };
        }
        streams(&cluster.a, to);
        cluster.say_canary(cluster.b.v4());
        probe.assert_only_encrypted();
        // And `down` ends all lanes at once.
        for (pod, mut running) in [(&cluster.a, a), (&cluster.b, b)] {
            let finished = cluster.down(pod);
            assert!(finished.status.success(), "{finished:?}");
            assert!(running.program.wait(LIMIT).unwrap().status.success());
        }
        probe.reset();
        cluster.control(&probe, [cluster.b.v4()]);
    });
}
