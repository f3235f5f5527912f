//! Output: what waits in the outbox, sealed as it is taken out.

use std::{net::SocketAddr, time::Instant};

use super::{
    HeldPacket, Output, Tunnel,
    outbox::Entry,
    peer::{Peer, PeerKey},
};
use crate::{
    record::{DATA_OVERHEAD, SessionIndex},
    sink::Transmit,
    stats::DropReason,
};

impl Tunnel {
    pub(super) fn next_output(&mut self, buf: &mut [u8], now: Instant) -> Output {
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
        let peer = self.peers.find_mut(key)?;
        let to = peer.any_endpoint()?;
        let session = peer.session_mut(session).filter(|session| !session.is_expired(now))?;
        let sealed = session.seal_one(&[], 0, to, buf);
        if sealed.is_ok() {
            peer.unacknowledged_since = None;
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
        let longest = usize::from(self.config.max_datagram).min(buf.len());
        let sealed = match self.peers.find_mut(key) {
            Some(peer) => seal_piece(peer, &mut packet, &mut buf[..longest], now),
            None => Err(DropReason::HeldTimeout),
        };
        let more = matches!(sealed, Ok((_, true)));
        let session = self.peers.find(key).and_then(|peer| peer.sending(now));
        let rekey = session.is_some_and(|session| session.wants_rekey(now));
        if more {
            self.outbox.put_back(key, packet);
        } else if let Some(peer) = self.peers.find_mut(key) {
            peer.queued = peer.queued.saturating_sub(1);
        }
        let (transmit, _) = sealed?;
        self.sent(key, 1, transmit.len - DATA_OVERHEAD, rekey, now);
        Ok(transmit)
    }

    pub(super) fn send(&mut self, to: SocketAddr, bytes: impl Into<Box<[u8]>>) {
        self.outbox.datagram(to, bytes, false);
    }

    /// Answers an INIT.
    pub(super) fn answer(&mut self, to: SocketAddr, resp: impl Into<Box<[u8]>>) {
        self.outbox.datagram(to, resp, true);
    }

    pub(super) fn send_empty(&mut self, to: PeerKey, session: SessionIndex) {
        self.outbox.empty(to, session);
    }

    pub(super) fn queue_packet(&mut self, to: PeerKey, packet: HeldPacket) {
        if !self.outbox.packet(to, packet) {
            self.stats.drop(DropReason::HeldFull);
        } else if let Some(peer) = self.peers.find_mut(to) {
            peer.queued += 1;
        }
    }
}

/// Copies a datagram to the front of `buf`.
fn copy_to(buf: &mut [u8], datagram: &[u8]) -> Result<usize, DropReason> {
    let room = buf.get_mut(..datagram.len()).ok_or(DropReason::TooBig)?;
    room.copy_from_slice(datagram);
    Ok(datagram.len())
}

/// Seals one piece of `packet` on the session that is sent on; true: more follow.
fn seal_piece(
    peer: &mut Peer,
    packet: &mut HeldPacket,
    buf: &mut [u8],
    now: Instant,
) -> Result<(Transmit, bool), DropReason> {
    let to = peer.endpoint(packet.is_v4()).ok_or(DropReason::UnknownDestination)?;
    let finish = !peer.vnet;
    let session = peer.sending_mut(now).ok_or(DropReason::Expired)?;
    let (piece, flags, more) = packet.next_piece(finish).ok_or(DropReason::Malformed)?;
    Ok((session.seal_one(piece, flags, to, buf)?, more))
}
