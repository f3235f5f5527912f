//! Session indices of this side, and what each is for.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    net::IpAddr,
    sync::mpsc::{Receiver, Sender, channel},
    time::Instant,
};

use super::{
    limits::{MAX_TOMBSTONES, TOMBSTONE},
    peer_key::PeerKey,
};
use crate::{crypto::Rng, keyed_hash::KeyedState, record::SessionIndex};

/// Use of a session index on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexUse {
    /// A destination that is asked: a RESP is awaited.
    Attempt(IpAddr),
    /// A half-open handshake: a CONF is awaited.
    HalfOpen,
    /// A session of this peer.
    Session(PeerKey),
    /// A session whose keys were erased.
    Erased,
    /// A session that ended because the peer's certificate does not count.
    Refused,
}

/// A session index that is in use for as long as this value lives. Whatever way a handshake or a session ends, dropping
/// it frees the index: nobody else can, and nobody can forget to.
#[derive(Debug)]
pub(super) struct OwnedIndex {
    index: SessionIndex,
    leaves: Leaves,
    freed: Sender<(SessionIndex, Leaves)>,
}

/// Use that datagrams find of an index once it is free.
#[derive(Debug, Clone, Copy)]
enum Leaves {
    /// As if it had never been.
    Nothing,
    /// For a while, a session that is over.
    Erased,
    /// The same, over for want of a certificate.
    Refused,
}

impl OwnedIndex {
    pub(super) fn get(&self) -> SessionIndex {
        self.index
    }

    /// Makes the end of what it is for one for want of a certificate.
    pub(super) fn refuse(&mut self) {
        self.leaves = Leaves::Refused;
    }
}

impl Drop for OwnedIndex {
    fn drop(&mut self) {
        // Without a table there is nobody who would want to know.
        let _ = self.freed.send((self.index, self.leaves));
    }
}

/// The indices in use, and for a while those that were.
#[derive(Debug)]
pub(super) struct IndexTable {
    uses: HashMap<SessionIndex, IndexUse, KeyedState>,
    tombstones: VecDeque<(Instant, SessionIndex)>,
    /// Indices whose owners were dropped, on their way back.
    freed: Receiver<(SessionIndex, Leaves)>,
    /// The other end, for new owners.
    owners: Sender<(SessionIndex, Leaves)>,
    /// Keys were erased since this was asked last.
    erased: bool,
}

impl IndexTable {
    pub(super) fn new(hash_key: u64) -> Self {
        let (owners, freed) = channel();
        let uses = HashMap::with_hasher(KeyedState { key: hash_key });
        Self { uses, tombstones: VecDeque::new(), freed, owners, erased: false }
    }

    /// Takes an index of `lane` that is not in use; `None` if 16 draws found none.
    pub(super) fn take(
        &mut self,
        lane: u8,
        used_for: IndexUse,
        rng: &mut Rng,
        now: Instant,
    ) -> Option<OwnedIndex> {
        self.settle(now);
        let mut drawn = (0..16).map(|_| SessionIndex::random(lane, rng));
        let index = drawn.find(|index| !self.uses.contains_key(index))?;
        self.uses.insert(index, used_for);
        Some(OwnedIndex { index, leaves: Leaves::Nothing, freed: self.owners.clone() })
    }

    /// Makes an index that of a session with this peer. Once it is over, the index is remembered as that for a while.
    pub(super) fn bind_session(&mut self, index: &mut OwnedIndex, peer: PeerKey) {
        index.leaves = Leaves::Erased;
        self.uses.insert(index.index, IndexUse::Session(peer));
    }

    pub(super) fn find(&mut self, index: SessionIndex, now: Instant) -> Option<IndexUse> {
        self.settle(now);
        self.uses.get(&index).copied()
    }

    /// Tells if keys were erased since this was asked last.
    pub(super) fn take_erased(&mut self, now: Instant) -> bool {
        self.settle(now);
        mem::take(&mut self.erased)
    }

    /// Takes back what was freed.
    fn settle(&mut self, now: Instant) {
        while let Ok((index, leaves)) = self.freed.try_recv() {
            let left = match leaves {
                Leaves::Nothing => {
                    self.uses.remove(&index);
                    continue;
                }
                Leaves::Erased => IndexUse::Erased,
                Leaves::Refused => IndexUse::Refused,
            };
            self.erased = true;
            self.uses.insert(index, left);
            self.tombstones.push_back((now + TOMBSTONE, index));
            self.end_tombstones(now);
        }
    }

    /// Takes away those whose time is over, and the oldest if there are too many.
    fn end_tombstones(&mut self, now: Instant) {
        while let Some((until, index)) = self.tombstones.front().copied() {
            if until > now && self.tombstones.len() <= MAX_TOMBSTONES {
                break;
            }
            self.tombstones.pop_front();
            self.uses.remove(&index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{crypto::Seed, testing::start, tunnel::peer_key::PeerKey};

    fn table() -> (IndexTable, Rng) {
        (IndexTable::new(1), Rng::new(Seed::from_bytes([1; 32])))
    }

    #[test]
    fn an_index_is_in_use_as_long_as_its_owner_lives() {
        let (mut table, mut rng) = table();
        let to = IpAddr::from([10, 0, 0, 1]);
        let owned = table.take(3, IndexUse::Attempt(to), &mut rng, start()).unwrap();
        let index = owned.get();
        assert_eq!((index.lane(), table.find(index, start())), (3, Some(IndexUse::Attempt(to))));
        drop(owned);
        assert_eq!(table.find(index, start()), None);
        assert!(!table.take_erased(start()), "no session's keys were in it");
    }

    #[test]
    fn a_session_that_ends_leaves_a_tombstone_that_says_why() {
        for refused in [false, true] {
            let (mut table, mut rng) = table();
            let mut owned = table.take(0, IndexUse::HalfOpen, &mut rng, start()).unwrap();
            let index = owned.get();
            table.bind_session(&mut owned, PeerKey::ONE);
            assert_eq!(table.find(index, start()), Some(IndexUse::Session(PeerKey::ONE)));
            if refused {
                owned.refuse();
            }
            drop(owned);
            let left = if refused { IndexUse::Refused } else { IndexUse::Erased };
            assert_eq!(table.find(index, start()), Some(left));
            assert!(table.take_erased(start()) && !table.take_erased(start()));
            // The next one that ends takes it away.
            let mut next = table.take(0, IndexUse::HalfOpen, &mut rng, start()).unwrap();
            table.bind_session(&mut next, PeerKey::ONE);
            drop(next);
            assert_eq!(table.find(index, start() + TOMBSTONE + Duration::from_millis(1)), None);
        }
    }

    #[test]
    fn tombstones_are_bounded() {
        let (mut table, mut rng) = table();
        for _ in 0..2 * MAX_TOMBSTONES {
            let mut owned = table.take(0, IndexUse::HalfOpen, &mut rng, start()).unwrap();
            table.bind_session(&mut owned, PeerKey::ONE);
        }
        table.settle(start());
        assert_eq!((table.uses.len(), table.tombstones.len()), (MAX_TOMBSTONES, MAX_TOMBSTONES));
    }
}
