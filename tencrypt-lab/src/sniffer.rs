//! The leak probe: sees every frame that enters a namespace, counts those that show a tenant's content.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use memchr::memmem::Finder;

use crate::error::{During, Result};
use crate::frame::{Content, Frame, TUNNEL_PORT};
use crate::link::Mac;
use crate::netns::NetNs;
use crate::ring::{Ring, RingFrame};
use crate::topology::Pod;

/// Different leaks listed; more are counted.
const LEAKS_LISTED: usize = 32;
/// Longest wait for frames, milliseconds.
const WAIT: i32 = 20;

/// The traffic that a [`Sniffer`] looks for.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    addresses: BTreeSet<IpAddr>,
    macs: BTreeSet<Mac>,
    canary: Vec<u8>,
    keep: Keep,
    /// Lanes that the tenant's pods have besides their first.
    more_lanes: u16,
    /// Bytes of each frame that are looked at, if not all.
    first: Option<usize>,
}

/// The part that a [`Sniffer`] keeps of the frames between tenant addresses.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "a test says all of it")]
pub struct Keep {
    /// Frames, the first ones.
    pub frames: usize,
    /// Bytes of each, from its Ethernet header.
    pub bytes: usize,
}

impl Watch {
    /// Looks at the traffic of `pods` of one tenant, and for `canary` anywhere in any frame.
    pub fn new<'a>(pods: impl IntoIterator<Item = &'a Pod>, canary: &[u8]) -> Self {
        let mut watch = Self { canary: canary.to_vec(), ..Self::default() };
        for pod in pods {
            watch.addresses.extend(pod.addresses());
            watch.macs.insert(pod.mac());
        }
        watch
    }

    /// Counts `address` to the tenant's, such as one of its services.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.addresses.insert(address);
        self
    }

    /// Keeps frames between tenant addresses, see [`Report::kept`].
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// Lets UDP pass for the tunnel's between the ports of so many lanes: both have to be, since nothing translates them
    /// where port 8362 has no part in it.
    #[must_use]
    pub fn lanes(mut self, lanes: u8) -> Self {
        self.more_lanes = u16::from(lanes).saturating_sub(1);
        self
    }

    /// Looks at the first `bytes` of each frame alone, and looks for no canary behind them: for traffic of gigabytes,
    /// whose frames of 64 KiB would fill the ring while the listener waits for a processor.
    #[must_use]
    pub fn first(mut self, bytes: usize) -> Self {
        self.first = Some(bytes);
        self
    }

    fn is_tunnel(&self, content: Content) -> bool {
        let lanes = TUNNEL_PORT..=TUNNEL_PORT + self.more_lanes;
        content.is_tunnel()
            || matches!(content, Content::Udp { source, destination }
                if lanes.contains(&source) && lanes.contains(&destination))
    }

    /// The leak rule. Between two addresses of the tenant, only UDP from or to port 8362 may be on the wire, or between
    /// ports of [`Watch::lanes`]. To
    /// multicast, broadcast and link-local destinations a tenant's pod sends only what the network itself needs:
    /// ARP, neighbour and router discovery, multicast membership, DHCP; and to link-local ones what is the tunnel's. Traffic to others is not judged.
    pub fn is_leak(&self, frame: &Frame) -> bool {
        if matches!(frame.content, Content::Arp | Content::NeighbourDiscovery) {
            return false;
        }
        let known = |address: &IpAddr| self.addresses.contains(address);
        let from_tenant =
            self.macs.contains(&frame.from_mac) || frame.addresses.is_some_and(|(from, _)| known(&from));
        if self.is_between(frame) {
            return !self.is_tunnel(frame.content);
        }
        if from_tenant && frame.is_local_or_group() {
            let dhcp = matches!(frame.content, Content::Udp { destination: 67 | 547, .. });
            // Where a pod has lost its other addresses.
            let unicast =
                frame.addresses.is_some_and(|(_, to)| !to.is_multicast()) && frame.to_mac[0] & 1 == 0;
            let tunnel = unicast && self.is_tunnel(frame.content);
            return !dhcp && !tunnel && frame.content != Content::Membership;
        }
        let both_macs = self.macs.contains(&frame.from_mac) && self.macs.contains(&frame.to_mac);
        both_macs && frame.addresses.is_none()
    }

    fn is_between(&self, frame: &Frame) -> bool {
        frame
            .addresses
            .is_some_and(|(from, to)| self.addresses.contains(&from) && self.addresses.contains(&to))
    }
}

/// Frames that a [`Sniffer`] saw since its start or its last [`Sniffer::reset`].
///
/// A frame counts on every device it enters: what a port takes in for the node itself or for all counts again on
/// `br0`, and what VXLAN brings counts on the cable and again on `vxlan0`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// Frames.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Frames with the canary in them.
    pub canary: u64,
    /// Frames of the tunnel between tenant addresses: shows that a silent wire is not just an idle one.
    pub tunnel: u64,
    /// Frames that break the rule of [`Watch::is_leak`].
    pub leaks: u64,
    /// The different ones among them, at most 32.
    pub leaked: Vec<Frame>,
    /// The time at which the kernel took in the last frame that had the canary in it or was a leak, by the Ethernet address of
    /// its sender.
    pub last_plain: BTreeMap<Mac, SystemTime>,
    /// Frames the sniffer was too slow for. A report with lost frames proves no absence.
    pub lost: u64,
    /// The first frames between tenant addresses, as far as [`Keep`] says.
    pub kept: Vec<Vec<u8>>,
}

impl Report {
    /// Tells if no frame showed tenant traffic in plain, and none escaped notice.
    pub fn is_clean(&self) -> bool {
        self.canary == 0 && self.leaks == 0 && self.lost == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, bytes, canary, tunnel, leaks, lost, .. } = self;
        write!(f, "{frames} frames ({bytes} bytes), {tunnel} of the tunnel, {canary} with the canary, ")?;
        write!(f, "{leaks} leaks, {lost} lost")?;
        self.leaked.iter().try_for_each(|leak| write!(f, "\n  leak: {leak}"))
    }
}

/// Listens on every device of a namespace, on a thread of its own, until dropped.
pub struct Sniffer {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    watch: Watch,
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

struct Seen {
    report: Report,
    /// From when to when the listening thread has found nothing to read, and looked; `None` after a frame.
    idle: Option<(Instant, Instant)>,
}

impl Sniffer {
    /// Listens in a namespace, mostly a node's: on `br0`, all its ports, VXLAN and what is below; devices made later
    /// included.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel gives no packet socket with a ring of that size.
    pub fn start(netns: &NetNs, watch: Watch) -> Result<Self> {
        let bytes = watch.first.unwrap_or(usize::MAX);
        let ring = netns.run(|| Ring::open(bytes)).during("open a packet socket")?;
        let seen = Mutex::new(Seen { report: Report::default(), idle: None });
        let state = Arc::new(State { watch, seen, stop: AtomicBool::new(false) });
        let thread = thread::spawn({
            let state = Arc::clone(&state);
            move || listen(ring, &state)
        });
        Ok(Self { state, thread: Some(thread) })
    }

    /// Waits until no frame has come for `quiet`; false if that is not so within `limit`.
    pub fn settle(&self, quiet: Duration, limit: Duration) -> bool {
        // Frames wait up to 10 ms in a block that is not full.
        let quiet = quiet.max(Duration::from_millis(50));
        let start = Instant::now();
        while start.elapsed() < limit {
            // Judged by the listening thread's own times, so that it may have been kept waiting for the processor.
            if let Some((from, to)) = self.state.seen().idle
                && to.saturating_duration_since(from.max(start)) >= quiet
            {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Reports the frames seen so far. Call [`Sniffer::settle`] first to have it complete.
    pub fn report(&self) -> Report {
        self.state.seen().report.clone()
    }

    /// Forgets what was seen so far.
    pub fn reset(&self) {
        self.state.seen().report = Report::default();
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed; the report it left behind shows nothing new.
            let _ = thread.join();
        }
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(mut ring: Ring, state: &State) {
    let finder = Finder::new(&state.watch.canary);
    while !state.stop.load(Ordering::Relaxed) {
        let looked = Instant::now();
        let read = ring.read(WAIT, |frame| {
            let shows_canary = !state.watch.canary.is_empty() && finder.find(frame.bytes).is_some();
            note(&mut state.seen().report, &state.watch, &frame, shows_canary);
        });
        match (read, ring.lost()) {
            (Ok(some), Ok(lost)) => {
                let mut seen = state.seen();
                seen.report.lost += lost;
                let since = seen.idle.map_or(looked, |(from, _)| from);
                seen.idle = (!some).then(|| (since, Instant::now()));
            }
            // A device that goes down makes the socket report it once (ENETDOWN).
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn note(report: &mut Report, watch: &Watch, raw: &RingFrame<'_>, shows_canary: bool) {
    report.frames += 1;
    report.bytes += raw.length as u64;
    report.canary += u64::from(shows_canary);
    report.lost += u64::from(raw.bytes.len() < raw.length.min(watch.first.unwrap_or(usize::MAX)));
    let Some(frame) = Frame::parse(raw.bytes) else { return };
    if watch.is_between(&frame) {
        report.tunnel += u64::from(watch.is_tunnel(frame.content));
        if report.kept.len() < watch.keep.frames {
            report.kept.push(raw.bytes[..raw.bytes.len().min(watch.keep.bytes)].to_vec());
        }
    }
    let leaks = watch.is_leak(&frame);
    if leaks || shows_canary {
        report.last_plain.insert(frame.from_mac, raw.at);
    }
    if leaks {
        report.leaks += 1;
        if report.leaked.len() < LEAKS_LISTED && !report.leaked.contains(&frame) {
            report.leaked.push(frame);
        }
    }
}

/// Bytes as a table of 16 a line: offset, hexadecimal, and text where it is printable ASCII.
pub fn hexdump(bytes: &[u8]) -> String {
    let mut lines = String::new();
    for (number, chunk) in bytes.chunks(16).enumerate() {
        let hex: String = chunk.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String =
            chunk.iter().map(|&b| if (0x20..0x7f).contains(&b) { b as char } else { '.' }).collect();
        lines.push_str(&format!("{:04x}  {hex:<48} {text}\n", number * 16));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Mac = [2, 0, 10, 128, 0, 21];

    fn watch() -> Watch {
        let addresses = ["10.128.0.21", "10.128.0.22", "fd00::21", "fd00::22"];
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Watch { addresses, macs: BTreeSet::from([POD]), ..Watch::default() }
    }

    fn frame(from: &str, to: &str, content: Content) -> Frame {
        let addresses = Some((from.parse().unwrap(), to.parse().unwrap()));
        Frame { from_mac: POD, to_mac: [2, 0, 0, 0, 0, 9], addresses, content }
    }

    #[test]
    fn only_the_tunnel_may_run_between_tenant_addresses() {
        let tunnel = Content::Udp { source: 8362, destination: 57085 };
        let plain = Content::Udp { source: 53, destination: 5353 };
        assert!(!watch().is_leak(&frame("10.128.0.21", "10.128.0.22", tunnel)));
        assert!(watch().is_leak(&frame("10.128.0.21", "10.128.0.22", plain)));
        assert!(watch().is_leak(&frame("fd00::21", "fd00::22", Content::Fragment(17))));
        assert!(watch().is_leak(&frame("fd00::21", "fd00::22", Content::Protocol(58))));
        assert!(!watch().is_leak(&frame("fd00::21", "fd00::22", Content::NeighbourDiscovery)));
    }

    #[test]
    fn between_ports_of_lanes_the_tunnel_runs_and_nothing_else() {
        let udp =
            |source, destination| frame("10.128.0.21", "10.128.0.22", Content::Udp { source, destination });
        let two = watch().lanes(2);
        assert!(!two.is_leak(&udp(8363, 8363)) && watch().is_leak(&udp(8363, 8363)));
        for (source, destination) in
            [(8363, 8364), (8364, 8363), (8361, 8363), (8363, 40_000), (40_000, 8363)]
        {
            assert!(two.is_leak(&udp(source, destination)), "{source} > {destination}");
        }
        assert!(two.is_leak(&frame(
            "10.128.0.21",
            "10.128.0.22",
            Content::Tcp { source: 8363, destination: 8363 }
        )));
    }

    #[test]
    fn traffic_to_others_is_not_judged_but_groups_and_link_local_are() {
        let udp = Content::Udp { source: 1000, destination: 2000 };
        assert!(!watch().is_leak(&frame("10.128.0.21", "10.128.0.99", udp)));
        assert!(watch().is_leak(&frame("10.128.0.21", "224.0.0.9", udp)));
        assert!(watch().is_leak(&frame("10.128.0.21", "255.255.255.255", udp)));
        assert!(watch().is_leak(&frame("fe80::1", "fe80::2", udp)));
        let tunnel = Content::Udp { source: 8362, destination: 8362 };
        assert!(!watch().is_leak(&frame("fe80::1", "fe80::2", tunnel)));
        assert!(watch().is_leak(&frame("fe80::1", "ff02::fb", tunnel)));
        assert!(!watch().is_leak(&frame("fe80::1", "ff02::16", Content::Membership)));
        let mut subnet_broadcast = frame("10.128.0.21", "10.128.255.255", udp);
        subnet_broadcast.to_mac = [0xff; 6];
        assert!(watch().is_leak(&subnet_broadcast));
    }

    #[test]
    fn frames_are_taken_apart_by_their_lengths_without_panic() {
        let mut bytes = vec![0x02; 12];
        bytes.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 60, 64]);
        bytes.extend_from_slice(&[0xfd; 32]);
        bytes.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0, 0, 0x20, 0xaa, 0, 53, 0, 8, 0, 0]);
        let whole = Frame::parse(&bytes).unwrap();
        assert_eq!(whole.content, Content::Udp { source: 8362, destination: 53 });
        for length in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..length]).is_some(), length >= 14, "{length} bytes");
        }
    }

    #[test]
    fn a_hexdump_shows_offset_bytes_and_text() {
        assert_eq!(hexdump(b"GET /\0"), format!("0000  {:<48} GET /.\n", "47 45 54 20 2f 00"));
    }
}
