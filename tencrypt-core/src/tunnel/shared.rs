//! What the lanes of a pod have in common: translated flows, and which member stands behind an address.
//!
//! Translation changes what the kernel's steering looks at. The two directions of a flow to a VIP come to different
//! lanes, and which, only the kernel of either pod knows: so the lane that a packet meets has to know what another one
//! has done. Packets of flows without a VIP take no lock: they meet one atomic load.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::{Deref, DerefMut},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{crypto::PeerId, nat::Nat};

#[expect(clippy::disallowed_types, reason = "what lanes share, for the reason above")]
type Mutex<T> = std::sync::Mutex<T>;
type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

/// A handle; clones are of the same table.
#[derive(Debug, Clone)]
pub(super) struct Translations(Arc<Translated>);

#[derive(Debug)]
struct Translated {
    nat: Mutex<Nat>,
    /// Whether the table holds anything, as it was when it was last let go of.
    some: AtomicBool,
}

impl Translations {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Translated { nat: Mutex::new(Nat::new(seed)), some: AtomicBool::new(false) }))
    }

    /// Whether nothing is translated. A lane that is told so by another one's packet sees what that one has put in.
    pub(super) fn is_empty(&self) -> bool {
        !self.0.some.load(Ordering::Acquire)
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        // Nothing in there panics half way through a change.
        let nat = self.0.nat.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { nat, some: &self.0.some }
    }
}

/// The table, to one lane alone.
pub(super) struct Locked<'a> {
    nat: MutexGuard<'a, Nat>,
    some: &'a AtomicBool,
}

impl Deref for Locked<'_> {
    type Target = Nat;

    fn deref(&self) -> &Nat {
        &self.nat
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Nat {
        &mut self.nat
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let some = !self.nat.is_empty();
        // Mostly nothing has changed: the others' copy of the line stays good.
        if some != self.some.load(Ordering::Relaxed) {
            self.some.store(some, Ordering::Release);
        }
    }
}

/// Which members the lanes have found behind which addresses: for each pair the lanes, one bit each, that hold so now.
/// Behind a VIP different lanes may find different pods. Bounded by what each lane holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Members(Arc<Mutex<BTreeMap<(IpAddr, PeerId), u16>>>);

impl Members {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(IpAddr, PeerId), u16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lane `lane` has found `peer` behind `address`.
    pub(super) fn found(&self, address: IpAddr, peer: PeerId, lane: u8) {
        *self.lock().entry((address, peer)).or_default() |= 1 << lane;
    }

    /// Lane `lane` holds so no longer.
    pub(super) fn lost(&self, address: IpAddr, peer: PeerId, lane: u8) {
        let mut members = self.lock();
        if let Some(lanes) = members.get_mut(&(address, peer)) {
            *lanes &= !(1 << lane);
            if *lanes == 0 {
                members.remove(&(address, peer));
            }
        }
    }

    /// Lane `lane` holds nothing any more.
    pub(super) fn forget(&self, lane: u8) {
        self.lock().retain(|_, lanes| {
            *lanes &= !(1 << lane);
            *lanes != 0
        });
    }

    /// Whether any lane has found `peer` behind `address`.
    pub(super) fn is_behind(&self, address: IpAddr, peer: PeerId) -> bool {
        self.lock().contains_key(&(address, peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_behind_an_address_as_long_as_one_lane_holds_so() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let [one, other] = [PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32])];
        let members = Members::default();
        members.found(address, one, 0);
        members.found(address, one, 15);
        members.found(address, other, 3);
        assert!(members.is_behind(address, one) && members.is_behind(address, other));
        members.lost(address, one, 15);
        members.lost(address, one, 3);
        assert!(members.is_behind(address, one));
        members.forget(0);
        assert!(!members.is_behind(address, one) && members.is_behind(address, other));
        members.lost(address, other, 3);
        assert!(members.lock().is_empty());
    }
}
