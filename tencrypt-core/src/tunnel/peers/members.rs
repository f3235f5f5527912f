//! Members: the lanes of each, which of them to send to, and what is left of one without sessions.

use std::{net::IpAddr, time::Instant};

use super::{Peers, past::Past, peer::Peer};
use crate::{
    crypto::PeerId,
    tunnel::{limits::MAX_PAST, peer_key::PeerKey},
};

impl Peers {
    /// The lane of this member to send to in this family: one that lives and that there is a way to, and of those the one
    /// that this side's INIT leads to, which both know to be in use.
    #[inline]
    pub(in crate::tunnel) fn pick(&self, member: PeerId, is_v4: bool, now: Instant) -> Option<PeerKey> {
        self.pick_if(member, is_v4, |peer| !peer.is_way_lost(now), now)
    }

    /// The same, though the way there may be lost.
    pub(in crate::tunnel) fn pick_any(&self, member: PeerId, is_v4: bool, now: Instant) -> Option<PeerKey> {
        self.pick_if(member, is_v4, |_| true, now)
    }

    #[inline]
    fn pick_if(
        &self,
        member: PeerId,
        is_v4: bool,
        fits: impl Fn(&Peer) -> bool,
        now: Instant,
    ) -> Option<PeerKey> {
        let is_ready = |key: &PeerKey| {
            self.find(*key).is_some_and(|peer| {
                !peer.is_dead() && peer.endpoint(is_v4).is_some() && peer.sending(now).is_some() && fits(peer)
            })
        };
        let preferred = self.preferred.get(&member).copied().filter(is_ready);
        preferred.or_else(|| self.lanes(member).find(is_ready))
    }

    /// Tells if a lane of this member has a session and answers.
    pub(in crate::tunnel) fn is_alive(&self, member: PeerId, now: Instant) -> bool {
        let mut lanes = self.lanes(member).filter_map(|key| self.find(key));
        lanes.any(|peer| !peer.is_dead() && peer.sending(now).is_some())
    }

    /// Any lane of this member.
    pub(in crate::tunnel) fn any_lane(&self, member: PeerId) -> Option<PeerKey> {
        self.preferred.get(&member).copied()
    }

    /// The lanes of this member that there are sessions with.
    pub(in crate::tunnel) fn lanes(&self, member: PeerId) -> impl Iterator<Item = PeerKey> {
        self.by_id.range((member, 0)..=(member, u8::MAX)).map(|(_, key)| *key)
    }

    /// Tells if these are lanes of one member.
    pub(in crate::tunnel) fn are_one_pod(&self, one: PeerKey, other: PeerKey) -> bool {
        one == other
            || matches!((self.find(one), self.find(other)), (Some(one), Some(other)) if one.id == other.id)
    }

    /// Sends to this lane of its member from here on: this side's INIT led there. Or, if that is not so, where no other is.
    pub(super) fn prefer(&mut self, key: PeerKey, initiated: bool) {
        let Some(member) = self.find(key).map(Peer::id) else { return };
        if initiated || !self.preferred.contains_key(&member) {
            self.preferred.insert(member, key);
        }
    }

    /// Remembers a lane that has no session any more.
    pub(super) fn remember(&mut self, peer: &Peer, now: Instant) {
        if self.preferred.get(&peer.id).is_some_and(|key| self.find(*key).is_none()) {
            self.preferred.remove(&peer.id);
            let next = self.lanes(peer.id).next();
            if let Some(next) = next {
                self.preferred.insert(peer.id, next);
            }
        }
        if self.past.len() >= MAX_PAST {
            let oldest = self.past.iter().min_by_key(|(_, past)| past.left).map(|(lane, _)| *lane);
            oldest.and_then(|oldest| self.past.remove(&oldest));
        }
        self.past.insert((peer.id, peer.lane), Past::of(peer, now));
    }

    /// An address of its own at which a member without sessions was last, of this family.
    pub(in crate::tunnel) fn last_address(&self, member: PeerId, is_v4: bool) -> Option<IpAddr> {
        let mut lanes = self.past.range((member, 0)..=(member, u8::MAX)).map(|(_, past)| past.own);
        lanes.find_map(|[v4, v6]| if is_v4 { v4 } else { v6 })
    }

    /// Peers whose records go to this address.
    pub(in crate::tunnel) fn at_endpoint(&self, address: IpAddr) -> impl Iterator<Item = PeerKey> {
        let all = self.by_id.values().copied();
        all.filter(move |key| self.find(*key).is_some_and(|peer| peer.has_endpoint(address)))
    }
}
