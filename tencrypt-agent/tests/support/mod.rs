//! Fixtures of the end-to-end tests: two pods of one tenant in a network, the program running in them, and the leak
//! probe on every node.

#![expect(dead_code, reason = "each test binary uses a part")]

pub(crate) mod agent;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set};
use serde_json::Value;
use tencrypt_lab as lab;
use tencrypt_lab::{Finished, HttpServer, Mac, Node, Pod, Ports, Program, Report, Signal, Sniffer, Watch};

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tencrypt");
/// Plaintext that no frame may show.
pub(crate) const CANARY: &str = "canary-7f3a90c1e5";
/// Longest wait for anything that works.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Port at which pod `b` answers HTTP.
pub(crate) const HTTP: u16 = 8080;
/// The protected ranges: pods and services, of both families.
pub(crate) const PROTECTED: &str = r#"["10.128.0.0/14", "172.30.0.0/16", "fd00:128::/64", "fd00:30::/64"]"#;

/// Tells the threads beside a test that it is over when it is dropped, also by a panic.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A network with two pods of the project `shop`, in which nothing is encrypted yet.
///
/// Use it in the body of [`lab::test`]. Its directory goes when it is dropped.
pub(crate) struct Cluster {
    /// A pod of the tenant on the first node.
    pub(crate) a: Pod,
    /// The other, on the last node; answers HTTP at [`HTTP`].
    pub(crate) b: Pod,
    /// The nodes: `br0` is in their namespaces.
    pub(crate) nodes: Vec<Node>,
    /// MTU of the pods' `eth0`, bytes.
    pub(crate) mtu: u32,
    /// The tenant's key file.
    pub(crate) key_file: PathBuf,
    /// A directory of this cluster's own.
    pub(crate) directory: PathBuf,
    guard: Mutex<Option<Guard>>,
    _http: HttpServer,
}

impl Cluster {
    /// Two pods on one bridge, MTU 1500.
    pub(crate) fn on_one_node() -> Self {
        let node = near_node();
        Self::new(vec![node], lab::PLAIN_MTU)
    }

    /// A pod each on two nodes joined by VXLAN, MTU 1450.
    pub(crate) fn on_two_nodes() -> Self {
        let near = near_node();
        let far = Node::new("10.128.2.1/14".parse().unwrap(), "fd00:128::2:1/64".parse().unwrap()).unwrap();
        lab::join(&near, &far).unwrap();
        Self::new(vec![near, far], lab::VXLAN_MTU)
    }

    /// A pod each on two nodes, MTU 1450, which are of different networks in IPv4: what they send each other passes the
    /// first node's routes, there and back.
    pub(crate) fn on_two_routed_nodes() -> Self {
        let near = Node::new("10.128.0.1/24".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap();
        let far = Node::new("10.128.2.1/24".parse().unwrap(), "fd00:128::2:1/64".parse().unwrap()).unwrap();
        lab::join(&near, &far).unwrap();
        near.add_address("10.128.2.254/24".parse().unwrap()).unwrap();
        far.add_route("10.128.0.0/24".parse().unwrap(), [10, 128, 2, 254].into()).unwrap();
        Self::new(vec![near, far], lab::VXLAN_MTU)
    }

    fn new(nodes: Vec<Node>, mtu: u32) -> Self {
        let directory = std::env::temp_dir().join(format!("tencrypt-e2e-{}", std::process::id()));
        // Of a killed test whose process had the same number.
        let _ = fs::remove_dir_all(&directory);
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let key_file = directory.join("tenant.key");
        let a = pod(&nodes[0], 21, mtu);
        let b = pod(&nodes[nodes.len() - 1], 22, mtu);
        let http = HttpServer::start(&b, HTTP, format!("Set-Cookie: {CANARY}")).unwrap();
        let guard = Mutex::default();
        let cluster = Self { a, b, nodes, mtu, key_file, directory, guard, _http: http };
        cluster.genkey("tenant.key");
        cluster.start_guard();
        cluster
    }

    /// Makes a key file in the cluster's directory: another tenant's, if it is not called `tenant.key`.
    pub(crate) fn genkey(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        let made = self.tencrypt(["genkey".into(), path.clone().into_os_string()]);
        assert!(made.status.success(), "{made:?}");
        path
    }

    /// A further pod on the first node, such as one of another project; `number` is the last part of its addresses
    /// and not 21 or 22.
    pub(crate) fn pod(&self, number: u8) -> Pod {
        pod(&self.nodes[0], number, self.mtu)
    }

    /// Puts a service in front of pod `b`, on all nodes, for every port and protocol: IPv4 and IPv6 address of it.
    pub(crate) fn service(&self, number: u8) -> [IpAddr; 2] {
        let service = [
            IpAddr::from([172, 30, 0, number]),
            Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, number.into()).into(),
        ];
        for node in &self.nodes {
            for (address, backend) in service.into_iter().zip(self.b.addresses()) {
                node.service(address, &[backend], &Ports::All).unwrap();
            }
        }
        service
    }

    /// Writes the configuration and runs `tencrypt up` in a pod; returns once it is ready.
    ///
    /// `extra` is TOML. Where it has a `[tenant]`, `[network]` or `[dns]` of its own, that replaces the default one:
    /// the project `shop` with the tenant's key, the protected ranges, DNS not captured.
    pub(crate) fn up(&self, pod: &Pod, extra: &str) -> Running {
        let running = self.start(pod, extra);
        if let Err(error) = running.program.wait_ready(LIMIT) {
            panic!("not ready: {error}\n{}", running.log());
        }
        self.expect_silence(pod);
        running
    }

    /// [`Cluster::up`] without waiting for `ready`.
    pub(crate) fn start(&self, pod: &Pod, extra: &str) -> Running {
        self.start_named(pod, &pod.netns().path(), extra)
    }

    /// [`Cluster::start`] with the namespace of the pod given by another name.
    pub(crate) fn start_named(&self, pod: &Pod, netns: &Path, extra: &str) -> Running {
        let netns = netns.to_owned();
        let config = self.directory.join(format!("{}.toml", pod.v4()));
        fs::write(&config, self.configuration(extra)).unwrap();
        let arguments: [OsString; 5] =
            ["up".into(), "--netns".into(), netns.clone().into(), "--config".into(), config.into()];
        let program =
            Program::start(Path::new("/usr/bin/env"), command(self.variable(), arguments), None).unwrap();
        Running { program, netns, variable: self.variable() }
    }

    /// The text that [`Cluster::up`] writes.
    pub(crate) fn configuration(&self, extra: &str) -> String {
        // `TENCRYPT_TEST_OFFLOAD=none` runs the whole suite without offload.
        let offload = std::env::var("TENCRYPT_TEST_OFFLOAD")
            .ok()
            .filter(|_| !extra.contains("offload ="))
            .map_or(String::new(), |offload| format!("offload = \"{offload}\"\n"));
        // `TENCRYPT_TEST_LANES=2` runs it with two lanes.
        let lanes = match lanes() {
            1 => String::new(),
            _ if extra.contains("lanes = ") => String::new(),
            lanes => format!("lanes = {lanes}\n"),
        };
        let extra = &extra.replace("[network]\n", &format!("[network]\n{offload}{lanes}"));
        let defaults = [
            ("[tenant]", format!("project = \"shop\"\nkey_file = \"{}\"\n", self.key_file.display())),
            ("[network]", format!("protected = {PROTECTED}\n{offload}{lanes}")),
            ("[dns]", "capture = false\n".to_owned()),
        ];
        let own = |section: &str| extra.lines().any(|line| line.trim() == section);
        let mut text = String::new();
        for (section, content) in defaults {
            if !own(section) {
                text.push_str(&format!("{section}\n{content}"));
            }
        }
        text + extra
    }

    /// Runs the program to its end with these arguments.
    pub(crate) fn tencrypt(&self, arguments: impl IntoIterator<Item = OsString>) -> Finished {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        if arguments.first().is_some_and(|command| command == "down") {
            self.judge();
        }
        run(self.variable(), arguments)
    }

    /// `tencrypt down` of a pod.
    pub(crate) fn down(&self, pod: &Pod) -> Finished {
        self.tencrypt(["down".into(), "--netns".into(), pod.netns().path().into()])
    }

    /// Starts the leak probe: on every node, for the pods `a` and `b`.
    pub(crate) fn probe(&self) -> Probe {
        self.probe_also([])
    }

    /// [`Cluster::probe`] for these addresses of the tenant as well, such as a service's.
    pub(crate) fn probe_also(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Probe {
        self.probe_with(addresses.into_iter().fold(self.watch(), Watch::address))
    }

    /// The frames that the leak probe looks for.
    pub(crate) fn watch(&self) -> Watch {
        Watch::new([&self.a, &self.b], CANARY.as_bytes()).lanes(lanes())
    }

    /// [`Cluster::probe`] for what `watch` says.
    pub(crate) fn probe_with(&self, watch: Watch) -> Probe {
        self.excuse();
        self.sniff(watch)
    }

    fn sniff(&self, watch: Watch) -> Probe {
        let start = |node: &Node| Sniffer::start(node.netns(), watch.clone()).unwrap();
        Probe { sniffers: self.nodes.iter().map(start).collect() }
    }

    /// Sends the canary from `a` to pod `b`, at an address of `b`'s or of a service before it, and back: over TCP.
    pub(crate) fn say_canary(&self, to: IpAddr) {
        let body = lab::http_get(self.a.netns(), SocketAddr::new(to, HTTP), "shop", CANARY, LIMIT).unwrap();
        assert!(String::from_utf8_lossy(&body).contains(CANARY), "{to}: another answer");
    }

    /// The leak probe's positive control, before any [`Cluster::up`]: it sees the canary on its way to each of these
    /// addresses, and takes it for a leak. The probe has forgotten it afterwards.
    pub(crate) fn control(&self, probe: &Probe, addresses: impl IntoIterator<Item = IpAddr>) {
        for to in addresses {
            self.say_canary(to);
            let report = probe.report();
            assert!(report.canary > 0 && report.leaks > 0, "{to}: the probe is blind: {report}");
            probe.reset();
        }
    }

    /// Starts the leak probe that a test has without a word, unless it starts one of its own: whatever a pod sends to the other
    /// from the `ready` of [`Cluster::up`] until `tencrypt down`, or the end of the test, is encrypted. Before, it is seen.
    fn start_guard(&self) {
        let watch = Watch::new([&self.a, &self.b], b"").lanes(lanes());
        let guard = Guard { probe: self.sniff(watch), since: BTreeMap::new() };
        self.say_canary(self.b.v4());
        let report = guard.probe.report();
        for pod in [&self.a, &self.b] {
            assert!(report.last_plain.contains_key(&pod.mac()), "the guard is blind: {report}");
        }
        *self.guard() = Some(guard);
    }

    fn guard(&self) -> MutexGuard<'_, Option<Guard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the guard: the test has a probe of its own, or is one in which a pod has to speak in plain.
    pub(crate) fn excuse(&self) {
        *self.guard() = None;
    }

    /// From now on the pod sends nothing in plain to the other.
    pub(crate) fn expect_silence(&self, pod: &Pod) {
        if let Some(guard) = &mut *self.guard() {
            guard.since.entry(pod.mac()).or_insert_with(SystemTime::now);
        }
    }

    /// Panics if a pod has sent something in plain while it was protected, which it is no longer.
    pub(crate) fn judge(&self) {
        let Some(guard) = &mut *self.guard() else { return };
        let since = std::mem::take(&mut guard.since);
        if since.is_empty() {
            return;
        }
        let report = guard.probe.report();
        assert_eq!(report.lost, 0, "the guard was too slow: {report}");
        for (sender, ready) in since {
            let last = report.last_plain.get(&sender);
            assert!(
                last.is_none_or(|last| *last < ready),
                "in plain since `ready`, by {sender:02x?}: {report}"
            );
        }
    }

    /// The run directory, as env(1) takes it.
    fn variable(&self) -> OsString {
        let mut variable = OsString::from("TENCRYPT_RUN_DIR=");
        variable.push(self.directory.join("run"));
        variable
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nothing depends on it any more.
        let _ = fs::remove_dir_all(&self.directory);
        if !std::thread::panicking() {
            self.judge();
        }
    }
}

/// The leak probe of a test that has none of its own.
struct Guard {
    probe: Probe,
    /// The pods that are protected, by their Ethernet addresses, and from when on.
    since: BTreeMap<Mac, SystemTime>,
}

/// A `tencrypt up`; killed when dropped.
pub(crate) struct Running {
    /// The process.
    pub(crate) program: Program,
    netns: PathBuf,
    variable: OsString,
}

impl Running {
    /// `tencrypt status --json`.
    pub(crate) fn status(&self) -> Value {
        self.ask(&["status", "--json"])
    }

    /// `tencrypt peers --json`.
    pub(crate) fn peers(&self) -> Value {
        self.ask(&["peers", "--json"])["peers"].take()
    }

    /// `tencrypt status` of the namespace called `netns`.
    pub(crate) fn status_by(&self, netns: &Path) -> Finished {
        run(self.variable.clone(), ["status".into(), "--netns".into(), netns.into()])
    }

    /// One of the counters in `packets` of the status.
    pub(crate) fn packets(&self, name: &str) -> u64 {
        let status = self.status();
        status["packets"][name].as_u64().unwrap_or_else(|| panic!("no packets.{name} in {status}"))
    }

    /// Number of packets dropped for this reason.
    pub(crate) fn drops(&self, reason: &str) -> u64 {
        let status = self.status();
        status["drops"][reason].as_u64().unwrap_or_else(|| panic!("no drops.{reason} in {status}"))
    }

    /// The JSON that `tencrypt ARGUMENTS --netns POD` prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let [command_name, rest @ ..] = arguments else { panic!("no subcommand") };
        let netns = self.netns.clone().into_os_string();
        let all = [OsString::from(command_name), "--netns".into(), netns].into_iter();
        let finished = run(self.variable.clone(), all.chain(rest.iter().map(OsString::from)));
        assert!(finished.status.success(), "{arguments:?}: {finished:?}\n{}", self.log());
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", finished.stdout))
    }

    /// Ends it as its operator would, by SIGTERM.
    pub(crate) fn stop(mut self) -> Finished {
        self.program.signal(Signal::Term).unwrap();
        self.program.wait(LIMIT).unwrap()
    }

    /// Everything it has printed, for messages.
    pub(crate) fn log(&self) -> String {
        format!("--- stdout\n{}--- stderr\n{}", self.program.stdout(), self.program.stderr())
    }
}

/// The leak probe on all nodes.
pub(crate) struct Probe {
    sniffers: Vec<Sniffer>,
}

impl Probe {
    /// Frames seen since the last [`Probe::reset`], once the network is silent; frames on two nodes count twice.
    pub(crate) fn report(&self) -> Report {
        for sniffer in &self.sniffers {
            assert!(sniffer.settle(Duration::from_millis(100), LIMIT), "frames without end");
        }
        self.so_far()
    }

    /// [`Probe::report`] while the network is not silent: of the frames that have been looked at.
    pub(crate) fn so_far(&self) -> Report {
        let mut sum = Report::default();
        for report in self.sniffers.iter().map(Sniffer::report) {
            sum.frames += report.frames;
            sum.bytes += report.bytes;
            sum.canary += report.canary;
            sum.tunnel += report.tunnel;
            sum.leaks += report.leaks;
            sum.lost += report.lost;
            sum.leaked.extend(report.leaked);
            for (sender, at) in report.last_plain {
                let last = sum.last_plain.entry(sender).or_insert(at);
                *last = (*last).max(at);
            }
            sum.kept.extend(report.kept);
        }
        sum
    }

    /// Forgets what was seen.
    pub(crate) fn reset(&self) {
        self.sniffers.iter().for_each(Sniffer::reset);
    }

    /// Panics unless the tenant talked since the last [`Probe::reset`], and all of it was encrypted.
    pub(crate) fn assert_only_encrypted(&self) {
        let report = self.report();
        assert!(report.is_clean(), "{report}");
        assert!(report.tunnel > 0, "nothing of the tenant was on the wire: {report}");
    }
}

/// Lanes of every pod whose test says nothing else.
pub(crate) fn lanes() -> u8 {
    std::env::var("TENCRYPT_TEST_LANES").ok().and_then(|lanes| lanes.parse().ok()).unwrap_or(1)
}

/// Waits until something has happened.
pub(crate) fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Number of rounds of a test: `default`, or what the variable says.
pub(crate) fn rounds(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// Random numbers that a seed repeats: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014).
pub(crate) struct Random(u64);

impl Random {
    /// From `TENCRYPT_TEST_SEED`, else from the clock; prints the seed, which a failed test shows.
    pub(crate) fn seeded() -> Self {
        let said = std::env::var("TENCRYPT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as u64);
        let seed = said.unwrap_or_else(clock);
        println!("TENCRYPT_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number less than `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// One of them, all as likely.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Any time up to `limit`, to the microsecond.
    pub(crate) fn up_to(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as usize + 1) as u64)
    }
}

fn near_node() -> Node {
    Node::new("10.128.0.1/14".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap()
}

fn pod(node: &Node, number: u8, mtu: u32) -> Pod {
    let [_, _, third, _] = node.gateway().0.octets();
    let v6 = Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, third.into(), number.into());
    node.pod(Ipv4Addr::new(10, 128, third, number), v6, mtu).unwrap()
}

fn run(variable: OsString, arguments: impl IntoIterator<Item = OsString>) -> Finished {
    lab::run_program(Path::new("/usr/bin/env"), command(variable, arguments), None, LIMIT).unwrap()
}

/// Arguments of env(1), which becomes the program: one process throughout.
fn command(variable: OsString, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    [variable, PROGRAM.into()].into_iter().chain(arguments).collect()
}

/// Leaves these capabilities alone to the programs that this thread starts from now on, root's or not: what execve(2) gives to
/// uid 0 is what the thread's bounding set has (capabilities(7)).
pub(crate) fn leave_to_programs(rights: CapabilitySet) {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !rights.contains(capability) && capability_is_in_bounding_set(capability) == Ok(true) {
            remove_capability_from_bounding_set(capability).unwrap();
        }
    }
}
