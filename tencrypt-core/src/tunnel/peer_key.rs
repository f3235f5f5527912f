//! Names of peers.

/// A peer in [`Peers`](super::peers::Peers): its slot, and which of those that had it. The key of a peer that is gone finds
/// nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

#[cfg(test)]
impl PeerKey {
    /// A key, for tests of what refers to peers.
    pub(super) const ONE: Self = Self { slot: 7, generation: 1 };
    /// Another one.
    pub(super) const OTHER: Self = Self { slot: 7, generation: 2 };
}
