//! What waits to be sent: handshake messages, keepalives, and packets that were held.

use std::{net::SocketAddr, time::Instant};

use super::{Tunnel, limits::MAX_TRANSMITS, peer::PeerKey};
use crate::{
    record::{DATA_OVERHEAD, SessionIndex},
    sink::Transmit,
    stats::DropReason,
};

/// What waits in `poll_transmit`, in order.
pub(super) enum Queue {
    Datagram { to: SocketAddr, bytes: Box<[u8]> },
    Empty { to: PeerKey, session: SessionIndex },
    Packet { to: PeerKey, bytes: Vec<u8> },
}

impl Tunnel {
    /// Seals a packet that waited. With `session` on that session, else on the one that is sent on.
    pub(super) fn seal_queued(
        &mut self,
        key: PeerKey,
        session: Option<SessionIndex>,
        packet: &[u8],
        buf: &mut [u8],
        now: Instant,
    ) -> Option<Transmit> {
        let outcome = self.try_seal_queued(key, session, packet, buf, now);
        match outcome {
            Ok(transmit) => {
                if packet.is_empty() {
                    if let Some(peer) = self.peers.find_mut(key) {
                        peer.unacknowledged_since = None;
                    }
                } else {
                    self.sent(key, packet.len(), now);
                }
                Some(transmit)
            }
            Err(reason) => {
                if !packet.is_empty() {
                    self.stats.drop(reason);
                }
                None
            }
        }
    }

    pub(super) fn try_seal_queued(
        &mut self,
        key: PeerKey,
        session: Option<SessionIndex>,
        packet: &[u8],
        buf: &mut [u8],
        now: Instant,
    ) -> Result<Transmit, DropReason> {
        let peer = self.peers.find_mut(key).ok_or(DropReason::HeldTimeout)?;
        let to = match packet.first() {
            Some(first) => peer.endpoint(first >> 4 == 4),
            None => peer.any_endpoint(),
        };
        let to = to.ok_or(DropReason::UnknownDestination)?;
        let session = match session {
            Some(local) => peer.session_mut(local).filter(|session| !session.is_expired(now)),
            None => peer.sending_mut(now),
        };
        let session = session.ok_or(DropReason::Expired)?;
        let len = packet.len() + DATA_OVERHEAD;
        let room = buf.get_mut(..len).ok_or(DropReason::TooBig)?;
        let counter = session.sealer.counters(1).ok().and_then(|mut counters| counters.take());
        session.sealer.seal(counter.ok_or(DropReason::Limit)?, 0, packet, room);
        Ok(Transmit { to, len, ecn: 0 })
    }

    pub(super) fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back(Queue::Datagram { to, bytes: bytes.into() });
        }
    }

    pub(super) fn send_empty(&mut self, to: PeerKey, session: SessionIndex) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back(Queue::Empty { to, session });
        }
    }

    pub(super) fn queue_packet(&mut self, to: PeerKey, bytes: Vec<u8>) {
        if self.transmits.len() >= MAX_TRANSMITS {
            self.stats.drop(DropReason::HeldFull);
            return;
        }
        if let Some(peer) = self.peers.find_mut(to) {
            peer.queued += 1;
        }
        self.transmits.push_back(Queue::Packet { to, bytes });
    }
}
