//! A bound for peers: any holder of the tenant's key can make ever new static keys.

use std::{net::IpAddr, time::Instant};

use super::Peers;
use crate::{
    crypto::PeerId,
    tunnel::{limits::PEERS_OF_A_SOURCE, outbox::Outbox, peer_key::PeerKey, source::Source},
};

impl Peers {
    /// Makes room for this lane of a member, whose handshake came from `source`: no more than `most` peers there are, and
    /// no more than a share of them that come from one source. The one that was of the least use loses its sessions, which
    /// come back with traffic; what is known of its addresses stays.
    pub(in crate::tunnel) fn make_room_for(
        &mut self,
        (member, lane): (PeerId, u8),
        source: IpAddr,
        most: usize,
        now: Instant,
        outbox: &mut Outbox,
    ) {
        if self.by_id.contains_key(&(member, lane)) {
            return;
        }
        let network = Source::network(source);
        let is_of_source = |key: &PeerKey| {
            self.find(*key).is_some_and(|peer| peer.endpoints().any(|to| Source::network(to) == network))
        };
        let of_source: Vec<PeerKey> = self.by_id.values().copied().filter(is_of_source).collect();
        let out = if of_source.len() >= (most / PEERS_OF_A_SOURCE).max(1) {
            self.least_useful(of_source.into_iter())
        } else if self.by_id.len() >= most {
            self.least_useful(self.by_id.values().copied())
        } else {
            None
        };
        if let Some(out) = out {
            self.end_sessions(out, |_| true, now, outbox);
        }
    }

    /// The peer that nothing was ever sent to, or that was idle for longest.
    fn least_useful(&self, keys: impl Iterator<Item = PeerKey>) -> Option<PeerKey> {
        let use_of = |key: &PeerKey| self.find(*key).map(|peer| (peer.tx_bytes > 0, peer.active));
        keys.min_by_key(use_of)
    }
}
