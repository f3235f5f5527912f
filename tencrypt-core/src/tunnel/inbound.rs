//! From the network to the device.

use std::{net::IpAddr, time::Instant};

use super::{
    Inbound, Tunnel,
    limits::{KEEPALIVE, MEMBER_BELIEVED},
    peer::{IndexUse, PeerKey},
    recent::Direction,
    timer::Timer,
};
use crate::{
    lane_update::{LaneChange, LaneUpdate},
    nat::{NatError, NatOutcome},
    offload::{Opened, VnetHdr},
    packet::{IpPacket, Transport, combine_ecn, is_tunnel_address},
    record::{self, FLAG_CSUM_PARTIAL, Message, SessionIndex, layout},
    sink::{PacketSink, RecvMeta},
    stats::DropReason,
};

/// Use of one datagram.
enum Taken {
    /// A packet is in the sink.
    Opened(SessionIndex),
    /// A record without a packet.
    Keepalive(SessionIndex),
    /// A message of another type.
    Message,
}

impl Tunnel {
    pub(super) fn datagrams<'b>(
        &mut self,
        meta: &RecvMeta,
        train: &'b mut [u8],
        now: Instant,
        sink: &mut impl PacketSink<'b>,
    ) -> Inbound {
        let mut inbound = Inbound::default();
        let stride = usize::from(meta.stride);
        if stride == 0 || train.is_empty() {
            inbound.dropped = 1;
            self.stats.drop(DropReason::Malformed);
            return inbound;
        }
        for record in train.chunks_mut(stride) {
            inbound.records += u16::from(layout::message_type(record) == Some(layout::DATA));
            match self.record(meta, record, now, sink) {
                Ok(Taken::Opened(session)) => {
                    inbound.opened += 1;
                    inbound.proven += 1;
                    inbound.session = Some(session);
                    self.stats.decrypted += 1;
                }
                Ok(Taken::Keepalive(session)) => {
                    inbound.control += 1;
                    inbound.proven += 1;
                    inbound.session = Some(session);
                }
                Ok(Taken::Message) => inbound.control += 1,
                Err(reason) => {
                    inbound.dropped += 1;
                    self.stats.drop(reason);
                }
            }
        }
        inbound
    }

    fn record<'b>(
        &mut self,
        meta: &RecvMeta,
        record: &'b mut [u8],
        now: Instant,
        sink: &mut impl PacketSink<'b>,
    ) -> Result<Taken, DropReason> {
        let header = match record::parse(record)? {
            Message::Data(header) => header,
            Message::Reset(_) => {
                return self.handle_reset(meta.from, record, now).map(|()| Taken::Message);
            }
            Message::Cookie(cookie) => return self.handle_cookie(&cookie, now).map(|()| Taken::Message),
            message => {
                return self.take_handshake(meta.from, &message, record, now).map(|()| Taken::Message);
            }
        };
        let index = header.index;
        let (key, at) = match self.recent.session(index) {
            Some(known) => known,
            None => self.find_session(index).inspect_err(|reason| {
                if *reason == DropReason::UnknownIndex {
                    self.disclaim(index, meta.from, now);
                }
            })?,
        };
        let peer = self.peers.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        let session = peer.sessions.get_mut(at).ok_or(DropReason::UnknownIndex)?;
        if session.is_expired(now) {
            return Err(DropReason::Expired);
        }
        let plain = session.opener.open_parsed(header, record)?;
        let first = !std::mem::replace(&mut session.proven, true);
        if first {
            session.conf = None;
        }
        let new_source = session.seen_from.replace(meta.from.ip()) != Some(meta.from.ip());
        peer.unanswered_since = None;
        peer.heard = Some(index);
        peer.rx_bytes += plain.bytes.len() as u64;
        if first {
            peer.consider(index, self.identity.peer_id(), now);
        }
        if new_source {
            self.saw_source(key, meta.from.ip());
        }
        if plain.bytes.is_empty() {
            return Ok(Taken::Keepalive(index));
        }
        let opened = self.accept(key, meta.ecn, plain.bytes, plain.flags, now)?;
        self.tell_flows(sink);
        self.owe_acknowledgement(key, now);
        sink.packet(opened).map_err(|_| DropReason::SinkFull)?;
        Ok(Taken::Opened(index))
    }

    /// Passes updates of translated flows to the other lanes, ahead of the packet that made them.
    #[inline]
    fn tell_flows<'b>(&mut self, sink: &mut impl PacketSink<'b>) {
        while let Some(update) = self.nat.poll_update() {
            if sink.lane_update(LaneUpdate { lane: self.lane.0, change: LaneChange::Flow(update) }).is_err() {
                self.nat.return_update(update);
                break;
            }
        }
    }

    /// Sees to it that a peer hears something within [`KEEPALIVE`] of the packet it sent.
    #[inline]
    fn owe_acknowledgement(&mut self, key: PeerKey, now: Instant) {
        if let Some(peer) = self.peers.find_mut(key)
            && peer.unacknowledged_since.is_none()
        {
            peer.unacknowledged_since = Some(now);
            self.timers.arm(Timer::Peer(key), now + KEEPALIVE);
        }
    }

    /// The peer that a session is with, and the session's place there.
    fn find_session(&mut self, index: SessionIndex) -> Result<(PeerKey, usize), DropReason> {
        let key = match self.peers.index(index) {
            Some(IndexUse::Session(key)) => key,
            Some(IndexUse::Ask(_) | IndexUse::HalfOpen) => return Err(DropReason::BeforeConfirm),
            Some(IndexUse::Erased) => return Err(DropReason::Expired),
            Some(IndexUse::Refused) => return Err(DropReason::Certificate),
            None => return Err(DropReason::UnknownIndex),
        };
        let peer = self.peers.find(key).ok_or(DropReason::UnknownIndex)?;
        let at = peer.sessions.iter().position(|session| session.local == index);
        let at = at.ok_or(DropReason::UnknownIndex)?;
        self.recent.note_session(index, key, at);
        Ok((key, at))
    }

    /// The checks between an authentic record and the device: a well-formed packet, from an address of the peer that
    /// sealed it, to this pod.
    fn accept<'b>(
        &mut self,
        key: PeerKey,
        outer_ecn: u8,
        bytes: &'b mut [u8],
        flags: u8,
        now: Instant,
    ) -> Result<Opened<'b>, DropReason> {
        let partial = flags & FLAG_CSUM_PARTIAL != 0;
        let inner = IpPacket::parse(&*bytes).map_err(|_| DropReason::InnerMalformed)?;
        let (source, destination, inner_ecn) = (inner.source(), inner.destination(), inner.ecn());
        let vnet =
            if partial { unfinished(&inner).ok_or(DropReason::InnerMalformed)? } else { VnetHdr::default() };
        let known = self.recent.peer(Direction::In, source, destination, now).filter(|_| self.nat.is_empty());
        let layout = inner.layout();
        if !known.is_some_and(|known| self.peers.are_one_pod(known, key)) {
            self.admit(key, bytes, partial, now)?;
        }
        // RFC 6040 section 4.2: a congestion mark on the outer header moves inside, or kills what cannot carry it.
        let ecn = combine_ecn(inner_ecn, outer_ecn).ok_or(DropReason::Policy)?;
        if ecn != inner_ecn
            && let Ok(mut inner) = IpPacket::parse(&mut *bytes)
        {
            inner.set_ecn(ecn);
        }
        Ok(Opened::new(bytes, layout, vnet))
    }

    /// Judges source and destination of a well-formed packet, and rewrites what a VIP has a part in: neither layout nor
    /// family.
    #[inline(never)]
    fn admit(
        &mut self,
        key: PeerKey,
        bytes: &mut [u8],
        partial: bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        let inner = &mut IpPacket::parse(bytes).map_err(|_| DropReason::InnerMalformed)?;
        let (source, destination) = (inner.source(), inner.destination());
        self.claim_certified(key, source);
        let (owner, mut until) = self.owner(source, now);
        let mut theirs = owner.is_some_and(|owner| self.peers.are_one_pod(owner, key));
        let fact = self.view().owner(source, now);
        let is_told = fact.is_some_and(|(prefix, ..)| prefix.prefix_len() == prefix.max_prefix_len());
        if !theirs && !is_told && self.may_own(key, source) && self.is_known_behind(source, key, now) {
            // Behind a VIP that another lane has asked.
            theirs = true;
            until = Some(now + MEMBER_BELIEVED);
        }
        if !is_tunnel_address(source) || !self.view().is_protected(source) || !theirs {
            return Err(DropReason::InnerSource);
        }
        if self.addresses.contains(&destination) {
            self.nat.note_direct(inner, now);
            if self.nat.is_empty() {
                self.recent.note(Direction::In, source, destination, key, until);
            }
        } else {
            let served = self.peers.find(key).is_some_and(|peer| peer.served.contains(&destination));
            let own = self.addresses.iter().copied().find(|own| own.is_ipv4() == destination.is_ipv4());
            match own {
                Some(own) if served => {
                    self.nat.serve(inner, partial, own, now).map_err(NatError::drop_reason)?
                }
                _ => return Err(DropReason::InnerDestination),
            }
        }
        match self.nat.unbalance(inner, partial, now) {
            NatOutcome::Refused => Err(DropReason::Policy),
            NatOutcome::Rewritten | NatOutcome::Untouched => Ok(()),
        }
    }

    /// Tells if another lane has found this member behind `address`.
    fn is_known_behind(&self, address: IpAddr, key: PeerKey, now: Instant) -> bool {
        self.peers.find(key).is_some_and(|peer| self.members.is_behind(address, peer.id, now))
    }

    /// A peer's records come from an address they have not come from before. It becomes the peer's if the peer says
    /// so too and nobody else holds it.
    fn saw_source(&mut self, key: PeerKey, source: IpAddr) {
        let Some(peer) = self.peers.find(key) else { return };
        if peer.asserted.contains(&source) && self.peers.owner(source).is_none() {
            self.make_owner(key, source);
        }
    }

    /// Gives `address` to the peer, which has proven that it is there.
    pub(super) fn make_owner(&mut self, key: PeerKey, address: IpAddr) {
        let before = self.peers.owner(address);
        if is_tunnel_address(address)
            && self.view().is_protected(address)
            && self.may_own(key, address)
            && self.peers.own(key, address)
        {
            self.recent.forget();
            if before.is_some_and(|before| self.peers.are_one_pod(before, key)) {
                // From one lane to another: nobody else is concerned.
                return;
            }
            self.delta.stick(address);
            self.asks.answered(address);
            self.announced.remove(&address);
            self.own_vips.remove(&address);
            self.push_event(crate::event::Event::Internal { destination: address });
        }
    }
}

/// The header for a packet whose TCP or UDP checksum is unfinished, from the packet itself. `None` for anything that
/// cannot be in that state: other protocols, and fragments.
fn unfinished(inner: &IpPacket<&[u8]>) -> Option<VnetHdr> {
    if inner.fragment().is_some() {
        return None;
    }
    let csum_offset = match inner.transport() {
        Some(Transport::Tcp) => 16,
        Some(Transport::Udp) => 6,
        _ => return None,
    };
    let csum_start = u16::try_from(inner.layout().transport_offset()).ok()?;
    Some(VnetHdr { needs_csum: true, csum_start, csum_offset, ..VnetHdr::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::samples::{Body, Sample};

    fn header(bytes: &[u8]) -> Option<VnetHdr> {
        unfinished(&IpPacket::parse(bytes).expect("well-formed"))
    }

    #[test]
    fn offsets_of_an_unfinished_checksum_come_from_the_packet_itself() {
        for (source, destination, start) in [("10.0.0.1", "10.0.0.2", 20), ("fd00::1", "fd00::2", 40)] {
            for (bytes, offset) in [
                (Sample::tcp(source, destination, (1, 2), 0x10), 16),
                (Sample::udp(source, destination, (1, 2)), 6),
            ] {
                let vnet = header(&bytes).expect("TCP and UDP may be unfinished");
                assert_eq!((vnet.needs_csum, vnet.csum_start, vnet.csum_offset), (true, start, offset));
                assert_eq!((vnet.gso_type, vnet.gso_size), Default::default());
            }
        }
    }

    #[test]
    fn nothing_but_whole_tcp_and_udp_may_have_an_unfinished_checksum() {
        assert_eq!(header(&Sample::echo("10.0.0.1", "10.0.0.2", true, 7)), None);
        assert_eq!(header(&Sample::echo("fd00::1", "fd00::2", true, 7)), None);
        let opaque = Body::Opaque { protocol: 132, payload: vec![1; 40] };
        assert_eq!(header(&Sample::new("10.0.0.1", "10.0.0.2", opaque).build()), None);
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![1; 600] };
            for fragment in Sample::new(source, destination, body).fragments(200) {
                assert_eq!(header(&fragment), None);
            }
        }
    }
}
