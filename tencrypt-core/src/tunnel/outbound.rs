//! From the device to the network.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    HeldPacket, Outbound, TunPacket, Tunnel, Verdict,
    exchanges::{Purpose, Question},
    limits::{CLAIMED_WAIT, WAY_WAIT},
    peer_key::PeerKey,
    peers::{Session, Toward},
    policy::{Direction, Pair},
};
use crate::{
    directory::{Fact, Finding, Standing},
    nat::{NatOutcome, Service},
    offload::GsoType,
    packet::{IpPacket, Transport, is_tunnel_address},
    record::{self, DATA_OVERHEAD, FLAG_CSUM_PARTIAL, SessionIndex},
    sink::{DatagramSink, Train, TrainSlot},
    stats::DropReason,
};

/// Result of a look at the facts about a destination.
pub(super) struct Judgement<'d> {
    pub(super) verdict: Verdict,
    /// The peer, for [`Verdict::Encrypt`].
    peer: Option<PeerKey>,
    pub(super) finding: Finding<'d>,
    /// The facts that it rests on hold until then.
    until: Option<Instant>,
}

/// Decision after a look at the headers.
enum Route {
    /// Encrypt to this peer.
    Peer(PeerKey),
    /// The same, and keep a copy: the peer is asked if it lives, and others may answer for this service.
    Doubted(PeerKey, IpAddr),
    /// Ask the destination, of this standing, and hold.
    Ask {
        destination: IpAddr,
        standing: Standing,
    },
    /// As it is, past the tunnel.
    Bypass(IpAddr),
    /// Back to the device.
    Hairpin,
    Drop(DropReason),
}

impl Tunnel {
    pub(super) fn outbound<S: DatagramSink>(
        &mut self,
        packet: &mut TunPacket<'_>,
        now: Instant,
        sink: &mut S,
    ) -> Outbound {
        match self.route(packet, now) {
            Route::Hairpin => Outbound::Hairpin,
            Route::Drop(reason) => self.refuse(reason),
            Route::Bypass(destination) => {
                self.stats.bypassed += 1;
                self.announce_external(destination, now);
                Outbound::Bypass
            }
            Route::Ask { destination, standing } => self.hold(packet, destination, standing, now),
            Route::Peer(key) => self.seal(packet, key, now, sink),
            Route::Doubted(key, service) => {
                self.peers.keep_copy(key, service, HeldPacket::new(packet));
                self.seal(packet, key, now, sink)
            }
        }
    }

    /// Notes that packets go to a destination by way of this peer. True: it is the pod behind a service, and is asked if it
    /// lives.
    fn is_doubted(&mut self, key: PeerKey, destination: IpAddr, now: Instant) -> bool {
        let Some(peer) = self.peers.find(key) else { return false };
        let (member, is_alive) = (peer.id(), peer.is_alive());
        if self.routes.route(destination, now).is_none_or(|route| route.is_named) {
            return false;
        }
        self.routes.used(destination, member, now);
        self.peers.note_vip(key, destination);
        !is_alive
    }

    /// Judges what would become of a packet to `destination`.
    pub(super) fn judge(&self, destination: IpAddr, now: Instant) -> Judgement<'_> {
        let finding = self.policy.classify(destination, now);
        let mut until = finding.until;
        let mut peer = None;
        let verdict = match finding.standing {
            _ if !self.policy.is_destination(destination) => Verdict::Drop(DropReason::Policy),
            Standing::External | Standing::Exempt => Verdict::Bypass,
            // Nobody can be asked, so nothing but an authoritative fact lets a packet out.
            _ if self.membership.lacks_certificate() => Verdict::Drop(DropReason::Certificate),
            Standing::Claimed if self.exchanges.awaits_claimed(destination, now) => Verdict::Hold,
            Standing::Claimed => Verdict::Bypass,
            // A nameserver of this link, inside a protected range: no member can be there.
            _ if !is_tunnel_address(destination) => Verdict::Drop(DropReason::Policy),
            Standing::Internal | Standing::Unknown => {
                let owner = self.owner(destination, now);
                until = until.into_iter().chain(owner.map(|(_, until)| until)).min();
                peer = owner.and_then(|(member, _)| self.peer_for(member, destination, now));
                match peer.and_then(|key| self.peers.find(key)) {
                    Some(peer) => Verdict::Encrypt(peer.id()),
                    None if !self.exchanges.is_silent(destination, now) => Verdict::Hold,
                    None if self.policy.may_go_plain(&finding) => Verdict::Bypass,
                    None if self.exchanges.may_ask(destination, now) => Verdict::Hold,
                    None => Verdict::Drop(DropReason::UnknownDestination),
                }
            }
        };
        Judgement { verdict, peer, finding, until }
    }

    /// Grows with each change outside of the policy that its remembered decisions may rest on.
    #[inline]
    pub(super) fn revision(&self) -> u64 {
        self.peers.revision() + self.routes.revision() + self.lanes.revision() + self.membership.revision()
    }

    pub(super) fn refuse(&mut self, reason: DropReason) -> Outbound {
        self.stats.drop(reason);
        Outbound::Dropped(reason)
    }

    /// Finds where a packet goes: by a decision that still holds, or by looking.
    fn route(&mut self, packet: &mut TunPacket<'_>, now: Instant) -> Route {
        match self.known_route(packet, now) {
            _ if self.is_own_record(packet) => Route::Drop(DropReason::Loop),
            Some(key) => Route::Peer(key),
            None => self.find_route(packet, now),
        }
    }

    /// Tells if a packet is a record or handshake message that a lane of this pod has sent: from a lane's port, and of that
    /// form, since an application may have the ports of lanes that there are not. Sealed again it would come back for ever.
    #[inline]
    fn is_own_record(&self, packet: &mut TunPacket<'_>) -> bool {
        let port = self.policy.config().port;
        let Ok(inner) = packet.inner() else { return false };
        let lane =
            |source: u16| source.checked_sub(port).is_some_and(|lane| lane < SessionIndex::LANES.into());
        inner.transport() == Some(Transport::Udp)
            && inner.ports().is_some_and(|(source, _)| lane(source))
            && inner.bytes().get(inner.payload()).is_some_and(|datagram| record::parse(datagram).is_ok())
            && self.policy.is_own(inner.source())
    }

    #[inline]
    fn known_route(&self, packet: &mut TunPacket<'_>, now: Instant) -> Option<PeerKey> {
        if !self.nat.is_empty() {
            return None;
        }
        let vnet = packet.vnet();
        let inner = packet.inner().ok()?;
        if vnet.needs_csum && vnet.gso_type == GsoType::None && !vnet.is_of_transport(&inner) {
            return None;
        }
        let pair =
            Pair { direction: Direction::Out, source: inner.source(), destination: inner.destination() };
        self.policy.remembered(pair, self.revision(), now)
    }

    #[inline(never)]
    fn find_route(&mut self, packet: &mut TunPacket<'_>, now: Instant) -> Route {
        let Ok((mut inner, vnet)) = packet.inner_mut() else {
            return Route::Drop(DropReason::Malformed);
        };
        if vnet.needs_csum && vnet.gso_type == GsoType::None && !vnet.is_of_transport(&inner) {
            // The checksum of something nested: nobody further on would find it.
            if inner.finish_checksum(vnet.csum_start, vnet.csum_offset).is_err() {
                return Route::Drop(DropReason::Malformed);
            }
            vnet.needs_csum = false;
        }
        let partial = vnet.needs_csum;
        let (source, vip) = (inner.source(), inner.destination());
        if !self.policy.is_own(source) || !self.policy.is_destination(vip) {
            return Route::Drop(DropReason::Policy);
        }
        let mut route = self.route_known_flow(&mut inner, partial, now);
        if route.is_none() {
            route = self.route_service(&mut inner, partial, vip, now);
        }
        self.collect_flow_updates();
        route.unwrap_or_else(|| self.decide(source, inner.destination(), now))
    }

    /// Translates queries to the DNS proxy and packets of flows that a VIP has a part in. Returns their route if it ends
    /// here.
    fn route_known_flow(
        &mut self,
        inner: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> Option<Route> {
        if let Some(dns) = &self.policy.config().dns {
            match dns.translate(inner, partial) {
                NatOutcome::Rewritten => return Some(Route::Hairpin),
                NatOutcome::Refused => return Some(Route::Drop(DropReason::Policy)),
                NatOutcome::Untouched => {}
            }
        }
        match self.nat.loop_reply(inner, partial, now) {
            NatOutcome::Rewritten => return Some(Route::Hairpin),
            NatOutcome::Refused => return Some(Route::Drop(DropReason::Policy)),
            NatOutcome::Untouched => {}
        }
        let refused = self.nat.reply(inner, partial, now) == NatOutcome::Refused;
        refused.then_some(Route::Drop(DropReason::Policy))
    }

    /// Chooses the pod behind a service's address: this one, whose packets turn round here, or another, which becomes the
    /// destination. Returns the route if it ends here.
    fn route_service(
        &mut self,
        inner: &mut IpPacket<&mut [u8]>,
        partial: bool,
        vip: IpAddr,
        now: Instant,
    ) -> Option<Route> {
        self.doubt_own_vip(vip, now);
        let finding = self.policy.classify(vip, now);
        let fact = finding.fact.filter(|fact| fact.is_service());
        let service = service_at(vip, fact, self.policy.addresses());
        // With other pods to choose from, a pod that serves the VIP itself does not choose itself.
        let own = if service.services.is_empty() {
            let only_own = fact.is_some_and(|fact| fact.pods().all(|pod| self.policy.is_own(pod)));
            match self.policy.own_address_beside(vip) {
                _ if !(self.policy.is_own_vip(vip) || self.policy.is_own(vip) || only_own) => None,
                None => return Some(Route::Drop(DropReason::Policy)),
                own => own,
            }
        } else {
            inner.flow().and_then(|flow| service.excluded_alone(flow))
        };
        let translated = match own {
            Some(own) => self.nat.loop_back(inner, partial, &service, own, now),
            None if fact.is_some() && finding.standing == Standing::Internal => {
                self.nat.balance(inner, partial, &service, now).map(drop)
            }
            None => {
                self.nat.note_direct(inner, now);
                return None;
            }
        };
        match translated {
            Err(error) => Some(Route::Drop(error.drop_reason())),
            // A fragment or an ICMP error goes the way of its flow, whatever a new flow would do.
            Ok(()) => self.policy.is_own(inner.destination()).then_some(Route::Hairpin),
        }
    }

    /// Applies the verdict on a destination, and remembers the decision where it may hold for the next packet.
    fn decide(&mut self, source: IpAddr, destination: IpAddr, now: Instant) -> Route {
        let Judgement { verdict, peer, finding, until } = self.judge(destination, now);
        let standing = finding.standing;
        match (verdict, peer) {
            (Verdict::Encrypt(_), Some(key)) => {
                if self.is_doubted(key, destination, now) {
                    return Route::Doubted(key, destination);
                }
                if self.nat.is_empty() && !self.policy.is_nameserver(destination) {
                    let pair = Pair { direction: Direction::Out, source, destination };
                    let way = self.peers.find(key).and_then(|peer| peer.way_ends(now));
                    let until = until.into_iter().chain(way).min();
                    self.policy.remember(pair, key, self.revision(), until);
                }
                Route::Peer(key)
            }
            (Verdict::Hold | Verdict::Encrypt(_), _) => Route::Ask { destination, standing },
            (Verdict::Bypass, _) => {
                self.stats.opportunistic += u64::from(standing == Standing::Unknown);
                Route::Bypass(destination)
            }
            (Verdict::Drop(reason), _) => Route::Drop(reason),
        }
    }

    fn seal<S: DatagramSink>(
        &mut self,
        packet: &mut TunPacket<'_>,
        key: PeerKey,
        now: Instant,
        sink: &mut S,
    ) -> Outbound {
        let max_record = self.policy.config().max_datagram;
        let Toward { session, to, finish, is_waited_for } = match self.peers.toward(key, packet.is_v4(), now)
        {
            Ok(toward) => toward,
            Err(reason) => return self.refuse(reason),
        };
        if is_waited_for {
            // CONF and packets held for this peer leave by poll_output: nothing may overtake them.
            return self.queue_behind(packet, key);
        }
        let way = Way { to, finish, max_record };
        let sealed = match packet.vnet.gso_type {
            GsoType::None => seal_lone(session, packet, &way, sink),
            _ => seal_train(session, packet, &way, sink),
        };
        if sealed.records > 0 {
            let rekey = session.wants_rekey(now);
            self.sent(key, sealed.records, sealed.bytes, rekey, now);
        }
        match sealed.rest {
            None => Outbound::Sent { records: sealed.records },
            Some((reason, packets)) => {
                self.stats.drop_many(reason, packets.into());
                match sealed.records {
                    0 => Outbound::Dropped(reason),
                    records => Outbound::Sent { records },
                }
            }
        }
    }

    /// Bookkeeping after packets of `bytes` bytes in all became `records` records for a peer, on a session that is to be
    /// replaced if `rekey`.
    pub(super) fn sent(&mut self, key: PeerKey, records: u16, bytes: usize, rekey: bool, now: Instant) {
        self.stats.encrypted += u64::from(records);
        self.peers.note_sent(key, bytes, now);
        if rekey {
            self.rekey(key, now);
        }
    }

    fn queue_behind(&mut self, packet: &TunPacket<'_>, key: PeerKey) -> Outbound {
        if !self.outbox.has_room() {
            return self.refuse(DropReason::HeldFull);
        }
        self.queue_packet(key, HeldPacket::new(packet));
        self.stats.held += 1;
        Outbound::Held
    }

    fn hold(
        &mut self,
        packet: &TunPacket<'_>,
        destination: IpAddr,
        standing: Standing,
        now: Instant,
    ) -> Outbound {
        let is_claimed = standing == Standing::Claimed;
        let purpose = if is_claimed { Purpose::Background } else { Purpose::Traffic };
        let question = Question::new(destination, purpose, standing == Standing::Internal);
        let is_resumed = self.resume(destination, now).is_some();
        let old_way = self.has_old_way(destination, now).then_some(WAY_WAIT);
        let at_most = if is_claimed { Some(CLAIMED_WAIT) } else { old_way };
        let (exchanges, mut cx) = self.exchanging(now);
        let is_asked = if is_resumed {
            exchanges.ask_later(question, &mut cx)
        } else {
            exchanges.ask(question, &mut cx)
        };
        if !is_asked {
            return self.refuse(DropReason::HeldFull);
        }
        let outcome = self.exchanges.hold(destination, packet, at_most);
        self.stats.drop_many(DropReason::HeldFull, outcome.pushed_out);
        if !outcome.held {
            return self.refuse(DropReason::HeldFull);
        }
        self.stats.held += 1;
        Outbound::Held
    }
}

/// The service at an address, by a fact if there is one.
fn service_at<'a>(vip: IpAddr, fact: Option<&'a Fact>, exclude: &'a [IpAddr]) -> Service<'a> {
    let (endpoints, ports, services, affinity) = match fact {
        Some(fact) => (&*fact.endpoints, &*fact.ports, &*fact.services, fact.affinity),
        None => (&[][..], &[][..], &[][..], None),
    };
    Service { vip, endpoints, ports, services, affinity, exclude }
}

/// Way of records to a peer.
struct Way {
    to: SocketAddr,
    /// The other side's device takes no unfinished checksums.
    finish: bool,
    /// Bytes of the longest record that gets through.
    max_record: u16,
}

impl Way {
    /// Bytes of a record with a packet of `len` bytes, if it gets through.
    fn record_len(&self, len: usize) -> Option<u16> {
        u16::try_from(len + DATA_OVERHEAD).ok().filter(|len| *len <= self.max_record)
    }
}

/// Part of a packet that was sealed.
struct Sealed {
    records: u16,
    /// Bytes of the packets in them.
    bytes: usize,
    /// Reason for which the rest was not, and how many packets that is.
    rest: Option<(DropReason, u16)>,
}

impl Sealed {
    fn refused(reason: DropReason) -> Self {
        Self { records: 0, bytes: 0, rest: Some((reason, 1)) }
    }
}

fn seal_lone<S: DatagramSink>(
    session: &mut Session,
    packet: &mut TunPacket<'_>,
    way: &Way,
    sink: &mut S,
) -> Sealed {
    if way.finish && packet.finish_checksum().is_err() {
        return Sealed::refused(DropReason::Malformed);
    }
    let flags = if packet.vnet.needs_csum { FLAG_CSUM_PARTIAL } else { 0 };
    let bytes = packet.bytes();
    let Some(len) = way.record_len(bytes.len()) else {
        return Sealed::refused(DropReason::TooBig);
    };
    let Some(mut slot) = sink.reserve(Train::single(way.to, len, ecn_of(bytes))) else {
        return Sealed::refused(DropReason::SinkFull);
    };
    let counter = session.sealer.counters(1).ok().and_then(|mut counters| counters.take());
    let Some(counter) = counter else { return Sealed::refused(DropReason::Limit) };
    let Some(room) = slot.buffer().get_mut(..usize::from(len)) else {
        return Sealed::refused(DropReason::SinkFull);
    };
    session.sealer.seal(counter, flags, bytes, room);
    slot.commit(1, usize::from(len));
    Sealed { records: 1, bytes: bytes.len(), rest: None }
}

/// Cuts a super-packet and seals its segments as they are cut, straight into the room the transport gives.
fn seal_train<S: DatagramSink>(
    session: &mut Session,
    packet: &mut TunPacket<'_>,
    way: &Way,
    sink: &mut S,
) -> Sealed {
    let Some(mut segments) = packet.plan(way.finish) else { return Sealed::refused(DropReason::Malformed) };
    let (Some(stride), Some(last)) =
        (way.record_len(segments.segment_len()), way.record_len(segments.last_len()))
    else {
        return Sealed::refused(DropReason::TooBig);
    };
    let flags = if segments.finishes() { 0 } else { FLAG_CSUM_PARTIAL };
    let ecn = ecn_of(packet.bytes());
    let mut sealed = Sealed { records: 0, bytes: 0, rest: None };
    while segments.left() > 0 {
        let Some(mut slot) = sink.reserve(Train { to: way.to, stride, count: segments.left(), last, ecn })
        else {
            sealed.rest = Some((DropReason::SinkFull, segments.left()));
            break;
        };
        let records = slot.records().min(segments.left());
        let Ok(mut counters) = session.sealer.counters(records) else {
            sealed.rest = Some((DropReason::Limit, segments.left()));
            break;
        };
        let mut room = slot.buffer();
        let (mut taken, mut filled) = (0, 0);
        while let Some(counter) = counters.take() {
            let Some(segment) = segments.cut_next(packet.bytes) else { break };
            let Some((out, rest)) = room.split_at_mut_checked(segment.len() + DATA_OVERHEAD) else { break };
            session.sealer.seal(counter, flags, segment, out);
            taken += 1;
            filled += out.len();
            sealed.bytes += segment.len();
            room = rest;
        }
        slot.commit(taken, filled);
        sealed.records += taken;
        if taken < records {
            // The transport's room was smaller than it said.
            sealed.rest = Some((DropReason::SinkFull, segments.left().max(1)));
            break;
        }
    }
    sealed
}

/// The ECN bits of an IP packet (RFC 3168 section 5; RFC 6040 copies them to the outer header).
fn ecn_of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 0b11,
        [_, second, ..] => (second >> 4) & 0b11,
        _ => 0,
    }
}
