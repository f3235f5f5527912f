//! The pods, the liar and what is between them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tencrypt::{
    CipherSuite, Identity, KeyRing, LaneId, LaneUpdate, Outbound, Output, RecvMeta, Seed, TunPacket, Tunnel,
    TunnelConfig,
    directory::{Class, FactChange},
    offload::VnetHdr,
    packet::IpPacket,
    record::{Head, SessionIndex},
    sink::bytes::DatagramQueue,
};
use tencrypt_sim::{Inbox, LiarHost, Random, Weather, World, read_udp};

use super::{
    packets::Outgoing,
    places::{LIAR, OUTSIDE, PODS, PODS_V6, PORT, VIP, place},
};
use crate::input::Input;

/// Datagrams or packets that one input makes: more than any.
const ROOM: usize = 1 << 14;
/// Datagrams that the liar may repeat.
const SEEN: usize = 64;
/// Rounds of deliveries of one step; each answer is one.
const HOPS: usize = 64;
/// An address that answered leaves in plain no sooner than this on the word of DNS.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Fate of datagrams under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    InOrder,
    Reversed,
    Lost,
}

/// Records as they travel together.
#[derive(Debug, Clone)]
struct Train {
    from: SocketAddr,
    to: SocketAddr,
    stride: u16,
    ecn: u8,
    bytes: Vec<u8>,
}

/// A packet that an application has sent.
struct Sent {
    pod: usize,
    source: IpAddr,
    to: IpAddr,
    payload: Vec<u8>,
    is_delivered: bool,
}

pub(super) struct Net {
    now: Instant,
    pods: [Vec<Tunnel>; 2],
    liar: LiarHost,
    is_silent: bool,
    random: Random,
    wire: VecDeque<Train>,
    seen: VecDeque<Train>,
    sent: BTreeMap<u64, Sent>,
    /// Addresses that a fact has called external or exempt, and whether one with authority has.
    called: BTreeMap<(usize, IpAddr), bool>,
    answered: BTreeMap<(usize, IpAddr), Instant>,
    buffer: Vec<u8>,
}

impl Net {
    pub(super) fn new(choice: u8) -> Self {
        let now = crate::handshake::moment();
        let tenant = World::new(1, Weather::CLEAR).tenant();
        let keys = KeyRing::parse(&KeyRing::write_file(tenant.id(), 1, &tenant.root(1)));
        let keys = Arc::new(keys.expect("the core reads what it writes"));
        let suite = CipherSuite::ALL[usize::from(choice) % CipherSuite::ALL.len()];
        let tunnel = |pod: usize| {
            let protected = ["10.0.0.0/8", "fd00::/16"].map(|range| range.parse().expect("a range"));
            let mut config = TunnelConfig::new(protected);
            config.suite = suite;
            config.vnet = choice >> 2 & 1 == 0;
            let seed = |kind: u8| Seed::from_bytes([kind + pod as u8; 32]);
            let identity = Identity::generate(seed(10), &[PODS[pod], PODS_V6[pod]]);
            Tunnel::builder(config, keys.clone(), identity).build(seed(20), now).expect("any suite fits")
        };
        let mut first = tunnel(0);
        let lane = LaneId::new(1).expect("there are 16");
        let second = first.sibling(lane, Seed::from_bytes([30; 32]), now);
        let liar = LiarHost::new(&tenant, suite, LIAR, 1);
        Self {
            now,
            pods: [vec![first, second], vec![tunnel(1)]],
            liar,
            is_silent: false,
            random: Random::new(2),
            wire: VecDeque::new(),
            seen: VecDeque::new(),
            sent: BTreeMap::new(),
            called: BTreeMap::new(),
            answered: BTreeMap::new(),
            buffer: vec![0; 65_535],
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// From now on the liar answers nobody.
    pub(super) fn silence(&mut self) {
        self.is_silent = true;
    }

    pub(super) fn is_delivered(&self, number: u64) -> bool {
        self.sent[&number].is_delivered
    }

    /// Lets time go by, with what is due in it.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        for _ in 0..10_000 {
            let due = self.pods.iter().flatten().filter_map(Tunnel::next_timeout).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.tend();
        }
        self.now = end;
        self.tend();
    }

    /// Has an application of a pod send. Returns the number of the last packet in it.
    pub(super) fn send(&mut self, pod: usize, outgoing: Outgoing) -> u64 {
        let first = self.sent.len() as u64;
        let payloads = outgoing.payloads(first);
        let (vnet, bytes) = outgoing.build(&payloads);
        let last = first + payloads.len() as u64 - 1;
        for (at, payload) in payloads.into_iter().enumerate() {
            let sent = Sent { pod, source: outgoing.source, to: outgoing.to, payload, is_delivered: false };
            self.sent.insert(first + at as u64, sent);
        }
        let lane = usize::from(outgoing.port) % self.pods[pod].len();
        self.outbound(pod, lane, vnet, bytes);
        last
    }

    /// Anything from a pod's device.
    pub(super) fn raw(&mut self, pod: usize, input: &mut Input<'_>) {
        let vnet = VnetHdr::decode(&input.array::<10>()).unwrap_or_default();
        let mut bytes = input.chunk().to_vec();
        if let (Some(source), IpAddr::V4(own)) = (bytes.get_mut(12..16), PODS[pod]) {
            source.copy_from_slice(&own.octets());
        }
        // What is in it cannot be known again where it comes out: it goes to where no pod is.
        if let Some(to) = bytes.get_mut(16..20) {
            to.copy_from_slice(&[10, 0, 0, 77]);
        }
        if bytes.first().is_some_and(|first| first >> 4 == 4) {
            self.outbound(pod, 0, vnet, bytes);
        }
    }

    pub(super) fn apply(&mut self, pod: usize, change: FactChange) {
        if let FactChange::Learn(fact) = &change
            && fact.class != Class::Internal
        {
            let is_authoritative = fact.source.is_authoritative();
            *self.called.entry((pod, fact.prefix.addr())).or_default() |= is_authoritative;
        }
        let now = self.now;
        self.pods[pod].iter_mut().for_each(|lane| lane.apply_facts(std::slice::from_ref(&change), now));
        self.drain_all();
    }

    pub(super) fn unreachable(&mut self, pod: usize, to: SocketAddr) {
        let now = self.now;
        self.pods[pod].iter_mut().for_each(|lane| lane.handle_unreachable(to, now));
        self.drain_all();
    }

    /// INIT of the liar's to a pod.
    pub(super) fn ask(&mut self, from: IpAddr, pod: usize, asked: IpAddr, asserted: &[IpAddr]) {
        let (from, to, bytes) = self.liar.ask(from, PODS[pod], asked, asserted);
        self.wire.push_back(Train::single(from, to, bytes));
    }

    /// A record of the liar's.
    pub(super) fn speak(&mut self, from: IpAddr, is_unfinished: bool, packet: &[u8]) {
        if let Some((from, to, bytes)) = self.liar.seal(from, is_unfinished, packet, &mut self.random) {
            self.wire.push_back(Train::single(from, to, bytes));
        }
    }

    /// A RESET of the liar's for a record that was seen.
    pub(super) fn reset(&mut self, input: &mut Input<'_>) {
        let Some(train) = self.seen.get(input.index(self.seen.len())) else { return };
        let index = train.bytes.get(4..).and_then(|bytes| bytes.first_chunk()).copied();
        let Some(index) = index.and_then(|index| SessionIndex::from_u32(u32::from_le_bytes(index))) else {
            return;
        };
        let (from, to, bytes) = self.liar.disclaim(train.to, train.from, index);
        self.wire.push_back(Train::single(from, to, bytes));
    }

    /// Something that was seen once more, some of it several times, changed, or from elsewhere. INIT goes where it went before: who
    /// leads a question elsewhere is the network.
    pub(super) fn repeat(&mut self, pod: usize, input: &mut Input<'_>) {
        let Some(mut train) = self.seen.get(input.index(self.seen.len())).cloned() else { return };
        let how = input.byte();
        if how & 1 == 1 {
            train.from.set_ip(place(input));
        }
        if how & 2 == 2 && train.bytes.first() != Some(&Head::INIT) {
            train.to.set_ip(PODS[pod]);
        }
        if how & 4 == 4 {
            train.bytes = [&train.bytes[..], &train.bytes].concat();
        }
        if how & 8 == 8 && !train.bytes.is_empty() {
            let (at, change) = (input.index(train.bytes.len()), input.byte());
            train.bytes[at] ^= change;
        }
        if how & 16 == 16 {
            train.stride = input.word();
        }
        self.wire.push_back(train);
    }

    /// Delivers what is under way, and what comes of it.
    pub(super) fn settle(&mut self, passing: Passing, asserted: &[IpAddr]) {
        for _ in 0..HOPS {
            if self.wire.is_empty() {
                break;
            }
            let mut trains: Vec<Train> = self.wire.drain(..).collect();
            match passing {
                Passing::Lost => trains.clear(),
                Passing::Reversed => trains.reverse(),
                Passing::InOrder => {}
            }
            trains.into_iter().for_each(|train| self.arrive(train, asserted));
        }
    }

    fn arrive(&mut self, train: Train, asserted: &[IpAddr]) {
        let to = if train.to.ip() == VIP { PODS[1] } else { train.to.ip() };
        if to == LIAR && !self.is_silent {
            let datagram = (train.from, train.to, train.bytes);
            if let Some((from, to, bytes)) = self.liar.receive(datagram, asserted, LIAR) {
                self.wire.push_back(Train::single(from, to, bytes));
            }
            return;
        }
        let Some(pod) = (0..2).find(|pod| [PODS[*pod], PODS_V6[*pod]].contains(&to)) else { return };
        let Some(port) = train.to.port().checked_sub(PORT) else { return };
        let lanes = self.pods[pod].len();
        let mut lane = usize::from(port);
        if lane == 0 {
            lane = SessionIndex::lane_of_init(&train.bytes).map_or(0, |lane| usize::from(lane) % lanes);
        }
        if lane < lanes {
            self.inbound(pod, lane, train);
        }
    }

    fn inbound(&mut self, pod: usize, lane: usize, mut train: Train) {
        let mut inbox = Inbox::new(ROOM);
        let meta = RecvMeta::new(train.from, train.stride).with_ecn(train.ecn);
        let inbound = self.pods[pod][lane].handle_datagrams(&meta, &mut train.bytes, self.now, &mut inbox);
        assert_eq!(usize::from(inbound.opened), inbox.packets.len(), "what was opened came out");
        self.bring(pod, lane, &inbox.updates);
        for mut packet in inbox.packets.drain() {
            self.deliver(pod, packet.vnet, &mut packet.bytes);
        }
        self.drain(pod, lane, DatagramQueue::new(ROOM));
        self.tend();
    }

    /// A packet comes out of a pod's device.
    fn deliver(&mut self, pod: usize, vnet: VnetHdr, bytes: &mut [u8]) {
        let own = [PODS[pod], PODS_V6[pod]];
        let mut parsed = IpPacket::parse(&mut *bytes).expect("what comes out is a packet");
        if vnet.needs_csum {
            parsed.finish_checksum(vnet.csum_start, vnet.csum_offset).expect("it is the packet's own");
        }
        assert!(own.contains(&parsed.destination()), "it is for this pod");
        let source = parsed.source();
        assert!(!own.contains(&source), "from this pod itself");
        if source == LIAR {
            return;
        }
        let (from, _, payload) = read_udp(bytes).expect("a packet of an honest pod, whole");
        let number = payload.first_chunk().map(|number| u64::from_be_bytes(*number));
        let sent = number.and_then(|number| self.sent.get_mut(&number)).expect("somebody has sent it");
        assert!(sent.pod != pod, "it comes out where it came from");
        assert!(!sent.is_delivered, "it comes out twice");
        assert_eq!(sent.payload, payload);
        let is_for = [PODS[pod], PODS_V6[pod]].contains(&sent.to) || (pod == 1 && sent.to == VIP);
        assert!(is_for, "it was for {}", sent.to);
        assert!(
            from.0 == sent.source || (sent.pod == 1 && from.0 == VIP),
            "from {}, not {}",
            from.0,
            sent.source
        );
        sent.is_delivered = true;
        self.answered.insert((sent.pod, sent.to), self.now);
    }

    /// A packet leaves a pod as it is.
    fn bypass(&self, pod: usize, bytes: &[u8]) {
        let to = IpPacket::parse(bytes).expect("a packet leaves").destination();
        if to == OUTSIDE {
            return;
        }
        let is_authoritative = self.called.get(&(pod, to)).copied();
        let is_authoritative =
            is_authoritative.unwrap_or_else(|| panic!("{to} is of the tenant, and left in plain"));
        let answered = self.answered.get(&(pod, to)).map(|at| self.now.saturating_duration_since(*at));
        assert!(
            is_authoritative || answered.is_none_or(|ago| ago >= REMEMBERED),
            "{to} answered {answered:?} ago, and left in plain"
        );
    }

    fn outbound(&mut self, pod: usize, lane: usize, vnet: VnetHdr, mut bytes: Vec<u8>) {
        let mut records = DatagramQueue::new(ROOM);
        let mut packet = TunPacket::new(vnet, &mut bytes);
        let outcome = self.pods[pod][lane].handle_packet(&mut packet, self.now, &mut records);
        match outcome {
            Outbound::Sent { records: count } => assert_eq!(usize::from(count), records.len()),
            _ => assert!(records.is_empty(), "{outcome:?} and records"),
        }
        if outcome == Outbound::Bypass {
            let mut left = Vec::new();
            packet.finish_segments(|segment| left.push(segment.to_vec()));
            left.iter().for_each(|segment| self.bypass(pod, segment));
        }
        self.drain(pod, lane, records);
    }

    /// Has every lane do what is due.
    fn tend(&mut self) {
        for pod in 0..2 {
            for lane in 0..self.pods[pod].len() {
                if self.pods[pod][lane].next_timeout().is_some_and(|due| due <= self.now) {
                    self.pods[pod][lane].handle_timeout(self.now);
                }
            }
        }
        self.drain_all();
    }

    fn drain_all(&mut self) {
        for pod in 0..2 {
            (0..self.pods[pod].len()).for_each(|lane| self.drain(pod, lane, DatagramQueue::new(ROOM)));
        }
    }

    /// Takes everything that a lane has to say, behind the records that are in the transport already.
    fn drain(&mut self, pod: usize, lane: usize, mut datagrams: DatagramQueue) {
        loop {
            match self.pods[pod][lane].poll_output(&mut self.buffer, self.now) {
                Output::Transmit(transmit) => datagrams.push(&transmit, &self.buffer).expect("there is room"),
                Output::LaneUpdate(update) => self.bring(pod, lane, &[update]),
                Output::Released(mut held) => {
                    let mut left = Vec::new();
                    held.as_packet().finish_segments(|segment| left.push(segment.to_vec()));
                    left.iter().for_each(|segment| self.bypass(pod, segment));
                }
                Output::Opened(mut held) => {
                    let held = held.as_packet();
                    self.deliver(pod, held.vnet(), &mut held.bytes().to_vec());
                }
                Output::Event(_) => {}
                Output::Timeout(_) => break,
            }
        }
        for train in datagrams.drain() {
            let own = if train.to.is_ipv4() { PODS[pod] } else { PODS_V6[pod] };
            let port = PORT + if train.from_tenant_port { 0 } else { lane as u16 };
            let from = SocketAddr::new(own, port);
            let (to, stride, ecn) = (train.to, train.stride, train.ecn);
            let train = Train { from, to, stride, ecn, bytes: train.bytes.to_vec() };
            if self.seen.len() == SEEN {
                self.seen.pop_front();
            }
            self.seen.push_back(train.clone());
            self.wire.push_back(train);
        }
    }

    fn bring(&mut self, pod: usize, lane: usize, updates: &[LaneUpdate]) {
        let now = self.now;
        for (at, other) in self.pods[pod].iter_mut().enumerate() {
            if at != lane {
                updates.iter().for_each(|update| other.handle_lane_update(update, now));
            }
        }
    }
}

impl Train {
    fn single(from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self { from, to, stride: bytes.len() as u16, ecn: 0, bytes }
    }
}
