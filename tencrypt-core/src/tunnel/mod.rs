//! The tunnel: one lane's whole state, from packets to records and back.

mod admission;
mod builder;
mod changes;
mod exchanges;
mod explain;
mod explanation;
mod handshakes;
mod inbound;
mod index;
mod lanes;
mod limits;
mod membership;
mod outbound;
mod outbox;
mod outcome;
mod packet;
mod peer_key;
mod peers;
mod policy;
mod proofs;
mod renew;
mod reset;
mod reset_limits;
mod routes;
mod services;
mod source;
mod timer;
mod transmit;
mod upkeep;
mod waiting;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

pub use self::{
    builder::{BuildError, TunnelBuilder},
    explanation::Explanation,
    outcome::{Inbound, LaneId, Lost, Outbound, Output, Verdict},
    packet::{HeldPacket, TunPacket},
};
use self::{
    exchanges::{Exchanges, Purpose},
    lanes::Lanes,
    limits::{LISTED_FOR, MAX_CLAIMED_ASKED},
    membership::Membership,
    outbox::Outbox,
    peers::Peers,
    policy::Policy,
    reset_limits::ResetLimits,
    routes::Routes,
    waiting::Waiting,
};
use crate::{
    config::TunnelConfig,
    crypto::{DEEP, Identity, KeyRing, Rng, Seed, wipe_stack},
    directory::{Directory, FactChange, PeerId, Standing},
    event::{Event, PeerInfo},
    lane_update::{LaneChange, LaneUpdate},
    nat::Nat,
    packet::is_tunnel_address,
    sink::{DatagramSink, PacketSink, RecvMeta},
    stats::{DropReason, Stats},
};

/// One lane: sessions, peers, held packets, NAT, timers.
///
/// # Contract
///
/// Methods come in four kinds. `handle_*` are inputs, `set_*`, `apply_*`, `reseed` and `forget_*` are commands,
/// [`poll_output`](Tunnel::poll_output) is the output, the rest only look. After every input and every command the owner
/// polls until [`Output::Timeout`], and acts on each [`Output`] before it asks for the next; then it may flush the
/// transport, and take the next packet from the device. If a datagram made something due at once (a handshake message),
/// the time that `Timeout` says is gone by, and `handle_timeout` comes before the next datagram: a CONF must count before
/// the DATA right behind it. Time is whatever the owner says, and never goes back.
///
/// # Lanes
///
/// The lanes of a pod are Tunnels that share nothing. What one has to know of another comes as [`LaneUpdate`]: translated
/// flows, whose answers come to another lane than their questions, and which member a lane has found behind an address.
/// The owner brings each [`Output::LaneUpdate`] to every other lane's queue, before anything that the same input made
/// reaches network or device; what is opened in the middle of a train brings them by [`PacketSink::lane_update`]. A lane
/// takes its queue in ([`handle_lane_update`](Tunnel::handle_lane_update)) after it has read a packet or a train and
/// before it handles it. So updates are there before any packet that needs them. The queues are bounded; what finds no
/// room is dropped and counted, and told again when the flow is used after half of its idle time, or with the member's next
/// handshake. Each lane's copies end by themselves.
///
/// Nothing a remote party sends makes a method fail, panic, or do unbounded work: what becomes of packets are `Copy`
/// values, and everything that is dropped is counted by its [`DropReason`].
///
/// # Secrets
///
/// A session's keys are erased with it, a handshake's secrets once the last message that needs them was made or read. What
/// computing with them left on the stack is wiped by the calls that end it, 128 KiB of what is below them. So one thread
/// makes all calls to a Tunnel: what was left on another's stack is not reached. It needs a stack of 256 KiB; the
/// standard library's threads have 2 MiB.
///
/// It is `Send`, so that it may be made on one thread and moved to its own, and not `Sync`: from its first packet on one
/// thread makes all calls.
pub struct Tunnel {
    membership: Membership,
    policy: Policy,
    exchanges: Exchanges,
    peers: Peers,
    routes: Routes,
    waiting: Waiting,
    lanes: Lanes,
    nat: Nat,
    resets: ResetLimits,
    outbox: Outbox,
    rng: Rng,
    stats: Stats,
    now: Instant,
}

impl Tunnel {
    /// Begins a Tunnel: a lane of the pod `identity`, member of the tenant with these `keys`.
    pub fn builder(
        config: impl Into<Arc<TunnelConfig>>,
        keys: impl Into<Arc<KeyRing>>,
        identity: Identity,
    ) -> TunnelBuilder {
        TunnelBuilder::new(config.into(), keys.into(), identity)
    }

    fn from_parts(parts: TunnelBuilder, seed: Seed, now: Instant) -> Self {
        let TunnelBuilder { config, keys, identity, lane, directory, trust, certificate } = parts;
        let mut rng = Rng::new(seed);
        let hash_key = rng.u64();
        let directory = directory.unwrap_or_else(|| Arc::new(Directory::new([], hash_key)));
        let addresses = identity.addresses().to_vec();
        Self {
            membership: Membership::new(keys, identity, trust, certificate),
            policy: Policy::new(config, addresses, directory, hash_key),
            exchanges: Exchanges::new(hash_key),
            peers: Peers::new(hash_key),
            routes: Routes::new(hash_key),
            waiting: Waiting::default(),
            lanes: Lanes::new(lane),
            nat: Nat::new(rng.u64()),
            resets: ResetLimits::new(now),
            outbox: Outbox::new(lane),
            stats: Stats::new(),
            rng,
            now,
        }
    }

    /// Another lane of the same pod: with the same identity, keys and base of facts, and without sessions. Lanes share
    /// nothing; what they have to know of each other they say by [`Output::LaneUpdate`]. What is applied or set
    /// afterwards is applied or set to each of them.
    ///
    /// Lane `n` sends and receives at the tenant's port plus `n`. INIT always comes to the tenant's port, so to lane 0,
    /// which hands it to the lane that [`SessionIndex::lane_of_init`](crate::record::SessionIndex::lane_of_init) says; what
    /// [`from_tenant_port`](crate::Transmit::from_tenant_port) says leaves from there.
    #[must_use]
    pub fn sibling(&mut self, lane: LaneId, seed: Seed, now: Instant) -> Self {
        let (config, keys) = (self.policy.config().clone(), self.membership.keys().clone());
        let parts = TunnelBuilder {
            lane,
            directory: Some(self.policy.directory().clone()),
            trust: self.membership.trust().clone(),
            certificate: self.membership.certificate().cloned(),
            ..TunnelBuilder::new(config, keys, self.membership.identity().for_another_lane())
        };
        let mut sibling = Self::from_parts(parts, seed, now);
        sibling.policy.set_addresses(self.policy.addresses());
        sibling.nat = self.nat.sibling();
        self.outbox.start_lane_updates();
        sibling.outbox.start_lane_updates();
        sibling
    }

    /// Takes a packet from the device. For [`Outbound::Sent`] its records are in `sink`.
    pub fn handle_packet<S: DatagramSink>(
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

    /// Counts what the owner could not do.
    pub fn count_lost(&mut self, lost: Lost) {
        match lost {
            Lost::Packets(packets) => self.stats.drop_many(DropReason::SinkFull, packets),
            Lost::Datagrams(datagrams) => self.stats.drop_many(DropReason::RateLimited, datagrams),
            Lost::LaneUpdates(updates) => self.stats.lane_updates_lost += updates,
        }
    }

    /// Takes from the network (ICMP, by the transport's error queue) that nobody listens at a destination. Anyone can
    /// forge it: it ends no wait, and has a peer that is there asked if it lives, once a second.
    pub fn handle_unreachable(&mut self, to: SocketAddr, now: Instant) {
        self.now = now;
        self.stats.unreachable += 1;
        self.doubt_peers_at(to.ip(), now);
    }

    /// Does what is due: repeats, keepalives, expiry, and at most two handshake messages. Called before its time it does
    /// nothing, so that a heap of timers need not remove entries that are out of date.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.do_due(now);
        if self.exchanges.take_erased(now) {
            wipe_stack::<DEEP>();
        }
    }

    /// Takes facts in. From here on they count. An address that only DNS calls external by them is asked at once, 16 of them
    /// at most: its first packet waits for the answer, for 100 ms.
    pub fn apply_facts(&mut self, changes: &[FactChange], now: Instant) {
        self.now = now;
        self.prune_by(changes, now);
        for destination in self.policy.apply_facts(changes, now) {
            self.outbox.event(Event::Internal { destination });
        }
        self.ask_claimed(changes, now);
    }

    /// Has a destination asked that its owner leads around the tunnel, or lets pass in plain, although a member may be there:
    /// one that only DNS calls external, also after that has ended, and one of which nothing is known. Within 5 s of the last
    /// question, and of any other, it does nothing; but of one that is internal by now [`Event::Internal`] says so again.
    /// The owner of a bypass calls it from time to time: what passes around the tunnel asks nobody. [`Event::Internal`] tells
    /// of an answer.
    pub fn ask_external(&mut self, destination: IpAddr, now: Instant) {
        self.now = now;
        match self.policy.classify(destination, now).standing {
            Standing::Claimed | Standing::Unknown => {
                if self.may_be_asked(destination, now) && self.exchanges.may_ask_early(destination, now) {
                    self.ask(destination, Purpose::Background, false, now);
                }
            }
            Standing::Internal => {
                self.policy.retract(destination);
                self.outbox.event(Event::Internal { destination });
            }
            Standing::External | Standing::Exempt => {}
        }
    }

    /// Replaces the base. It must hold what was applied so far: the delta starts anew.
    pub fn set_directory(&mut self, directory: Arc<Directory>) {
        let hash_key = self.rng.u64();
        self.policy.set_directory(directory, hash_key);
    }

    /// Takes back that a destination was announced by [`Event::External`]: it no longer leads around the tunnel, and its
    /// next packet announces it again.
    pub fn external_ended(&mut self, destination: IpAddr) {
        self.policy.retract(destination);
    }

    /// The keys in force.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        self.membership.keys()
    }

    /// Replaces this pod's own addresses. Every peer with a session is told within 2 s, by a handshake in each family
    /// that it is reached over.
    pub fn set_addresses(&mut self, addresses: &[IpAddr], now: Instant) {
        self.now = now;
        if self.policy.set_addresses(addresses) {
            self.exchanges.forget_given_up();
            self.tell_addresses(now);
        }
    }

    /// Returns the next thing that there is to do for this Tunnel, in the order in which it came about; in the end always
    /// [`Output::Timeout`]. To be called until then after every input and every command, before the next one, and before
    /// the transport is flushed.
    ///
    /// Datagrams are written to `buf`: handshake messages, keepalives, packets that were held. A buffer of
    /// [`max_datagram`](TunnelConfig::max_datagram) bytes holds any of them; what does not fit is dropped and counted as
    /// [`TooBig`](DropReason::TooBig). Only a handshake that it starts allocates. With nothing to do it costs some
    /// nanoseconds, so that it may be called after each packet.
    ///
    /// Who calls it late loses no order and no bound: packets to a peer that others wait for wait behind those; what finds
    /// no room (4,096 datagrams and packets, as many events and released packets, 2,048 updates for other lanes) is dropped.
    /// Packets and updates are counted then; handshake messages and keepalives are as good as lost on the way, and events
    /// are missed. But handshakes stand still meanwhile, and lanes that were not told of a flow drop its
    /// answers.
    pub fn poll_output(&mut self, buf: &mut [u8], now: Instant) -> Output {
        self.next_output(buf, now)
    }

    /// Takes what another lane of the pod tells. What finds no room is counted as [`Stats::lane_updates_lost`].
    pub fn handle_lane_update(&mut self, update: &LaneUpdate, now: Instant) {
        let lane = update.lane;
        let taken = match update.change {
            LaneChange::Flow(flow) => {
                self.nat.learn(&flow, now);
                true
            }
            LaneChange::Choice(choice) => {
                self.nat.learn_choice(&choice, now);
                true
            }
            LaneChange::Found { address, peer } => {
                if self.policy.is_protected(address) {
                    self.policy.note_internal(address, now + LISTED_FOR);
                    self.exchanges.note_responsive(address);
                }
                self.lanes.found(address, peer, lane, now)
            }
            LaneChange::Lost { address, peer } => {
                self.lanes.lost(address, peer, lane);
                true
            }
        };
        self.stats.lane_updates_lost += u64::from(!taken);
        self.collect_flow_updates();
    }

    /// Takes out what the other lanes have to know of translated flows, after each call that may have made some.
    fn collect_flow_updates(&mut self) {
        while let Some(flow) = self.nat.poll_update() {
            self.outbox.lane_change(LaneChange::Flow(flow));
        }
        while let Some(choice) = self.nat.poll_choice() {
            self.outbox.lane_change(LaneChange::Choice(choice));
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) wants to be called, as [`Output::Timeout`] says it; a time gone
    /// by means at once.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.exchanges.has_queued() {
            return Some(self.now);
        }
        let timers = [
            self.exchanges.next_due(),
            self.peers.next_due(),
            self.waiting.next_due(),
            self.nat.poll_timeout(),
        ];
        timers.into_iter().flatten().min()
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
        self.peers.iter().filter_map(move |peer| peer.info(self.routes.routed(peer.id(), now), now))
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Lane of its pod that this is.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.lanes.own()
    }

    /// This side's identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.membership.peer_id()
    }

    /// Tells the owner of a bypass, once a destination. One whose packets pass since it did not answer is asked all the
    /// same, while they go on.
    fn announce_external(&mut self, destination: IpAddr, now: Instant) {
        let finding = self.policy.classify(destination, now);
        let (standing, until) = (finding.standing, finding.fact.and_then(|fact| fact.expires));
        if standing == Standing::Unknown && self.exchanges.may_ask(destination, now) {
            self.ask(destination, Purpose::Background, false, now);
        }
        if matches!(standing, Standing::External | Standing::Claimed) && self.policy.announce(destination) {
            self.outbox.event(Event::External { destination, until });
        }
    }

    /// Asks addresses that these facts make external on the word of DNS, before their first packets come. The lane that
    /// INIT goes to does so for all; others ask with the first packet of theirs.
    fn ask_claimed(&mut self, changes: &[FactChange], now: Instant) {
        let mut left = if self.lanes.own() == LaneId::ZERO { MAX_CLAIMED_ASKED } else { 0 };
        for change in changes {
            let FactChange::Learn(fact) = change else { continue };
            let address = fact.prefix.addr();
            if left > 0
                && fact.prefix.prefix_len() == fact.prefix.max_prefix_len()
                && self.policy.classify(address, now).standing == Standing::Claimed
                && self.may_be_asked(address, now)
                && !self.exchanges.is_silent(address, now)
                && self.ask(address, Purpose::Background, false, now)
            {
                left -= 1;
            }
        }
    }

    /// Tells if an address can be another pod's that is not known.
    fn may_be_asked(&self, address: IpAddr, now: Instant) -> bool {
        is_tunnel_address(address)
            && !self.policy.is_own(address)
            && self.routes.route(address, now).is_none()
    }
}

impl TunnelBuilder {
    /// Makes the Tunnel, without sessions. `seed` must come from the operating system and be used for nothing else.
    ///
    /// # Errors
    /// [`BuildError::SuiteTooLong`]: the configuration contradicts itself.
    pub fn build(self, seed: Seed, now: Instant) -> Result<Tunnel, BuildError> {
        self.check()?;
        Ok(Tunnel::from_parts(self, seed, now))
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
            .field("lane", &self.lane())
            .field("peer_id", &self.peer_id())
            .finish_non_exhaustive()
    }
}
