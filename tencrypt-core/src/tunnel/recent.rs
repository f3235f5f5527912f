//! Decisions of the data path that still hold, so that a packet like the last one costs no look-up.

use std::{net::IpAddr, time::Instant};

use super::peer::PeerKey;
use crate::record::SessionIndex;

/// Pairs of addresses remembered in each direction, a power of two: 64 bytes each. A pod talks to few others at one
/// time, and what falls out costs a look-up.
const ENTRIES: usize = 64;

/// Decisions for packets between two addresses. An entry counts while nothing was changed that any decision
/// depends on ([`Recent::forget`]), and no longer than the facts that it rests on.
#[derive(Debug)]
pub(super) struct Recent {
    version: u64,
    outbound: [Option<Entry>; ENTRIES],
    inbound: [Option<Entry>; ENTRIES],
    session: Option<(u64, SessionIndex, PeerKey, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    version: u64,
    source: IpAddr,
    destination: IpAddr,
    peer: PeerKey,
    until: Option<Instant>,
}

impl Entry {
    fn holds(&self, version: u64, source: IpAddr, destination: IpAddr, now: Instant) -> bool {
        self.version == version
            && self.destination == destination
            && self.source == source
            && self.until.is_none_or(|until| now < until)
    }
}

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To the network: sealed for the peer.
    Out,
    /// From the network: the source is the peer's, the destination this pod's own address.
    In,
}

impl Default for Recent {
    fn default() -> Self {
        Self { version: 0, outbound: [None; ENTRIES], inbound: [None; ENTRIES], session: None }
    }
}

impl Recent {
    /// Something changed that decisions depend on: none of them counts any more.
    pub(super) fn forget(&mut self) {
        self.version += 1;
    }

    /// The peer that packets like this belong to.
    pub(super) fn peer(
        &self,
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        now: Instant,
    ) -> Option<PeerKey> {
        let entries = if direction == Direction::Out { &self.outbound } else { &self.inbound };
        let entry = entries[slot(source, destination)].as_ref()?;
        entry.holds(self.version, source, destination, now).then_some(entry.peer)
    }

    /// Remembers a decision, which rests on facts that hold until `until`.
    pub(super) fn note(
        &mut self,
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        peer: PeerKey,
        until: Option<Instant>,
    ) {
        let entries = if direction == Direction::Out { &mut self.outbound } else { &mut self.inbound };
        let entry = Entry { version: self.version, source, destination, peer, until };
        entries[slot(source, destination)] = Some(entry);
    }

    /// Finds the session `index`: the slot of its peer, and its place there.
    pub(super) fn session(&self, index: SessionIndex) -> Option<(PeerKey, usize)> {
        let (version, known, peer, at) = self.session?;
        (version == self.version && known == index).then_some((peer, at))
    }

    pub(super) fn note_session(&mut self, index: SessionIndex, peer: PeerKey, at: usize) {
        self.session = Some((self.version, index, peer, at));
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
    use crate::{directory::PeerId, testing::start, tunnel::peer::Peers};

    #[test]
    fn an_entry_holds_for_its_pair_and_way_until_its_time_or_a_change() {
        let now = start();
        let peer = Peers::new(1, false).admit(PeerId::from_bytes([1; 32]), 0, now);
        let [a, b, c]: [IpAddr; 3] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
        let mut recent = Recent::default();
        recent.note(Direction::Out, a, b, peer, Some(now + Duration::from_secs(1)));
        assert_eq!(recent.peer(Direction::Out, a, b, now), Some(peer));
        for (direction, source, destination) in
            [(Direction::In, a, b), (Direction::Out, b, a), (Direction::Out, a, c), (Direction::Out, c, b)]
        {
            assert_eq!(recent.peer(direction, source, destination, now), None);
        }
        assert_eq!(recent.peer(Direction::Out, a, b, now + Duration::from_secs(1)), None);
        recent.note(Direction::Out, a, b, peer, None);
        assert_eq!(recent.peer(Direction::Out, a, b, now + Duration::from_secs(1)), Some(peer));
        recent.forget();
        assert_eq!(recent.peer(Direction::Out, a, b, now), None);
    }
}
