//! Output: what waits in the outbox, sealed as it is taken out.

use std::time::Instant;

use super::{HeldPacket, Output, Tunnel, outbox::Entry, peer_key::PeerKey, peers::Toward};
use crate::{
    record::{DATA_OVERHEAD, SessionIndex},
    sink::Transmit,
    stats::DropReason,
};

impl Tunnel {
    pub(super) fn next_output(&mut self, buf: &mut [u8], now: Instant) -> Output {
        self.stats.lane_updates_lost += self.outbox.take_updates_lost();
        if let Some(update) = self.outbox.pop_update() {
            return Output::LaneUpdate(update);
        }
        while let Some(entry) = self.outbox.pop() {
            let sent = match entry {
                Entry::Datagram { to, bytes, from_tenant_port } => {
                    copy_to(buf, &bytes).map(|len| Transmit { to, len, ecn: 0, from_tenant_port })
                }
                Entry::Empty { to, session } => match self.seal_empty(to, session, buf, now) {
                    Some(sealed) => sealed,
                    None => continue,
                },
                Entry::Packet { to, packet } => self.seal_held(to, packet, buf, now),
                Entry::Released(packet) => return Output::Released(packet),
                Entry::Opened(packet) => return Output::Opened(packet),
                Entry::Event(event) => return Output::Event(event),
            };
            match sent {
                Ok(transmit) => return Output::Transmit(transmit),
                Err(reason) => self.stats.drop(reason),
            }
        }
        Output::Timeout(self.next_timeout())
    }

    /// Seals a keepalive; `None` if its session is over.
    fn seal_empty(
        &mut self,
        key: PeerKey,
        session: SessionIndex,
        buf: &mut [u8],
        now: Instant,
    ) -> Option<Result<Transmit, DropReason>> {
        let (session, to) = self.peers.toward_session(key, session, now)?;
        let sealed = session.seal_one(&[], 0, to, buf);
        if sealed.is_ok() {
            self.peers.note_keepalive(key);
        }
        Some(sealed)
    }

    /// Seals the next piece of a packet that waited. What is left of it waits on, in front.
    fn seal_held(
        &mut self,
        key: PeerKey,
        mut packet: HeldPacket,
        buf: &mut [u8],
        now: Instant,
    ) -> Result<Transmit, DropReason> {
        let longest = usize::from(self.policy.config().max_datagram).min(buf.len());
        if self.peers.find(key).is_none() {
            return Err(DropReason::HeldTimeout);
        }
        let toward = self.peers.toward(key, packet.is_v4(), now);
        let sealed = toward.and_then(|toward| seal_piece(toward, &mut packet, &mut buf[..longest], now));
        match sealed {
            Ok(Piece { more: true, .. }) => self.outbox.put_back(key, packet),
            _ => self.peers.note_unqueued(key),
        }
        let Piece { transmit, rekey, .. } = sealed?;
        self.sent(key, 1, transmit.len - DATA_OVERHEAD, rekey, now);
        Ok(transmit)
    }

    pub(super) fn queue_packet(&mut self, to: PeerKey, packet: HeldPacket) {
        if self.outbox.packet(to, packet) {
            self.peers.note_queued(to);
        } else {
            self.stats.drop(DropReason::HeldFull);
        }
    }
}

/// Part of a packet that became a record.
struct Piece {
    transmit: Transmit,
    /// Others follow.
    more: bool,
    /// The session is to be replaced.
    rekey: bool,
}

/// Copies a datagram to the front of `buf`.
fn copy_to(buf: &mut [u8], datagram: &[u8]) -> Result<usize, DropReason> {
    let room = buf.get_mut(..datagram.len()).ok_or(DropReason::TooBig)?;
    room.copy_from_slice(datagram);
    Ok(datagram.len())
}

/// Seals one piece of `packet`.
fn seal_piece(
    toward: Toward<'_>,
    packet: &mut HeldPacket,
    buf: &mut [u8],
    now: Instant,
) -> Result<Piece, DropReason> {
    let Toward { session, to, finish, .. } = toward;
    let (piece, flags, more) = packet.next_piece(finish).ok_or(DropReason::Malformed)?;
    let transmit = session.seal_one(piece, flags, to, buf)?;
    Ok(Piece { transmit, more, rekey: session.wants_rekey(now) })
}
