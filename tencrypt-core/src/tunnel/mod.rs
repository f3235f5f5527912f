//! The tunnel: one lane's whole state, from packets to records and back.
//!
//! # Contract
//!
//! Methods come in four kinds. `handle_*` are inputs, `set_*`, `apply_*`, `reseed` and `forget_*` are commands,
//! `poll_*` are outputs, the rest only look. After every input and every command the owner drains
//! [`poll_transmit`](Tunnel::poll_transmit), then [`poll_released`](Tunnel::poll_released), then
//! [`poll_event`](Tunnel::poll_event), and re-reads [`poll_timeout`](Tunnel::poll_timeout); only then comes the next
//! packet from the device. If a datagram made something due at once (a handshake message), `handle_timeout` comes before
//! the next datagram: a CONF must count before the DATA right behind it. Time is whatever the owner says, and never goes
//! back.
//!
//! # Lanes
//!
//! The lanes of a pod are Tunnels that share nothing. What one has to know of another comes as [`News`]: translated
//! flows, whose answers come to another lane than their questions, and which member a lane has found behind an address.
//! The owner brings [`poll_news`](Tunnel::poll_news) to every other lane's queue after each input and before anything
//! that this input made reaches network or device: before it flushes the transport or writes a packet back, and in the
//! middle of a train by [`PacketSink::news`]. A lane takes its queue in ([`take_news`](Tunnel::take_news)) after it has
//! read a packet or a train and before it handles it. So news are there before any packet that needs them. The queues
//! are bounded; what finds no room is dropped and counted, and told again when the flow is used after half of its idle
//! time, or with the member's next handshake. Each lane's copies end by themselves.
//!
//! Nothing a remote party sends makes a method fail, panic, or do unbounded work: what becomes of packets are `Copy`
//! values, and everything that is dropped is counted by its [`DropReason`].
//!
//! # Secrets
//!
//! A session's keys are erased with it, a handshake's secrets once the last message that needs them was made or read. What
//! computing with them left on the stack is wiped by the calls that end it, 128 KiB of what is below them. So one thread
//! makes all calls to a Tunnel: what was left on another's stack is not reached. It needs a stack of 256 KiB; the
//! standard library's threads have 2 MiB.

mod ask;
mod control;
mod cookie;
mod epochs;
mod explain;
mod explanation;
mod half_open;
mod inbound;
mod limits;
mod live;
mod load;
mod members;
mod outbound;
mod outcome;
mod own_certificate;
mod packet;
mod peer;
mod queue;
mod recent;
mod renew;
mod reset;
mod resets;
mod timer;
mod transmit;
mod trust;
mod upkeep;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use self::{
    ask::{Asks, Purpose},
    half_open::{HalfOpens, Queued},
    limits::{MAX_ANNOUNCED, MAX_EVENTS},
    load::Load,
    members::Members,
    own_certificate::OwnCertificate,
    peer::Peers,
    queue::Queue,
    recent::Recent,
    resets::Resets,
    timer::{Timer, Timers},
};
pub use self::{
    explanation::Explanation,
    outcome::{Inbound, LaneId, Outbound, Verdict},
    packet::{HeldPacket, TunPacket},
};
use crate::{
    config::{TunnelConfig, UnansweredPolicy},
    crypto::{DEEP, Identity, KeyChangeError, KeyRing, Rng, Seed, wipe_stack},
    directory::{Delta, Directory, FactChange, Finding, PeerId, Standing},
    event::{Event, PathEvent, PeerInfo},
    nat::Nat,
    news::{News, Told},
    packet::is_tunnel_address,
    sink::{DatagramSink, PacketSink, RecvMeta, Transmit},
    stats::{DropReason, Stats},
    trust::{Certificate, Trust},
};

/// One lane: sessions, peers, held packets, NAT, timers. See the [module](self) for the contract.
pub struct Tunnel {
    config: Arc<TunnelConfig>,
    lane: LaneId,
    keys: Arc<KeyRing>,
    identity: Identity,
    trust: Arc<Trust>,
    own: OwnCertificate,
    /// This pod's own addresses.
    addresses: Vec<IpAddr>,
    directory: Arc<Directory>,
    delta: Delta,
    rng: Rng,
    nat: Nat,
    peers: Peers,
    /// Findings of other lanes.
    members: Members,
    asks: Asks,
    half_open: HalfOpens,
    /// Handshake messages behind mac1.
    queue: VecDeque<Queued>,
    /// VIPs that lead back to this pod, and until when that is believed unasked.
    own_vips: BTreeMap<IpAddr, Instant>,
    transmits: VecDeque<Queue>,
    /// Packets held for a destination that did not answer, to leave as they are.
    released: VecDeque<HeldPacket>,
    events: VecDeque<Event>,
    /// Destinations whose bypass the owner knows of.
    announced: BTreeSet<IpAddr>,
    timers: Timers,
    recent: Recent,
    resets: Resets,
    load: Load,
    stats: Stats,
    now: Instant,
}

impl Tunnel {
    /// A lane without sessions. `seed` must come from the operating system and be used for nothing else.
    #[must_use]
    pub fn new(
        config: Arc<TunnelConfig>,
        lane: LaneId,
        keys: Arc<KeyRing>,
        identity: Identity,
        directory: Arc<Directory>,
        seed: Seed,
        now: Instant,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let hash_key = rng.u64();
        Self {
            addresses: identity.addresses().to_vec(),
            delta: Delta::new(hash_key),
            nat: Nat::new(rng.u64()),
            peers: Peers::new(hash_key, false),
            members: Members::default(),
            asks: Asks::default(),
            half_open: HalfOpens::default(),
            queue: VecDeque::new(),
            own_vips: BTreeMap::new(),
            transmits: VecDeque::new(),
            released: VecDeque::new(),
            events: VecDeque::new(),
            announced: BTreeSet::new(),
            timers: Timers::default(),
            recent: Recent::default(),
            resets: Resets::default(),
            load: Load::default(),
            stats: Stats::new(),
            trust: Arc::new(Trust::key_only()),
            own: OwnCertificate::default(),
            config,
            lane,
            keys,
            identity,
            directory,
            rng,
            now,
        }
    }

    /// Another lane of the same pod: with the same identity, keys and base of facts, and without sessions. Lanes share
    /// nothing; what they have to know of each other they say in [`poll_news`](Self::poll_news). What is applied or set
    /// afterwards is applied or set to each of them.
    ///
    /// Lane `n` sends and receives at the tenant's port plus `n`. INIT always comes to the tenant's port, so to lane 0,
    /// which hands it to the lane that [`init_lane`](crate::record::init_lane) says; what
    /// [`from_tenant_port`](Transmit::from_tenant_port) says leaves from there.
    #[must_use]
    pub fn sibling(&mut self, lane: LaneId, seed: Seed, now: Instant) -> Self {
        let (config, keys, directory) = (self.config.clone(), self.keys.clone(), self.directory.clone());
        let mut sibling =
            Self::new(config, lane, keys, self.identity.for_another_lane(), directory, seed, now);
        sibling.addresses.clone_from(&self.addresses);
        sibling.nat = self.nat.sibling();
        sibling.trust = self.trust.clone();
        sibling.own = self.own.clone();
        self.peers.start_telling();
        sibling.peers.start_telling();
        sibling
    }

    /// Takes a packet from the device. For [`Outbound::Sent`] its records are in `sink`.
    pub fn handle_outbound<S: DatagramSink>(
        &mut self,
        packet: &mut TunPacket<'_>,
        now: Instant,
        sink: &mut S,
    ) -> Outbound {
        self.now = now;
        self.outbound(packet, now, sink)
    }

    /// Takes a train of records from the network, as long as `meta.stride` each but the last. Opened packets go to
    /// `sink`, in place.
    pub fn handle_datagrams<'b>(
        &mut self,
        meta: &RecvMeta,
        train: &'b mut [u8],
        now: Instant,
        sink: &mut impl PacketSink<'b>,
    ) -> Inbound {
        self.now = now;
        self.datagrams(meta, train, now, sink)
    }

    /// Packets that a sink took and could not pass on after all: counted as [`DropReason::SinkFull`].
    pub fn undelivered(&mut self, packets: u16) {
        self.stats.drop_many(DropReason::SinkFull, packets.into());
    }

    /// Datagrams for another lane that could not be handed to it: counted as [`DropReason::RateLimited`].
    pub fn not_handed_over(&mut self, datagrams: u16) {
        self.stats.drop_many(DropReason::RateLimited, datagrams.into());
    }

    /// Takes what the network said of a destination.
    pub fn handle_path_event(&mut self, event: PathEvent, now: Instant) {
        self.now = now;
        self.recent.forget();
        if let PathEvent::Unreachable(to) = event {
            let finding = self.view().classify(to.ip(), now);
            if self.may_go_plain(&finding) {
                self.gave_up(to.ip(), now);
            }
        }
    }

    /// Does what is due: repeats, keepalives, expiry, and at most two handshake messages.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.do_due(now);
        if self.peers.take_erased() {
            wipe_stack::<DEEP>();
        }
    }

    /// Takes facts in. From here on they count.
    pub fn apply_facts(&mut self, changes: &[FactChange], now: Instant) {
        self.now = now;
        self.recent.forget();
        for change in changes {
            self.delta.apply(change, now);
            if let FactChange::Learn(fact) = change
                && fact.class == crate::directory::Class::Internal
                && fact.prefix.prefix_len() == fact.prefix.max_prefix_len()
                && self.announced.remove(&fact.prefix.addr())
            {
                self.push_event(Event::Internal { destination: fact.prefix.addr() });
            }
        }
    }

    /// Replaces the base. It must hold what was applied so far: the delta starts anew.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        self.recent.forget();
        self.directory = directory;
        let hash_key = self.rng.u64();
        self.delta.folded(hash_key);
    }

    /// A destination that was announced by [`Event::External`] no longer leads around the tunnel: its next packet
    /// announces it again.
    pub fn external_ended(&mut self, destination: IpAddr) {
        self.announced.remove(&destination);
    }

    /// Replaces the keys. Sessions and handshakes under epochs that are no longer held end at once; sessions under one
    /// that is held and no longer sent are replaced within 4 s of traffic, before they end.
    ///
    /// # Errors
    /// [`KeyChangeError`]: the keys are another tenant's, or hold another key for an epoch that is in use. Those before
    /// stay in force.
    pub fn set_keys(&mut self, keys: Arc<KeyRing>, now: Instant) -> Result<(), KeyChangeError> {
        self.keys.check_change(&keys)?;
        self.now = now;
        self.recent.forget();
        self.change_keys(keys, now);
        wipe_stack::<DEEP>();
        Ok(())
    }

    /// The keys in force.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Replaces this pod's own addresses. Peers learn of them with the next handshake.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) {
        self.recent.forget();
        self.addresses = addresses.to_vec();
    }

    /// The next datagram to send, in `buf`: handshake messages, keepalives, and packets that were held. A buffer of
    /// 65,535 bytes holds any of them; what does not fit is dropped and counted as too big.
    pub fn poll_transmit(&mut self, buf: &mut [u8], now: Instant) -> Option<Transmit> {
        self.next_transmit(buf, now)
    }

    /// Bytes of buffer that the next [`poll_transmit`](Self::poll_transmit) wants, 0 if there is nothing to send.
    #[must_use]
    pub fn next_transmit_len(&self) -> usize {
        self.transmits.front().map_or(0, Queue::datagram_len)
    }

    /// The next packet that was held and now leaves as it is, past the tunnel: by
    /// [`finish_segments`](TunPacket::finish_segments).
    pub fn poll_released(&mut self) -> Option<HeldPacket> {
        self.released.pop_front()
    }

    /// Returns what the other lanes of the pod have to be told next, by their [`take_news`](Self::take_news). A lane
    /// that has no [`sibling`](Self::sibling) has none.
    pub fn poll_news(&mut self) -> Option<News> {
        self.stats.untold += self.nat.take_lost_news() + self.peers.take_lost_news();
        let told = self.peers.poll_news().or_else(|| self.nat.poll_news().map(Told::Flow))?;
        Some(News { lane: self.lane.0, told })
    }

    /// Takes what another lane of the pod tells. What finds no room is counted as [`Stats::untold`].
    pub fn take_news(&mut self, news: &News, now: Instant) {
        let lane = news.lane;
        let taken = match news.told {
            Told::Flow(flow) => self.nat.learn(&flow, now),
            Told::Found { address, peer } => self.members.found(address, peer, lane, now),
            Told::Lost { address, peer } => {
                self.recent.forget();
                self.members.lost(address, peer, lane);
                true
            }
        };
        self.stats.untold += u64::from(!taken);
        if let Some(at) = self.nat.poll_timeout() {
            self.timers.arm(Timer::Nat, at);
        }
    }

    /// News that could not be brought to another lane: counted as [`Stats::untold`].
    pub fn not_told(&mut self, news: u64) {
        self.stats.untold += news;
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) wants to be called; a time gone by means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.queue.is_empty() { self.timers.next() } else { Some(self.now) }
    }

    /// Returns what would become of a packet to `destination`.
    #[must_use]
    pub fn classify(&self, destination: IpAddr, now: Instant) -> Verdict {
        self.judge(destination, now).verdict
    }

    /// The same, with the reason: the data path's own code, looking only.
    #[must_use]
    pub fn explain(&self, source: IpAddr, destination: IpAddr, now: Instant) -> Explanation {
        self.explanation(source, destination, now)
    }

    /// The peers there are sessions with.
    pub fn peers(&self, now: Instant) -> impl Iterator<Item = PeerInfo> {
        self.peers.iter().filter_map(move |peer| {
            let session = peer.sending(now)?;
            Some(PeerInfo {
                peer: peer.id,
                lane: peer.lane,
                endpoint: peer.any_endpoint()?,
                addresses: peer.owned.clone().into(),
                suite: session.suite,
                epoch: session.epoch,
                generation: peer.certificate.as_ref().map(Certificate::generation),
                last_handshake: Some(now.saturating_duration_since(peer.last_handshake)),
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
        })
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Lane of its pod that this is.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lane
    }

    /// This side's identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Tells if an unanswered destination may be spoken to in plain.
    fn may_go_plain(&self, finding: &Finding<'_>) -> bool {
        self.config.unknown == UnansweredPolicy::Plain
            && finding.standing == Standing::Unknown
            && !finding.sticky
    }

    /// Tells the owner of a bypass, once a destination. One that only DNS calls external is asked all the same.
    fn announce_external(&mut self, destination: IpAddr, now: Instant) {
        let finding = self.view().classify(destination, now);
        let (standing, until) = (finding.standing, finding.fact.and_then(|fact| fact.expires));
        if standing == Standing::Claimed
            && is_tunnel_address(destination)
            && !self.asks.is_silent(destination, now)
        {
            let to = SocketAddr::new(destination, self.config.port);
            self.ask(destination, to, Purpose::Background, false, now);
        }
        if matches!(standing, Standing::External | Standing::Claimed)
            && !self.announced.contains(&destination)
        {
            if self.announced.len() >= MAX_ANNOUNCED {
                self.announced.pop_first();
            }
            self.announced.insert(destination);
            self.push_event(Event::External { destination, until });
        }
    }
}

impl Drop for Tunnel {
    /// Sealing and opening may have left keys on the stack.
    fn drop(&mut self) {
        wipe_stack::<DEEP>();
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("lane", &self.lane)
            .field("peer_id", &self.peer_id())
            .finish_non_exhaustive()
    }
}
