//! Floods of the tenant's port by a pod that is not of the tenant: what passed before passes on, and pods that were not
//! there before still find each other.

mod support;

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use support::{CANARY, Cluster, HTTP, LIMIT, Probe, Running};
use tencrypt::CipherSuite;
use tencrypt_lab::{
    Direction, Flood, Flooded, Flooding, Keep, Pod, Source, TUNNEL_PORT, TcpServer, UdpEcho, http_get, test,
    test_within, throughput, transfer, udp_echo,
};

const TCP: u16 = 9000;
const UDP: u16 = 9001;
/// Nobody listens there.
const CLOSED: u16 = 9;
/// Made-up sources: of the pods' range, and nobody's.
const NOBODY: &str = "10.129.0.0/16";
/// Datagrams a second in trains while the leak probe listens, which has to see all of them: many times what a lane lets
/// in. With a packet each, from made-up sources, it sees what a sender can.
const SEEN: u32 = 600_000;
/// Most datagrams that a lane may have handled a second, and once more before the filter is up: several times what that lets
/// in on the whole.
const HANDLED: f64 = 250_000.0;
/// Shortest duration of such a flood.
const LEAST: Duration = Duration::from_secs(2);
/// Most growth of the program in a flood, KiB: buffers that are written to for the first time, and nothing that lasts.
const GROWTH: u64 = 8 << 10;
/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;
/// A slice of the measurement.
const SLICE: Duration = Duration::from_millis(500);
/// Rounds of the measurement; `TENCRYPT_TEST_FLOOD` says another number.
const ROUNDS: usize = 2;

/// A well-formed INIT under the tenant's first epoch, whose mac1 nobody made who has the key.
fn wrong_key() -> Vec<u8> {
    let suite = CipherSuite::Aes256Gcm;
    let mut init = vec![0x5a; suite.init_len()];
    init[..12].copy_from_slice(&[1, 1, 2, 1, 1, 2, 3, 4, 0, 0, 0, 0]);
    init
}

/// A record of a session of the first lane's that nobody has.
fn unknown_index() -> Vec<u8> {
    let mut data = vec![0x5a; 284];
    data[..8].copy_from_slice(&[4, 0, 0, 0, 0x30, 2, 3, 4]);
    data
}

fn nobody() -> Source {
    Source::Spoofed(NOBODY.parse::<Ipv4Net>().unwrap())
}

fn flood(to: IpAddr, port: u16, payload: &[u8], source: Source, rate: Option<u32>) -> Flood {
    let to = SocketAddr::new(to, port);
    Flood { to, payload: payload.to_vec(), source, rate, limit: LIMIT * 4, count: u64::MAX }
}

/// Memory of the program that is in use, KiB (proc_pid_status(5)).
fn resident(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until `is`; how long that took.
fn wait(what: &str, is: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

/// Pods `a` and `b` with a session, and what they talk by.
struct Talking {
    a: Running,
    b: Running,
    outsider: Pod,
    _servers: (TcpServer, UdpEcho),
}

impl Talking {
    fn start(cluster: &Cluster) -> Self {
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        let servers = (TcpServer::start(&cluster.b, TCP).unwrap(), UdpEcho::start(&cluster.b, UDP).unwrap());
        cluster.say_canary(cluster.b.v4());
        Self { a, b, outsider: cluster.pod(30), _servers: servers }
    }

    /// Whole transfers both ways, and datagrams: nothing of them is lost for good, and what is lost is sent again.
    fn assert_passes(&self, cluster: &Cluster) {
        let to = cluster.b.v4();
        for direction in [Direction::Upload, Direction::Download] {
            let to = SocketAddr::new(to, TCP);
            let moved = transfer(cluster.a.netns(), to, direction, 8 << 20, 7, LIMIT).unwrap();
            assert!(moved.is_intact(), "{moved:?}");
        }
        let echo = SocketAddr::new(to, UDP);
        let lost = udp_echo(cluster.a.netns(), echo, [100; 20], Duration::from_millis(300)).unwrap();
        assert!(lost.len() < 10, "{} of 20 datagrams were lost: {}", lost.len(), self.b.status());
        cluster.say_canary(to);
    }

    /// Waits for the screen in a flood that is a fast one on any machine.
    fn wait_screened(&self, source: Source) {
        if source == Source::Own {
            wait("the screen goes up", || self.screen().0);
        }
    }

    /// Of a flood that has ended, some were handled and counted under `reason`, most were kept out; and the screen goes.
    fn assert_kept_out(&self, reason: &str, before: u64, source: Source, dropped: u64, sent: Flooded) {
        let handled = self.b.drops(reason) - before;
        println!("  {handled} handled of {sent:?}");
        assert!(handled > 0 && handled as f64 <= may_be_handled(sent), "{handled} of {sent:?}");
        assert!(source != Source::Own || self.screen().1 > dropped, "{}", self.b.status());
        wait("the screen goes down", || !self.screen().0);
    }

    fn screen(&self) -> (bool, u64) {
        let status = self.b.status();
        let screen = &status["screen"];
        assert_eq!(screen["refused"], 0, "{status}");
        (screen["up"].as_bool().unwrap(), screen["dropped"].as_u64().unwrap())
    }
}

/// Ends a flood that has lasted long enough to tell.
fn stop(flooding: Flooding, begun: Instant) -> Flooded {
    thread::sleep(LEAST.saturating_sub(begun.elapsed()));
    flooding.stop().unwrap()
}

fn may_be_handled(sent: Flooded) -> f64 {
    HANDLED * (sent.elapsed.as_secs_f64() + 1.0)
}

/// A pod that was not there before, and asks in the midst of a flood: the program in it, and how long it took from its
/// first packet to the answer.
fn newcomer(cluster: &Cluster, pods: &Talking, pod: &Pod) -> (Running, Duration) {
    let running = cluster.up(pod, "");
    let to = SocketAddr::new(cluster.b.v4(), HTTP);
    let asked = Instant::now();
    while http_get(pod.netns(), to, "shop", CANARY, LIMIT).is_err() {
        assert!(asked.elapsed() < LIMIT, "the newcomer gets no answer: {}", running.status());
    }
    let took = asked.elapsed();
    if took > Duration::from_secs(1) {
        println!("  late: {}, {}", running.status()["drops"], pods.b.status()["drops"]);
    }
    (running, took)
}

fn begin() -> (Cluster, Probe, Talking) {
    let cluster = Cluster::on_one_node();
    let probe = cluster.probe();
    cluster.control(&probe, [cluster.b.v4()]);
    let talking = Talking::start(&cluster);
    probe.reset();
    (cluster, probe, talking)
}

#[test]
fn a_flood_with_a_wrong_key_is_kept_out_and_sessions_and_newcomers_live_on() {
    test("a_flood_with_a_wrong_key_is_kept_out_and_sessions_and_newcomers_live_on", || {
        let (cluster, probe, pods) = begin();
        pods.assert_passes(&cluster);
        let before = resident(&pods.b);
        let kinds = [
            (cluster.b.v4(), Source::Own, Some(SEEN)),
            (cluster.b.v6(), Source::Own, Some(SEEN)),
            (cluster.b.v4(), nobody(), None),
        ];
        for (number, (to, source, rate)) in kinds.into_iter().enumerate() {
            let (mac1, dropped) = (pods.b.drops("mac1"), pods.screen().1);
            let flooding = flood(to, TUNNEL_PORT, &wrong_key(), source, rate);
            let (begun, flooding) = (Instant::now(), flooding.start(pods.outsider.netns()).unwrap());
            pods.wait_screened(source);
            pods.assert_passes(&cluster);
            let pod = cluster.pod(40 + number as u8);
            let (_running, took) = newcomer(&cluster, &pods, &pod);
            // And sessions there are already are replaced by others.
            for step in ["add", "activate"] {
                let key = OsString::from(&cluster.key_file);
                assert!(cluster.tencrypt(["rotate".into(), step.into(), key]).status.success());
            }
            let epoch = 2 + number as u64;
            let replaced = wait("sessions under the next epoch", || {
                cluster.say_canary(cluster.b.v4());
                pods.a.status()["peers"][0]["epoch"] == epoch
            });
            let sent = stop(flooding, begun);
            println!(
                "{source:?} to {to}: {:.0} a second, newcomer after {took:.0?}, rekeyed after {replaced:.0?}",
                sent.rate()
            );
            pods.assert_kept_out("mac1", mac1, source, dropped, sent);
        }
        let grown = resident(&pods.b).saturating_sub(before);
        println!("{before} KiB before, {grown} KiB more after");
        assert!(grown < GROWTH, "{grown} KiB more than the {before} before");
        pods.assert_passes(&cluster);
        probe.assert_only_encrypted();
    });
}

#[test]
fn a_genuine_init_repeated_from_everywhere_is_kept_out_as_well() {
    test("a_genuine_init_repeated_from_everywhere_is_kept_out_as_well", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe_with(cluster.watch().keep(Keep { frames: 64, bytes: 2_048 }));
        cluster.control(&probe, [cluster.b.v4()]);
        let pods = Talking::start(&cluster);
        let kept = probe.report().kept;
        let init = kept.iter().find_map(|frame| frame.get(HEADERS..).filter(|it| it[..2] == [1, 1]));
        let init = init.expect("the handshake was seen").to_vec();
        pods.assert_passes(&cluster);
        let before = resident(&pods.b);
        let flooding = flood(cluster.b.v4(), TUNNEL_PORT, &init, nobody(), None);
        let flooding = flooding.start(pods.outsider.netns()).unwrap();
        pods.assert_passes(&cluster);
        let pod = cluster.pod(40);
        let (_running, took) = newcomer(&cluster, &pods, &pod);
        let sent = flooding.stop().unwrap();
        let (replay, limited) = (pods.b.drops("replay"), pods.b.drops("rate_limited"));
        println!(
            "{:.0} a second, newcomer after {took:.0?}; {replay} replay, {limited} rate_limited",
            sent.rate()
        );
        let handled = replay + limited;
        assert!(handled > 0 && handled as f64 <= may_be_handled(sent), "{sent:?}: {}", pods.b.status());
        let grown = resident(&pods.b).saturating_sub(before);
        assert!(grown < GROWTH, "{grown} KiB more than the {before} before");
        assert!(probe.report().is_clean(), "{}", probe.report());
    });
}

#[test]
fn records_of_sessions_that_nobody_has_are_kept_out_and_those_of_sessions_pass() {
    test("records_of_sessions_that_nobody_has_are_kept_out_and_those_of_sessions_pass", || {
        let (cluster, probe, pods) = begin();
        for (source, rate) in [(Source::Own, Some(SEEN)), (nobody(), None)] {
            let (unknown, dropped) = (pods.b.drops("unknown_index"), pods.screen().1);
            let flooding = flood(cluster.b.v4(), TUNNEL_PORT, &unknown_index(), source, rate);
            let (begun, flooding) = (Instant::now(), flooding.start(pods.outsider.netns()).unwrap());
            pods.wait_screened(source);
            pods.assert_passes(&cluster);
            let sent = stop(flooding, begun);
            pods.assert_kept_out("unknown_index", unknown, source, dropped, sent);
        }
        probe.assert_only_encrypted();
    });
}

/// Throughput in Mbit/s while `flood` runs; and what it sent a second.
fn under(cluster: &Cluster, outsider: &Pod, flood: Flood) -> (f64, f64) {
    let flooding = flood.start(outsider.netns()).unwrap();
    // What waits in the socket's buffer before the screen is up is over by then.
    thread::sleep(SLICE / 3);
    let moved = throughput(cluster.a.netns(), SocketAddr::new(cluster.b.v4(), TCP), SLICE);
    let sent = flooding.stop().unwrap();
    (moved.map_or(0.0, |moved| moved.mbit_per_s()), sent.rate())
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Asserts nothing of speed: what it prints is for a quiet machine and many rounds.
#[test]
fn throughput_under_a_flood_beside_that_of_a_closed_port() {
    let rounds = std::env::var("TENCRYPT_TEST_FLOOD").ok().and_then(|rounds| rounds.parse().ok());
    let rounds: usize = rounds.unwrap_or(ROUNDS).max(1);
    let limit = Duration::from_secs(120 + 16 * rounds as u64);
    test_within("throughput_under_a_flood_beside_that_of_a_closed_port", limit, || {
        let cluster = Cluster::on_one_node();
        let pods = Talking::start(&cluster);
        let to = cluster.b.v4();
        let kinds = [
            ("wrong key, own address, in trains", wrong_key(), Source::Own),
            ("wrong key, made-up addresses", wrong_key(), nobody()),
            ("no such session, own address, in trains", unknown_index(), Source::Own),
            ("no such session, made-up addresses", unknown_index(), nobody()),
        ];
        for (name, payload, source) in kinds {
            let at = |port, rate| under(&cluster, &pods.outsider, flood(to, port, &payload, source, rate));
            // As fast as the sender can with the tenant's port before it; then the same at both.
            let (_, full) = at(TUNNEL_PORT, None);
            let rate = Some((full * 0.9) as u32);
            let (mut port, mut closed, mut rates) = (Vec::new(), Vec::new(), [0.0; 2]);
            for round in 0..rounds {
                let one = |into: &mut Vec<f64>, rates: &mut f64, port| {
                    let (moved, sent) = at(port, rate);
                    into.push(moved);
                    *rates += sent / rounds as f64;
                };
                if round % 2 == 0 {
                    one(&mut port, &mut rates[0], TUNNEL_PORT);
                    one(&mut closed, &mut rates[1], CLOSED);
                } else {
                    one(&mut closed, &mut rates[1], CLOSED);
                    one(&mut port, &mut rates[0], TUNNEL_PORT);
                }
            }
            let ratios = port.iter().zip(&closed).map(|(port, closed)| port / closed.max(1.0)).collect();
            let [low, middle, high] = quartiles(ratios);
            let sum = |values: &[f64]| values.iter().sum::<f64>();
            println!(
                "{name}: {:.0} and {:.0} k datagrams/s; {:.0} Mbit/s at the port, {:.0} at a closed one: of the sums {:.2}, \
                 of {rounds} pairs {middle:.2} ({low:.2} to {high:.2})",
                rates[0] / 1e3,
                rates[1] / 1e3,
                sum(&port) / rounds as f64,
                sum(&closed) / rounds as f64,
                sum(&port) / sum(&closed).max(1.0),
            );
        }
        pods.assert_passes(&cluster);
        println!("drops {}, screen {:?}", pods.b.status()["drops"], pods.screen());
    });
}
