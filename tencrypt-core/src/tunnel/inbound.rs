//! From the network to the device.

use std::time::Instant;

use super::{
    Inbound, Tunnel,
    index::IndexUse,
    peer_key::PeerKey,
    peers::{Peer, Received},
    policy::{Direction, Pair},
};
use crate::{
    nat::{NatError, NatOutcome},
    offload::{Opened, VnetHdr},
    packet::{IpPacket, Transport, combine_ecn},
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
            inbound.records += u16::from(record.first().copied() == Some(layout::DATA));
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
        let place = match self.peers.last_session(index) {
            Some(place) => place,
            None => self.find_session(index, now).inspect_err(|reason| {
                if *reason == DropReason::UnknownIndex {
                    self.disclaim(index, meta.from, now);
                }
            })?,
        };
        let Self { peers, membership, .. } = self;
        let Received { key, bytes, flags } =
            peers.open(place, header, record, || membership.peer_id(), now)?;
        if bytes.is_empty() || !self.accept(key, meta.ecn, (bytes, flags), now, sink)? {
            return Ok(Taken::Keepalive(index));
        }
        Ok(Taken::Opened(index))
    }

    /// Passes updates to the other lanes, ahead of the packet that made them.
    #[inline]
    fn tell_flows<'b>(&mut self, sink: &mut impl PacketSink<'b>) {
        while let Some(update) = self.outbox.pop_update() {
            if let Err(update) = sink.lane_update(update) {
                self.outbox.return_update(update);
                break;
            }
        }
    }

    /// The peer that a session is with, and the session's place there.
    fn find_session(&mut self, index: SessionIndex, now: Instant) -> Result<(PeerKey, usize), DropReason> {
        match self.exchanges.index(index, now) {
            Some(IndexUse::Session(key)) => self.peers.place_of(key, index).ok_or(DropReason::UnknownIndex),
            Some(IndexUse::Attempt(_) | IndexUse::HalfOpen) => Err(DropReason::BeforeConfirm),
            Some(IndexUse::Erased) => Err(DropReason::Expired),
            Some(IndexUse::Refused) => Err(DropReason::Certificate),
            None => Err(DropReason::UnknownIndex),
        }
    }

    /// The checks between an authentic record and the device: a well-formed packet, from an address of the peer that
    /// sealed it, to this pod. It goes to the sink from here: a value of its size is not passed through results. False:
    /// it waits for the peer to prove that address.
    #[inline]
    fn accept<'b>(
        &mut self,
        key: PeerKey,
        outer_ecn: u8,
        (bytes, flags): (&'b mut [u8], u8),
        now: Instant,
        sink: &mut impl PacketSink<'b>,
    ) -> Result<bool, DropReason> {
        let partial = flags & FLAG_CSUM_PARTIAL != 0;
        let inner = IpPacket::parse(&*bytes).map_err(|_| DropReason::InnerMalformed)?;
        let (source, destination, inner_ecn) = (inner.source(), inner.destination(), inner.ecn());
        let vnet =
            if partial { unfinished(&inner).ok_or(DropReason::InnerMalformed)? } else { VnetHdr::default() };
        let pair = Pair { direction: Direction::In, source, destination };
        let known = self.policy.remembered(pair, self.revision(), now).filter(|_| self.nat.is_empty());
        let layout = inner.layout();
        // RFC 6040 section 4.2: a congestion mark on the outer header moves inside, or kills what cannot carry it.
        let ecn = combine_ecn(inner_ecn, outer_ecn).ok_or(DropReason::Policy)?;
        if ecn != inner_ecn {
            IpPacket::known(&mut *bytes, layout).set_ecn(ecn);
        }
        if !known.is_some_and(|known| self.peers.are_one_pod(known, key)) {
            let admitted = self.admit(key, &mut IpPacket::known(&mut *bytes, layout), partial, now);
            self.collect_flow_updates();
            if admitted == Err(DropReason::InnerSource) && self.wait(key, source, (&mut *bytes, vnet), now) {
                self.peers.owe_acknowledgement(key, now);
                return Ok(false);
            }
            admitted?;
        }
        self.tell_flows(sink);
        self.peers.owe_acknowledgement(key, now);
        sink.packet(Opened::new(bytes, layout, vnet)).map_err(|_| DropReason::SinkFull)?;
        Ok(true)
    }

    /// Judges source and destination of a well-formed packet, and rewrites what a VIP has a part in: neither layout nor
    /// family.
    #[inline(never)]
    pub(super) fn admit(
        &mut self,
        key: PeerKey,
        inner: &mut IpPacket<&mut [u8]>,
        partial: bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        let (source, destination) = (inner.source(), inner.destination());
        self.claim_certified(key, source, now);
        let until = self.speaks_until(key, source, now).ok_or(DropReason::InnerSource)?;
        if self.policy.is_own(destination) {
            // An address that was taken for a service's until this side heard that it has it: what was begun goes on as it began.
            let goes_on = self.nat.serves(source, destination);
            match if goes_on { self.nat.go_on_serving(inner, partial, now) } else { NatOutcome::Untouched } {
                NatOutcome::Untouched => self.nat.note_direct(inner, now),
                NatOutcome::Rewritten => {}
                NatOutcome::Refused => return Err(DropReason::Policy),
            }
            if self.nat.is_empty() {
                let pair = Pair { direction: Direction::In, source, destination };
                self.policy.remember(pair, key, self.revision(), Some(until));
            }
        } else {
            // Flows that were begun go on, whatever the peer has asked for since.
            let is_served =
                |peer: &&Peer| peer.is_served_under(destination) || self.nat.serves(source, destination);
            let served = self.peers.find(key).filter(is_served);
            match (self.policy.own_address_beside(destination), served) {
                (Some(own), Some(peer)) => {
                    self.nat.serve(inner, partial, own, peer.id(), now).map_err(NatError::drop_reason)?
                }
                _ => return Err(DropReason::InnerDestination),
            }
        }
        match self.nat.unbalance(inner, partial, now) {
            NatOutcome::Refused => Err(DropReason::Policy),
            NatOutcome::Rewritten | NatOutcome::Untouched => Ok(()),
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
