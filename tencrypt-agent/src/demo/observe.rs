//! The steps, and what has to be seen in each.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tencrypt_lab::{
    self as lab, Binding, Keep, Ping, Pod, Program, Report as Seen, Snapshot, Sniffer, Watch,
};

use super::{
    cluster::{API_NAME, BULK, Cluster, ECHO, OTHER_SECRET, SECRET, WEB, WEB_NAME},
    observation::{Observation, Options, Unseen},
    report::{Measured, Report},
};
use crate::failure::Failure;

/// Longest wait for what works.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// Wait for an answer that must not come. Plain answers take well under a millisecond.
const SILENCE: Duration = Duration::from_millis(400);
/// Time that the bridge has to be quiet before the sniffer's report counts as complete.
const QUIET: Duration = Duration::from_millis(80);
/// Time that one stream sends.
const STREAM: Duration = Duration::from_millis(1000);
/// Time that `status` may lag behind the kernel's counters: it takes them over once a second.
const COUNTED: Duration = Duration::from_secs(4);
/// Bytes of a frame that are shown.
const SHOWN: usize = 96;

const FIGURE: &str = "\
tencrypt demo, in namespaces of its own: nothing outside of them is touched

   project shop                   project other     no project
   client         web             api               intruder
   10.128.0.20    10.128.0.21     10.128.0.31       10.128.0.66
       |              |               |                 |
   ----+--------------+------ br0 ----+-----------------+----
                               |
                            sniffer
   services: web.shop 172.30.0.10, api.other 172.30.0.20, DNS 172.30.0.53
";

/// Runs all steps in their order; the first observation that fails ends them.
pub(super) fn everything(options: Options, report: &mut Report) -> Result<(), Failure> {
    report.plain(FIGURE);
    let cluster = Cluster::build()
        .map_err(|error| Failure::runtime(format_args!("demo: the network cannot be built: {error}")))?;
    let mut stage = Stage { cluster, spoil: options.spoil, report };
    let plain = stage.without()?;
    let before = stage.snapshots()?;
    let running = stage.with()?;
    stage.others()?;
    stage.intruder()?;
    stage.bypass()?;
    stage.speed(plain)?;
    stage.down(running, &before)?;
    Ok(())
}

/// The cluster, and what is spoilt in it.
struct Stage<'r> {
    cluster: Cluster,
    spoil: Option<Observation>,
    report: &'r mut Report,
}

/// One stream and round trips.
#[derive(Debug, Clone, Copy)]
struct Speed {
    mbit_s: f64,
    ping_ms: f64,
}

impl Stage<'_> {
    fn without(&mut self) -> Result<Speed, Unseen> {
        const HERE: Observation = Observation::Readable;
        self.report.step("Without tencrypt, the sniffer reads along");
        let cluster = &self.cluster;
        let sniffer = self.sniffer(HERE)?;
        let secret = if self.spoil == Some(HERE) { "nothing of interest" } else { SECRET };
        let address = self.look_up(HERE, "web", cluster.web_service)?;
        let mut shown = None;
        for to in [address, cluster.web.v4(), cluster.web.v6()] {
            self.get(HERE, to, secret)?;
            let seen = settled(HERE, &sniffer)?;
            check(HERE, seen.canary > 0, || {
                format!("the request to {to} crossed br0, but the sniffer did not find `{SECRET}`: {seen}")
            })?;
            shown = shown.or_else(|| excerpt_of_request(&seen));
            sniffer.reset();
        }
        let shown =
            shown.ok_or_else(|| unseen(HERE, "the sniffer kept no frame with the request".to_owned()))?;
        self.report.show(&shown);
        self.report.observed(
            HERE,
            format!("`{SECRET}`, by the name web ({address}) and by the pod's IPv4 and IPv6 addresses"),
        );
        self.controls(&sniffer)?;
        // Sniffing at this rate would measure the sniffer.
        drop(sniffer);
        self.measure()
    }

    /// Checks that what is to be refused later works now: else its refusal would show nothing.
    fn controls(&self, sniffer: &Sniffer) -> Result<(), Unseen> {
        let cluster = &self.cluster;
        for to in cluster.web.addresses() {
            let attempt = attempt(&cluster.intruder, to)?;
            check(Observation::Intruder, attempt.is_heard(), || {
                format!("before there is any encryption the intruder cannot reach {to}: {attempt:?}")
            })?;
        }
        sniffer.reset();
        evade(cluster, Binding::Device)?;
        let seen = settled(Observation::Bypass, sniffer)?;
        check(Observation::Bypass, seen.canary > 0, || {
            format!("before there is any encryption a datagram bound to eth0 is not on br0: {seen}")
        })
    }

    fn snapshots(&self) -> Result<[Snapshot; 2], Unseen> {
        let take = |pod: &Pod| Snapshot::take(pod.netns()).map_err(in_(Observation::Restored));
        Ok([take(&self.cluster.client)?, take(&self.cluster.web)?])
    }

    fn with(&mut self) -> Result<Vec<Program>, Unseen> {
        const HERE: Observation = Observation::Unreadable;
        self.report.step("With `tencrypt up` in the pods of shop, it reads nothing");
        let cluster = &self.cluster;
        let key = cluster.genkey().map_err(in_(HERE))?;
        check(HERE, key.status.success(), || format!("genkey: {}", key.stderr.trim()))?;
        let mut running = Vec::new();
        if self.spoil != Some(HERE) {
            for (pod, spoilt) in
                [(&cluster.client, Observation::Bypass), (&cluster.web, Observation::Intruder)]
            {
                let enforce = self.spoil != Some(spoilt);
                running.push(cluster.up(pod, enforce).map_err(in_(HERE))?);
            }
        }
        for program in &running {
            program.wait_ready(STEP_LIMIT).map_err(|error| {
                let said = program.stderr();
                unseen(HERE, format!("`tencrypt up` is not ready: {error}; it says: {}", said.trim()))
            })?;
        }
        let sniffer = self.sniffer(HERE)?;
        let address = self.look_up(HERE, "web", cluster.web_service)?;
        let (mut shown, mut records) = (None, 0);
        for to in [address, cluster.web.v4(), cluster.web.v6()] {
            self.get(HERE, to, SECRET)?;
            let seen = settled(HERE, &sniffer)?;
            check(HERE, seen.is_clean(), || format!("the request to {to} can be seen: {seen}"))?;
            check(HERE, seen.tunnel > 0, || format!("nothing was on the bridge for {to}: {seen}"))?;
            records += seen.tunnel;
            shown = shown.or_else(|| excerpt_of_record(&seen));
            sniffer.reset();
        }
        self.report.show(&shown.unwrap_or_default());
        let peers = cluster.ask(&cluster.client, "peers").map_err(in_(HERE))?;
        check(HERE, peers.status.success(), || format!("peers: {}", peers.stderr.trim()))?;
        self.report.show(&format!("$ tencrypt peers --netns client\n{}", peers.stdout));
        self.report.observed(
            HERE,
            format!("the same three requests answered; {records} frames of UDP 8362 between pods of shop, no other"),
        );
        Ok(running)
    }

    fn others(&mut self) -> Result<(), Unseen> {
        const HERE: Observation = Observation::OtherProject;
        self.report.step("The other project is reached as before");
        if self.spoil == Some(HERE) {
            self.cluster.api_server = None;
        }
        let cluster = &self.cluster;
        let watch = Watch::new([], OTHER_SECRET.as_bytes());
        let sniffer = Sniffer::start(cluster.node.netns(), watch).map_err(in_(HERE))?;
        let address = self.look_up(HERE, API_NAME, cluster.api_service)?;
        self.get(HERE, address, OTHER_SECRET)?;
        let seen = settled(HERE, &sniffer)?;
        check(HERE, seen.canary > 0, || format!("answered, but not in plain: {seen}"))?;
        self.report.observed(HERE, format!("{API_NAME} ({address}) answered, in plain"));
        Ok(())
    }

    fn intruder(&mut self) -> Result<(), Unseen> {
        const HERE: Observation = Observation::Intruder;
        self.report.step("An intruder's plaintext is refused");
        let cluster = &self.cluster;
        let (heard, counted) = (cluster.echo.received(), self.counted(HERE, &cluster.web, "plain_in")?);
        for to in cluster.web.addresses() {
            let attempt = attempt(&cluster.intruder, to)?;
            check(HERE, attempt.is_refused(), || format!("{to} answers the intruder: {attempt:?}"))?;
        }
        let reached = cluster.echo.received() - heard;
        check(HERE, reached == 0, || format!("{reached} of its datagrams reached the application in web"))?;
        let refused = self.wait_counted(HERE, &cluster.web, "plain_in", counted)?;
        self.report.observed(
            HERE,
            format!("no answer to TCP, UDP and ping over IPv4 and IPv6; web refused {refused} packets"),
        );
        Ok(())
    }

    fn bypass(&mut self) -> Result<(), Unseen> {
        const HERE: Observation = Observation::Bypass;
        let cluster = &self.cluster;
        let counted = self.counted(HERE, &cluster.client, "leak")?;
        let sniffer = self.sniffer(HERE)?;
        for &binding in Binding::EVASIONS {
            evade(cluster, binding)?;
        }
        let seen = settled(HERE, &sniffer)?;
        check(HERE, seen.is_clean(), || {
            format!("datagrams of sockets bound to eth0 left the pod in plain: {seen}")
        })?;
        let refused = self.wait_counted(HERE, &cluster.client, "leak", counted)?;
        self.report.observed(
            HERE,
            format!("sockets of client bound to eth0 in {} ways: client refused {refused} packets", {
                Binding::EVASIONS.len()
            }),
        );
        Ok(())
    }

    fn speed(&mut self, plain: Speed) -> Result<(), Unseen> {
        self.report.step("Throughput, both pods on this machine");
        if self.spoil == Some(Observation::Throughput) {
            self.cluster.bulk_server = None;
        }
        let encrypted = self.measure()?;
        self.report.measured(Measured {
            plain_mbit_s: plain.mbit_s,
            encrypted_mbit_s: encrypted.mbit_s,
            plain_ping_ms: plain.ping_ms,
            encrypted_ping_ms: encrypted.ping_ms,
        });
        self.report.observed(
            Observation::Throughput,
            format!("{:.0} Mbit/s encrypted, {:.0} plain", encrypted.mbit_s, plain.mbit_s),
        );
        Ok(())
    }

    fn down(&mut self, running: Vec<Program>, before: &[Snapshot; 2]) -> Result<(), Unseen> {
        const HERE: Observation = Observation::Restored;
        self.report.step("After `tencrypt down` the pods are as they were");
        let cluster = &self.cluster;
        let pods = [&cluster.client, &cluster.web];
        for (pod, mut program) in pods.into_iter().zip(running) {
            if self.spoil == Some(HERE) {
                continue;
            }
            let down = cluster.ask(pod, "down").map_err(in_(HERE))?;
            check(HERE, down.status.success(), || format!("down: {}", down.stderr.trim()))?;
            let ended = program.wait(STEP_LIMIT).map_err(in_(HERE))?;
            check(HERE, ended.status.success(), || {
                format!("`tencrypt up` ended with {}: {}", ended.status, ended.stderr.trim())
            })?;
        }
        for (pod, earlier) in pods.into_iter().zip(before) {
            let now = Snapshot::take(pod.netns()).map_err(in_(HERE))?;
            let difference = earlier.difference(&now);
            check(HERE, difference.is_empty(), || format!("pod {}: {}", pod.v4(), difference.join("; ")))?;
        }
        self.report.observed(HERE, "devices, addresses, routes, rules, settings and nftables of both pods");
        Ok(())
    }

    fn sniffer(&self, here: Observation) -> Result<Sniffer, Unseen> {
        let cluster = &self.cluster;
        let watch = Watch::new([&cluster.client, &cluster.web], SECRET.as_bytes())
            .address(cluster.web_service)
            .keep(Keep { frames: 64, bytes: 400 });
        Sniffer::start(cluster.node.netns(), watch).map_err(in_(here))
    }

    /// Asks the system's resolver in the pod `client`.
    fn look_up(&self, here: Observation, name: &str, wanted: IpAddr) -> Result<IpAddr, Unseen> {
        let cluster = &self.cluster;
        let found = lab::resolve(cluster.client.netns(), &cluster.resolv_conf(), name, STEP_LIMIT)
            .map_err(|error| unseen(here, format!("{name} has no address: {error}")))?;
        check(here, found == [wanted], || format!("{name} is {found:?}, not {wanted}"))?;
        Ok(wanted)
    }

    /// A request of the application in `client`.
    fn get(&self, here: Observation, to: IpAddr, secret: &str) -> Result<(), Unseen> {
        let (to, from) = (SocketAddr::new(to, WEB), self.cluster.client.netns());
        let body = lab::http_get(from, to, WEB_NAME, secret, STEP_LIMIT)
            .map_err(|error| unseen(here, format!("no answer from {to}: {error}")))?;
        check(here, !body.is_empty(), || format!("an empty answer from {to}"))
    }

    fn measure(&self) -> Result<Speed, Unseen> {
        const HERE: Observation = Observation::Throughput;
        let (from, to) = (self.cluster.client.netns(), self.cluster.web.v4());
        let stream = lab::throughput(from, SocketAddr::new(to, BULK), STREAM).map_err(in_(HERE))?;
        check(HERE, stream.bytes > 0, || "nothing arrived".to_owned())?;
        let ping = Ping { count: 100, interval: Duration::from_millis(5), ..Ping::new(to) };
        let pinged = ping.run(from).map_err(in_(HERE))?;
        check(HERE, pinged.is_complete(), || format!("pings without their reply: {pinged:?}"))?;
        let mean = pinged.mean().ok_or_else(|| unseen(HERE, "no ping was answered".to_owned()))?;
        Ok(Speed { mbit_s: stream.mbit_per_s(), ping_ms: mean.as_secs_f64() * 1e3 })
    }

    /// A counter in `chains` of `status --json`.
    fn counted(&self, here: Observation, pod: &Pod, counter: &str) -> Result<u64, Unseen> {
        let status = self.cluster.status(pod).map_err(in_(here))?;
        status
            .as_ref()
            .and_then(|status| status["chains"][counter].as_u64())
            .ok_or_else(|| unseen(here, format!("`tencrypt status` of {} has no chains.{counter}", pod.v4())))
    }

    /// By how much it has grown, once it has.
    fn wait_counted(&self, here: Observation, pod: &Pod, counter: &str, before: u64) -> Result<u64, Unseen> {
        let end = Instant::now() + COUNTED;
        loop {
            let now = self.counted(here, pod, counter)?;
            if now > before {
                return Ok(now - before);
            }
            check(here, Instant::now() < end, || {
                format!("refused, but chains.{counter} of {} still says {now}", pod.v4())
            })?;
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Answers that a pod got to its plaintext.
#[derive(Debug)]
struct Attempt {
    connected: bool,
    echoed: bool,
    pinged: bool,
}

impl Attempt {
    fn is_heard(&self) -> bool {
        self.connected && self.echoed && self.pinged
    }

    fn is_refused(&self) -> bool {
        !self.connected && !self.echoed && !self.pinged
    }
}

/// TCP, UDP and ICMP, in plain, from a pod.
fn attempt(from: &Pod, to: IpAddr) -> Result<Attempt, Unseen> {
    const HERE: Observation = Observation::Intruder;
    let netns = from.netns();
    let web = SocketAddr::new(to, WEB);
    let lost = lab::udp_echo(netns, SocketAddr::new(to, ECHO), [100], SILENCE).map_err(in_(HERE))?;
    let ping = Ping { count: 1, wait: SILENCE, ..Ping::new(to) }.run(netns).map_err(in_(HERE))?;
    Ok(Attempt {
        connected: netns.run(|| TcpStream::connect_timeout(&web, SILENCE)).is_ok(),
        echoed: lost.is_empty(),
        pinged: ping.replies > 0,
    })
}

/// Plaintext of an application in `client` that chooses the device itself; that the kernel refuses it is what is hoped
/// for.
fn evade(cluster: &Cluster, binding: Binding) -> Result<(), Unseen> {
    for to in cluster.web.addresses() {
        let to = SocketAddr::new(to, ECHO);
        match lab::send_bound(cluster.client.netns(), binding, "eth0", to, SECRET.as_bytes()) {
            Err(error) if error.errno().is_none() => return Err(in_(Observation::Bypass)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn settled(here: Observation, sniffer: &Sniffer) -> Result<Seen, Unseen> {
    check(here, sniffer.settle(QUIET, STEP_LIMIT), || "the bridge does not become quiet".to_owned())?;
    let seen = sniffer.report();
    check(here, seen.lost == 0, || format!("the sniffer missed frames: {seen}"))?;
    Ok(seen)
}

/// The request as the sniffer has it, from its first byte.
fn excerpt_of_request(seen: &Seen) -> Option<String> {
    let request = b"GET ";
    seen.kept.iter().find_map(|frame| {
        let at = frame.windows(request.len()).position(|window| window == request)?;
        Some(lab::hexdump(&frame[at..frame.len().min(at + SHOWN)]))
    })
}

/// The longest record that the sniffer has, from its first byte: the UDP payload over IPv4.
fn excerpt_of_record(seen: &Seen) -> Option<String> {
    /// Ethernet, IPv4 without options, UDP.
    const HEADERS: usize = 14 + 20 + 8;
    /// docs/wire-format.md, section 1.
    const DATA: u8 = 4;
    let is_v4 = |frame: &&Vec<u8>| frame.get(12..14) == Some(&[8, 0]);
    let payloads = seen.kept.iter().filter(is_v4).filter_map(|frame| frame.get(HEADERS..));
    let records = payloads.filter(|payload| payload.first() == Some(&DATA));
    let record = records.max_by_key(|record| record.len())?;
    Some(lab::hexdump(&record[..record.len().min(SHOWN)]))
}

fn check(here: Observation, holds: bool, because: impl FnOnce() -> String) -> Result<(), Unseen> {
    if holds { Ok(()) } else { Err(unseen(here, because())) }
}

fn unseen(observation: Observation, because: String) -> Unseen {
    Unseen { observation, because }
}

fn in_(observation: Observation) -> impl Fn(lab::Error) -> Unseen {
    move |error| unseen(observation, error.to_string())
}
