//! The pod's translated flows, which its lanes share.
//!
//! Translation changes what the kernel's steering looks at: the two directions of a translated flow come to different
//! lanes, and which, only the kernel of either pod knows. So this is the one thing lanes have in common. Packets of flows
//! without a VIP meet one atomic load here, as long as nothing is translated.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::nat::Nat;

#[expect(clippy::disallowed_types, reason = "the one thing that lanes share, for the reason above")]
type Mutex<T> = std::sync::Mutex<T>;
type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

/// A handle to the table; clones are of the same table.
#[derive(Debug, Clone)]
pub(super) struct Translations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    nat: Mutex<Nat>,
    /// Whether the table holds anything, as it was when it was last let go of.
    some: AtomicBool,
}

impl Translations {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Shared { nat: Mutex::new(Nat::new(seed)), some: AtomicBool::new(false) }))
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
