//! Queue of what is to be sent: handshake messages, keepalives, and packets that were held.

use std::{net::SocketAddr, time::Instant};

use super::{
    HeldPacket, Tunnel,
    limits::MAX_TRANSMITS,
    peer::{Peer, PeerKey},
    queue::Queue,
};
use crate::{
    record::{DATA_OVERHEAD, SessionIndex},
    sink::Transmit,
    stats::DropReason,
};

impl Tunnel {
    pub(super) fn next_transmit(&mut self, buf: &mut [u8], now: Instant) -> Option<Transmit> {
        while let Some(next) = self.transmits.pop_front() {
            let sent = match next {
                Queue::Datagram { to, bytes, from_tenant_port } => buf.get_mut(..bytes.len()).map(|room| {
                    room.copy_from_slice(&bytes);
                    Transmit { to, len: bytes.len(), ecn: 0, from_tenant_port }
                }),
                Queue::Empty { to, session } => self.seal_empty(to, session, buf, now),
                Queue::Packet { to, packet } => self.seal_held(to, packet, buf, now),
            };
            if sent.is_some() {
                return sent;
            }
        }
        None
    }

    fn seal_empty(
        &mut self,
        key: PeerKey,
        session: SessionIndex,
        buf: &mut [u8],
        now: Instant,
    ) -> Option<Transmit> {
        let peer = self.peers.find_mut(key)?;
        let to = peer.any_endpoint()?;
        let session = peer.session_mut(session).filter(|session| !session.is_expired(now))?;
        let transmit = session.seal_one(&[], 0, to, buf).ok()?;
        peer.unacknowledged_since = None;
        Some(transmit)
    }

    /// Seals the next piece of a packet that waited. What is left of it waits on, in front.
    fn seal_held(
        &mut self,
        key: PeerKey,
        mut packet: HeldPacket,
        buf: &mut [u8],
        now: Instant,
    ) -> Option<Transmit> {
        let sealed = match self.peers.find_mut(key) {
            Some(peer) => seal_piece(peer, &mut packet, buf, now),
            None => Err(DropReason::HeldTimeout),
        };
        let more = matches!(sealed, Ok((_, true)));
        let session = self.peers.find(key).and_then(|peer| peer.sending(now));
        let rekey = session.is_some_and(|session| session.wants_rekey(now));
        if more {
            self.transmits.push_front(Queue::Packet { to: key, packet });
        } else if let Some(peer) = self.peers.find_mut(key) {
            peer.queued = peer.queued.saturating_sub(1);
        }
        match sealed {
            Ok((transmit, _)) => {
                self.sent(key, 1, transmit.len - DATA_OVERHEAD, rekey, now);
                Some(transmit)
            }
            Err(reason) => {
                self.stats.drop(reason);
                None
            }
        }
    }

    pub(super) fn send(&mut self, to: SocketAddr, bytes: impl Into<Box<[u8]>>) {
        self.send_from(false, to, bytes);
    }

    /// Answers an INIT.
    pub(super) fn answer(&mut self, to: SocketAddr, resp: impl Into<Box<[u8]>>) {
        self.send_from(true, to, resp);
    }

    fn send_from(&mut self, from_tenant_port: bool, to: SocketAddr, bytes: impl Into<Box<[u8]>>) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back(Queue::Datagram { to, bytes: bytes.into(), from_tenant_port });
        }
    }

    pub(super) fn send_empty(&mut self, to: PeerKey, session: SessionIndex) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back(Queue::Empty { to, session });
        }
    }

    pub(super) fn queue_packet(&mut self, to: PeerKey, packet: HeldPacket) {
        if self.transmits.len() >= MAX_TRANSMITS {
            self.stats.drop(DropReason::HeldFull);
            return;
        }
        if let Some(peer) = self.peers.find_mut(to) {
            peer.queued += 1;
        }
        self.transmits.push_back(Queue::Packet { to, packet });
    }
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
