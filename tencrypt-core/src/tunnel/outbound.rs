//! From the device to the network.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    Outbound, TunPacket, Tunnel, Verdict,
    ask::Purpose,
    limits::{DEAD_PEER, MAX_TRANSMITS},
    peer::PeerKey,
    timer::Timer,
};
use crate::{
    directory::{Finding, Standing, View},
    nat::{DnsOutcome, NatOutcome, Service},
    offload::GsoType,
    packet::IpPacket,
    record::{DATA_OVERHEAD, FLAG_CSUM_PARTIAL},
    sink::{DatagramSink, Train, TrainSlot},
    stats::DropReason,
};

/// What a look at the headers decided.
enum Route {
    /// Encrypt to this peer.
    Peer(PeerKey),
    /// Ask the destination and hold.
    Ask {
        destination: IpAddr,
        internal: bool,
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
            Route::Ask { destination, internal } => self.hold(packet, destination, internal, now),
            Route::Peer(key) => self.seal(packet, key, now, sink),
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View { base: &self.directory, delta: &self.delta, config: &self.config }
    }

    /// What would become of a packet to `destination`.
    pub(super) fn verdict(&self, destination: IpAddr, now: Instant) -> (Verdict, Finding<'_>) {
        let finding = self.view().classify(destination, now);
        let verdict = match finding.standing {
            _ if !is_unicast(destination) => Verdict::Drop(DropReason::Policy),
            Standing::External | Standing::Exempt | Standing::Claimed => Verdict::Bypass,
            Standing::Internal | Standing::Unknown => {
                let owner = self.owner(destination, now).and_then(|key| self.peers.find(key));
                let ready = owner.filter(|peer| peer.sending(now).is_some());
                match ready {
                    Some(peer) => Verdict::Encrypt(peer.id),
                    None if !self.asks.is_silent(destination, now) => Verdict::Hold,
                    None if self.may_go_plain(&finding) => Verdict::Bypass,
                    None => Verdict::Drop(DropReason::UnknownDestination),
                }
            }
        };
        (verdict, finding)
    }

    /// The peer that `address` belongs to: by a fact about just this address, by what the peer has proven, or by a
    /// fact about a range.
    pub(super) fn owner(&self, address: IpAddr, now: Instant) -> Option<PeerKey> {
        let proven = self.peers.owner(address);
        match self.view().owner(address, now) {
            Some((prefix, id)) if prefix.prefix_len() == prefix.max_prefix_len() || proven.is_none() => {
                self.peers.by_id(id)
            }
            _ => proven,
        }
    }

    pub(super) fn refuse(&mut self, reason: DropReason) -> Outbound {
        self.stats.drop(reason);
        Outbound::Dropped(reason)
    }

    fn route(&mut self, packet: &mut TunPacket<'_>, now: Instant) -> Route {
        if packet.vnet().gso_type != GsoType::None {
            return Route::Drop(DropReason::Unsupported);
        }
        let partial = packet.vnet().needs_csum;
        let Ok(mut inner) = IpPacket::parse(packet.bytes_mut()) else {
            return Route::Drop(DropReason::Malformed);
        };
        if !self.addresses.contains(&inner.source()) || !is_unicast(inner.destination()) {
            return Route::Drop(DropReason::Policy);
        }
        if let Some(dns) = &self.config.dns {
            match dns.translate(&mut inner, partial) {
                DnsOutcome::Translated => return Route::Hairpin,
                DnsOutcome::Untranslatable => return Route::Drop(DropReason::Policy),
                DnsOutcome::NotDns => {}
            }
        }
        match self.nat.loop_reply(&mut inner, partial, now) {
            NatOutcome::Rewritten => return Route::Hairpin,
            NatOutcome::Refused => return Route::Drop(DropReason::Policy),
            NatOutcome::Untouched => {}
        }
        if self.nat.reply(&mut inner, partial, now) == NatOutcome::Refused {
            return Route::Drop(DropReason::Policy);
        }
        let vip = inner.destination();
        self.doubt_own_vip(vip, now);
        let finding =
            View { base: &self.directory, delta: &self.delta, config: &self.config }.classify(vip, now);
        let service = finding.fact.filter(|fact| !fact.endpoints.is_empty());
        let only_own =
            service.is_some_and(|fact| fact.endpoints.iter().all(|pod| self.addresses.contains(pod)));
        if self.own_vips.contains_key(&vip) || self.addresses.contains(&vip) || only_own {
            let ports = service.map_or(&[][..], |fact| &fact.ports);
            let own = self.addresses.iter().copied().find(|own| own.is_ipv4() == vip.is_ipv4());
            let Some(own) = own else { return Route::Drop(DropReason::Policy) };
            return match self.nat.loop_back(&mut inner, partial, vip, own, ports, now) {
                Ok(()) => Route::Hairpin,
                Err(_) => Route::Drop(DropReason::NatFull),
            };
        }
        if let (Some(fact), Standing::Internal) = (service, finding.standing) {
            // With other pods to choose from, a pod that serves the VIP itself does not choose itself.
            let service =
                Service { vip, endpoints: &fact.endpoints, ports: &fact.ports, exclude: &self.addresses };
            if self.nat.balance(&mut inner, partial, &service, now).is_err() {
                return Route::Drop(DropReason::NatFull);
            }
        } else {
            self.nat.note_direct(&inner, now);
        }
        let destination = inner.destination();
        let (verdict, finding) = self.verdict(destination, now);
        let internal = finding.standing == Standing::Internal;
        match verdict {
            Verdict::Encrypt(id) => match self.peers.by_id(id) {
                Some(key) => Route::Peer(key),
                None => Route::Ask { destination, internal },
            },
            Verdict::Hold => Route::Ask { destination, internal },
            Verdict::Bypass => {
                let opportunistic = finding.standing == Standing::Unknown;
                self.stats.opportunistic += u64::from(opportunistic);
                Route::Bypass(destination)
            }
            Verdict::Drop(reason) => Route::Drop(reason),
        }
    }

    fn seal<S: DatagramSink>(
        &mut self,
        packet: &mut TunPacket<'_>,
        key: PeerKey,
        now: Instant,
        sink: &mut S,
    ) -> Outbound {
        let Some(peer) = self.peers.find_mut(key) else {
            return self.refuse(DropReason::UnknownDestination);
        };
        if peer.queued > 0 {
            // CONF and packets held for this peer leave by poll_transmit: nothing may overtake them.
            return self.queue_behind(packet, key);
        }
        let inner_is_v4 = packet.bytes().first().is_some_and(|first| first >> 4 == 4);
        let Some(to) = peer.endpoint(inner_is_v4) else {
            return self.refuse(DropReason::UnknownDestination);
        };
        if packet.vnet().needs_csum && !peer.vnet && !packet.finish_checksum() {
            return self.refuse(DropReason::Malformed);
        }
        let flags = if packet.vnet().needs_csum { FLAG_CSUM_PARTIAL } else { 0 };
        let bytes = packet.bytes();
        let Ok(len) = u16::try_from(bytes.len() + DATA_OVERHEAD) else {
            return self.refuse(DropReason::TooBig);
        };
        let ecn = ecn_of(bytes);
        let Some(session) = peer.sending_mut(now) else { return self.refuse(DropReason::Expired) };
        let Some(mut slot) = sink.reserve(Train::single(to, len, ecn)) else {
            return self.refuse(DropReason::SinkFull);
        };
        let counter = session.sealer.counters(1).ok().and_then(|mut counters| counters.take());
        let Some(counter) = counter else { return self.refuse(DropReason::Limit) };
        let Some(room) = slot.buffer().get_mut(..usize::from(len)) else {
            return self.refuse(DropReason::SinkFull);
        };
        session.sealer.seal(counter, flags, bytes, room);
        slot.commit(1, usize::from(len));
        self.sent(key, bytes.len(), now);
        Outbound::Sent { records: 1 }
    }

    /// Bookkeeping after packets of `bytes` bytes were sealed for a peer.
    pub(super) fn sent(&mut self, key: PeerKey, bytes: usize, now: Instant) {
        self.stats.encrypted += 1;
        let Some(peer) = self.peers.find_mut(key) else { return };
        peer.tx_bytes += bytes as u64;
        peer.unacknowledged_since = None;
        if peer.unanswered_since.is_none() {
            peer.unanswered_since = Some(now);
            self.timers.arm(Timer::Peer(key), now + DEAD_PEER);
        }
        if peer.sending(now).is_some_and(|session| session.wants_rekey(now)) {
            self.rekey(key, now);
        }
    }

    fn queue_behind(&mut self, packet: &mut TunPacket<'_>, key: PeerKey) -> Outbound {
        if self.transmits.len() >= MAX_TRANSMITS {
            return self.refuse(DropReason::HeldFull);
        }
        if !packet.finish_checksum() {
            return self.refuse(DropReason::Malformed);
        }
        self.queue_packet(key, packet.bytes().to_vec());
        self.stats.held += 1;
        Outbound::Held
    }

    fn hold(
        &mut self,
        packet: &mut TunPacket<'_>,
        destination: IpAddr,
        internal: bool,
        now: Instant,
    ) -> Outbound {
        if !packet.finish_checksum() {
            return self.refuse(DropReason::Malformed);
        }
        let to = SocketAddr::new(destination, self.config.port);
        if !self.ask(destination, to, Purpose::Traffic, internal, now) {
            return self.refuse(DropReason::HeldFull);
        }
        let outcome = self.asks.hold(destination, packet.bytes());
        self.stats.drop_many(DropReason::HeldFull, outcome.pushed_out);
        if !outcome.held {
            return self.refuse(DropReason::HeldFull);
        }
        self.stats.held += 1;
        Outbound::Held
    }
}

/// Whether `address` may stand in a tenant packet at all.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast()
                || v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// The ECN bits of an IP packet (RFC 3168 section 5; RFC 6040 copies them to the outer header).
fn ecn_of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 0b11,
        [_, second, ..] => (second >> 4) & 0b11,
        _ => 0,
    }
}
