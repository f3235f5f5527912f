//! Decisions of the data path that still hold, so that a packet like the last one costs no look-up.

use std::{net::IpAddr, time::Instant};

use crate::tunnel::peer_key::PeerKey;

/// Pairs of addresses remembered in each direction, a power of two: 64 bytes each. A pod talks to few others at one
/// time, and what falls out costs a look-up.
const ENTRIES: usize = 64;

/// Decisions for packets between two addresses. An entry counts under the revision that it was made under, and no longer
/// than the facts that it rests on.
#[derive(Debug)]
pub(super) struct Recent {
    outbound: [Option<Entry>; ENTRIES],
    inbound: [Option<Entry>; ENTRIES],
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    revision: u64,
    source: IpAddr,
    destination: IpAddr,
    peer: PeerKey,
    until: Option<Instant>,
}

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum Direction {
    /// To the network: sealed for the peer.
    Out,
    /// From the network: the source is the peer's, the destination this pod's own address.
    In,
}

/// Packets that one decision is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) struct Pair {
    pub(in crate::tunnel) direction: Direction,
    pub(in crate::tunnel) source: IpAddr,
    pub(in crate::tunnel) destination: IpAddr,
}

impl Default for Recent {
    fn default() -> Self {
        Self { outbound: [None; ENTRIES], inbound: [None; ENTRIES] }
    }
}

impl Recent {
    /// The peer that packets like this belong to.
    #[inline]
    pub(super) fn peer(&self, pair: Pair, revision: u64, now: Instant) -> Option<PeerKey> {
        let entries = if pair.direction == Direction::Out { &self.outbound } else { &self.inbound };
        let entry = entries[slot(pair.source, pair.destination)].as_ref()?;
        let holds = entry.revision == revision
            && entry.destination == pair.destination
            && entry.source == pair.source
            && entry.until.is_none_or(|until| now < until);
        holds.then_some(entry.peer)
    }

    /// Remembers a decision, which rests on facts that hold until `until`.
    pub(super) fn note(&mut self, pair: Pair, peer: PeerKey, revision: u64, until: Option<Instant>) {
        let Pair { direction, source, destination } = pair;
        let entries = if direction == Direction::Out { &mut self.outbound } else { &mut self.inbound };
        entries[slot(source, destination)] = Some(Entry { revision, source, destination, peer, until });
    }
}

/// Slot of a pair: by the low bits of both addresses, in which those of a cluster differ. Pairs that meet
/// push each other out, which costs look-ups and nothing else.
fn slot(source: IpAddr, destination: IpAddr) -> usize {
    let low = |address: IpAddr| match address {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => u128::from(v6) as u32,
    };
    let mixed = (low(source).rotate_left(16) ^ low(destination)).wrapping_mul(0x9E37_79B1);
    (mixed >> (32 - ENTRIES.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{testing::start, tunnel::peer_key::PeerKey};

    #[test]
    fn an_entry_holds_for_its_pair_and_way_until_its_time_or_a_change() {
        let now = start();
        let peer = PeerKey::ONE;
        let [a, b, c]: [IpAddr; 3] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
        let mut recent = Recent::default();
        let pair = Pair { direction: Direction::Out, source: a, destination: b };
        recent.note(pair, peer, 7, Some(now + Duration::from_secs(1)));
        assert_eq!(recent.peer(pair, 7, now), Some(peer));
        for (direction, source, destination) in
            [(Direction::In, a, b), (Direction::Out, b, a), (Direction::Out, a, c), (Direction::Out, c, b)]
        {
            assert_eq!(recent.peer(Pair { direction, source, destination }, 7, now), None);
        }
        assert_eq!(recent.peer(pair, 7, now + Duration::from_secs(1)), None);
        recent.note(pair, peer, 7, None);
        assert_eq!(recent.peer(pair, 7, now + Duration::from_secs(1)), Some(peer));
        assert_eq!(recent.peer(pair, 8, now), None);
    }
}
