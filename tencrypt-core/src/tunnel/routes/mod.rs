//! Beliefs on addresses: the member that is sent to, and the members that may send from it.
//!
//! Two relations, since behind a service's address there are several pods. Both hold members by their static keys and
//! outlive sessions. A member enters them only by a proof: it received what this side sent to that address. What it says
//! of itself, and where its datagrams say that they come from, is none.

mod place;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    time::Instant,
};

use self::place::Place;
pub(super) use self::place::{Change, Proof, Route};
use super::limits::{LISTED_FOR, MAX_SPEAKERS, SPEAKS_FOR};
use crate::{crypto::PeerId, keyed_hash::KeyedState};

/// The owner of both relations.
#[derive(Debug)]
pub(super) struct Routes {
    places: HashMap<IpAddr, Place, KeyedState>,
    /// Each member that may send from an address, with that address.
    by_member: BTreeSet<(PeerId, IpAddr)>,
    /// Grows with each change that a decision of the data path may depend on.
    revision: u64,
}

impl Routes {
    pub(super) fn new(hash_key: u64) -> Self {
        let places = HashMap::with_hasher(KeyedState { key: hash_key });
        Self { places, by_member: BTreeSet::new(), revision: 0 }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self, hash_key: u64) {
        *self = Self { revision: self.revision + 1, ..Self::new(hash_key) };
    }

    /// Grows with each change that a decision of the data path may depend on.
    #[inline]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The way to `address`, if it still holds.
    pub(super) fn route(&self, address: IpAddr, now: Instant) -> Option<Route> {
        self.places.get(&address)?.route(now)
    }

    /// Returns until when `member` may send from `address`, if it may.
    pub(super) fn speaks_until(&self, address: IpAddr, member: PeerId, now: Instant) -> Option<Instant> {
        self.places.get(&address)?.speaks_until(member, now)
    }

    /// Notes that a packet of `member` from `address`, or to it there, has passed: as a translated flow does, what holds
    /// the address of a service lives by being used.
    pub(super) fn used(&mut self, address: IpAddr, member: PeerId, now: Instant) {
        if let Some(place) = self.places.get_mut(&address) {
            place.used(member, now + SPEAKS_FOR, now);
        }
    }

    /// Takes a proof in. `is_alive` tells if a member still answers.
    pub(super) fn prove(
        &mut self,
        address: IpAddr,
        proof: Proof,
        is_alive: impl Fn(PeerId) -> bool,
        now: Instant,
    ) -> Change {
        if !self.by_member.contains(&(proof.member, address)) && self.by_member.len() >= MAX_SPEAKERS {
            self.make_room(now);
        }
        let until = now + if proof.is_named { LISTED_FOR } else { SPEAKS_FOR };
        let change = self.places.entry(address).or_default().prove(proof, until, is_alive, now);
        if change.gained {
            self.by_member.insert((proof.member, address));
        }
        for lost in &change.lost {
            self.by_member.remove(&(*lost, address));
        }
        self.drop_empty(address);
        self.revision += u64::from(change.gained || change.moved || !change.lost.is_empty());
        change
    }

    /// A handshake of `member`: what it names as its own stays its own.
    pub(super) fn renew(&mut self, member: PeerId, now: Instant) {
        for address in self.addresses(member) {
            if let Some(place) = self.places.get_mut(&address) {
                place.renew(member, now + LISTED_FOR);
            }
        }
    }

    /// Addresses that `member` may send from.
    pub(super) fn addresses(&self, member: PeerId) -> Vec<IpAddr> {
        let all = self.by_member.range((member, LOWEST)..).take_while(|(other, _)| *other == member);
        all.map(|(_, address)| *address).collect()
    }

    /// Addresses whose way leads to `member`.
    pub(super) fn routed(&self, member: PeerId, now: Instant) -> Vec<IpAddr> {
        let mut all = self.addresses(member);
        all.retain(|address| self.route(*address, now).is_some_and(|route| route.member == member));
        all
    }

    /// Takes the addresses from `member` that are not `kept`, and returns them.
    pub(super) fn take_from(
        &mut self,
        member: PeerId,
        kept: impl Fn(IpAddr, Option<Route>) -> bool,
        now: Instant,
    ) -> Vec<IpAddr> {
        let mut lost = self.addresses(member);
        lost.retain(|address| !kept(*address, self.route(*address, now)));
        for address in &lost {
            self.remove(*address, member);
        }
        lost
    }

    /// Takes an address from all members that are not `kept`, and returns them.
    pub(super) fn prune(&mut self, address: IpAddr, kept: impl Fn(PeerId) -> bool) -> Vec<PeerId> {
        let Some(place) = self.places.get(&address) else { return Vec::new() };
        let lost: Vec<PeerId> = place.members().filter(|member| !kept(*member)).collect();
        for member in &lost {
            self.remove(address, *member);
        }
        lost
    }

    fn remove(&mut self, address: IpAddr, member: PeerId) {
        if !self.by_member.remove(&(member, address)) {
            return;
        }
        self.revision += 1;
        if let Some(place) = self.places.get_mut(&address) {
            place.remove(member);
        }
        self.drop_empty(address);
    }

    fn drop_empty(&mut self, address: IpAddr) {
        if self.places.get(&address).is_some_and(Place::is_empty) {
            self.places.remove(&address);
        }
    }

    /// Drops what is over; and if that is little, what would be over first, a sixteenth of all, so that the search costs
    /// little for each that comes.
    fn make_room(&mut self, now: Instant) {
        let ends = |places: &HashMap<IpAddr, Place, KeyedState>, (member, address): &(PeerId, IpAddr)| {
            places.get(address).and_then(|place| place.speaks_until(*member, now))
        };
        let mut all: Vec<(Option<Instant>, PeerId, IpAddr)> =
            self.by_member.iter().map(|entry| (ends(&self.places, entry), entry.0, entry.1)).collect();
        all.sort_unstable();
        let over = all.iter().take_while(|(until, ..)| until.is_none()).count();
        for (_, member, address) in all.into_iter().take(over.max(MAX_SPEAKERS / 16)) {
            self.remove(address, member);
        }
    }
}

const LOWEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests;
