//! Addresses, and the peers that they belong to.

use std::{net::IpAddr, time::Instant};

use super::{Peers, peer::Peer};
use crate::{
    lane_update::LaneChange,
    tunnel::{limits::MAX_OWNED, outbox::Outbox, peer_key::PeerKey},
};

impl Peers {
    pub(in crate::tunnel) fn owner(&self, address: IpAddr) -> Option<PeerKey> {
        self.owners.get(&address).copied()
    }

    /// Makes `address` belong to `key`. Whoever owned it before does so no longer. False: it did already, or there is no
    /// room.
    pub(in crate::tunnel) fn own(&mut self, key: PeerKey, address: IpAddr, outbox: &mut Outbox) -> bool {
        let before = self.owners.get(&address).copied();
        if before == Some(key) {
            return false;
        }
        let Some(peer) = self.find_mut(key) else { return false };
        if peer.owned.len() >= MAX_OWNED {
            return false;
        }
        peer.owned.push(address);
        let id = peer.id;
        if let Some(before) = before.and_then(|before| self.find_mut(before)) {
            before.owned.retain(|owned| *owned != address);
            outbox.lane_change(LaneChange::Lost { address, peer: before.id });
        }
        outbox.lane_change(LaneChange::Found { address, peer: id });
        self.owners.insert(address, key);
        self.revision += 1;
        true
    }

    /// Takes from a peer the addresses that are not `kept`.
    pub(in crate::tunnel) fn disown(&mut self, key: PeerKey, kept: impl Fn(IpAddr) -> bool) {
        let Some(peer) = self.find_mut(key) else { return };
        let lost: Vec<IpAddr> = peer.owned.iter().copied().filter(|address| !kept(*address)).collect();
        peer.owned.retain(|address| !lost.contains(address));
        for address in &lost {
            self.owners.remove(address);
        }
        self.revision += u64::from(!lost.is_empty());
    }

    /// Tells other lanes anew what is behind this peer's addresses: with each handshake.
    pub(in crate::tunnel) fn tell_owned(&self, key: PeerKey, outbox: &mut Outbox) {
        let Some(peer) = self.find(key) else { return };
        for address in &peer.owned {
            outbox.lane_change(LaneChange::Found { address: *address, peer: peer.id });
        }
    }

    /// Tells if another lane of the same member holds `address` and can be sent to.
    pub(in crate::tunnel) fn has_other_lane_for(&self, key: PeerKey, address: IpAddr, now: Instant) -> bool {
        self.owner(address).is_some_and(|owner| {
            owner != key
                && self.are_one_pod(owner, key)
                && self.find(owner).is_some_and(|owner| owner.sending(now).is_some())
        })
    }

    /// The address at which to ask for a peer: one that it still owns, where its records go if possible. Not an address
    /// that has moved to another peer since: an answer from there proves nothing about this one.
    pub(in crate::tunnel) fn where_to_ask(&self, key: PeerKey) -> Option<IpAddr> {
        let peer = self.find(key)?;
        let mut owned =
            peer.endpoints().filter(|to| peer.owned.contains(to)).chain(peer.owned.iter().copied());
        owned.next().or_else(|| Some(peer.any_endpoint()?.ip()))
    }

    /// Addresses that lanes of the same member behind lane `last` own, of the families that it was reached over at
    /// `key` too: there both sides know each other's addresses.
    pub(in crate::tunnel) fn held_by_later_lanes(&self, key: PeerKey, last: u8) -> Vec<IpAddr> {
        let Some(peer) = self.find(key) else { return Vec::new() };
        let others = self.lanes(peer.id).filter(|other| *other != key).filter_map(|other| self.find(other));
        let later = others.filter(|other| other.lane > last).flat_map(|other| other.owned.iter().copied());
        later.filter(|address| peer.was_reached_over(*address)).collect()
    }

    /// `key` proved to be at `address`: others that were there and were reset are gone, and lose all of their addresses,
    /// which are asked for again; services would stay with them until their sessions end.
    pub(in crate::tunnel) fn succeed(&mut self, key: PeerKey, address: IpAddr) {
        if self.owner(address) != Some(key) {
            return;
        }
        let was_here = |peer: &Peer| peer.any_endpoint().is_some_and(|endpoint| endpoint.ip() == address);
        let mut gone = self.keys();
        gone.retain(|other| {
            let reset = self.find(*other).is_some_and(|peer| peer.reset_at.is_some() && was_here(peer));
            reset && !self.are_one_pod(*other, key)
        });
        gone.into_iter().for_each(|key| self.disown(key, |_| false));
    }

    /// Tells if somebody else has proven to be at the address that records to this peer go to, and can be sent to.
    pub(in crate::tunnel) fn has_heir(&self, key: PeerKey, endpoint: IpAddr, now: Instant) -> bool {
        let heir = self.owner(endpoint).filter(|heir| !self.are_one_pod(*heir, key));
        heir.and_then(|heir| self.find(heir)).and_then(|heir| heir.sending(now)).is_some()
    }
}
