//! The other lanes of this pod, and the members that they have found behind addresses. Behind a VIP different lanes may
//! find different pods.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::{
    limits::{MAX_MEMBERS, SPEAKS_FOR},
    outcome::LaneId,
};
use crate::crypto::PeerId;

/// This lane's number, and the findings of others: by which lane, and until when each is believed. A lane tells it anew with
/// every handshake; beyond the sessions it is believed for as long as a flow to a service may be idle ([`SPEAKS_FOR`]).
#[derive(Debug)]
pub(super) struct Lanes {
    own: LaneId,
    members: BTreeMap<(IpAddr, PeerId, u8), Instant>,
    /// Grows with each change that ends what a decision of the data path may rest on.
    revision: u64,
}

impl Lanes {
    pub(super) fn new(own: LaneId) -> Self {
        Self { own, members: BTreeMap::new(), revision: 0 }
    }

    /// This lane.
    pub(super) fn own(&self) -> LaneId {
        self.own
    }

    /// Grows with each change that ends what a decision of the data path may rest on.
    #[inline]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Lane `lane` has found `peer` behind `address`. False: there is no room.
    pub(super) fn found(&mut self, address: IpAddr, peer: PeerId, lane: u8, now: Instant) -> bool {
        let key = (address, peer, lane);
        if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&key) {
            self.members.retain(|_, until| *until > now);
        }
        if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&key) {
            return false;
        }
        self.members.insert(key, now + SPEAKS_FOR);
        true
    }

    /// Notes that what was found is in use.
    pub(super) fn used(&mut self, address: IpAddr, peer: PeerId, now: Instant) {
        for (_, until) in self.members.range_mut((address, peer, 0)..=(address, peer, u8::MAX)) {
            if *until > now {
                *until = now + SPEAKS_FOR;
            }
        }
    }

    /// Removes what `lane` reported of `peer` at `address`.
    pub(super) fn lost(&mut self, address: IpAddr, peer: PeerId, lane: u8) {
        self.revision += 1;
        self.members.remove(&(address, peer, lane));
    }

    /// Forgets every finding.
    pub(super) fn clear(&mut self) {
        self.revision += 1;
        self.members.clear();
    }

    /// Tells if any other lane holds that `peer` is behind `address`.
    pub(super) fn is_behind(&self, address: IpAddr, peer: PeerId, now: Instant) -> bool {
        self.members.range((address, peer, 0)..=(address, peer, u8::MAX)).any(|(_, until)| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    #[test]
    fn a_member_is_behind_an_address_as_long_as_one_lane_holds_so() {
        let (now, address) = (start(), IpAddr::from([10, 0, 0, 1]));
        let [one, other] = [PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32])];
        let mut members = Lanes::new(LaneId::ZERO);
        assert!(members.found(address, one, 0, now) && members.found(address, one, 15, now));
        assert!(members.is_behind(address, one, now) && !members.is_behind(address, other, now));
        members.lost(address, one, 15);
        members.lost(address, one, 3);
        assert!(members.is_behind(address, one, now));
        assert!(!members.is_behind(address, one, now + SPEAKS_FOR));
        members.lost(address, one, 0);
        assert!(!members.is_behind(address, one, now));
    }

    #[test]
    fn what_was_lost_ends_decisions() {
        let mut lanes = Lanes::new(LaneId::ZERO);
        let before = lanes.revision();
        lanes.lost(IpAddr::from([10, 0, 0, 1]), PeerId::from_bytes([1; 32]), 1);
        let lost = lanes.revision();
        lanes.clear();
        assert!(before < lost && lost < lanes.revision());
    }

    #[test]
    fn members_are_bounded_and_those_of_the_past_make_room() {
        let (now, peer) = (start(), PeerId::from_bytes([1; 32]));
        let mut members = Lanes::new(LaneId::ZERO);
        let address = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        assert!((0..MAX_MEMBERS).all(|n| members.found(address(n), peer, 0, now)));
        assert!(!members.found(address(MAX_MEMBERS), peer, 0, now));
        assert!(members.found(address(0), peer, 0, now), "known ones are renewed");
        assert!(members.found(address(MAX_MEMBERS), peer, 0, now + SPEAKS_FOR));
    }
}
