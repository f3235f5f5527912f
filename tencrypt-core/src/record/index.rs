//! Session indices.

use std::{fmt, num::NonZeroU32};

/// The number a receiver gave to a session: by it, and by nothing else, a datagram finds its session. The lane in the
/// top 4 bits, 28 random bits below; 0 is never used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionIndex(NonZeroU32);

impl SessionIndex {
    /// Bits below the lane.
    pub const RANDOM_BITS: u32 = 28;
    /// Lanes that an index can name.
    pub const LANES: u8 = 16;

    /// The index with this number; `None` for 0.
    #[must_use]
    pub const fn from_u32(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The index of `lane` (its low 4 bits count) with these low 28 bits; `None` if that makes 0.
    #[must_use]
    pub const fn from_parts(lane: u8, low: u32) -> Option<Self> {
        let lane = (lane % Self::LANES) as u32;
        Self::from_u32(lane << Self::RANDOM_BITS | low & ((1 << Self::RANDOM_BITS) - 1))
    }

    /// The number on the wire.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }

    /// The lane that owns the session.
    #[must_use]
    pub const fn lane(self) -> u8 {
        (self.as_u32() >> Self::RANDOM_BITS) as u8
    }
}

impl fmt::Debug for SessionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionIndex({:08x})", self.as_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_index() {
        assert_eq!(SessionIndex::from_u32(0), None);
        assert_eq!(SessionIndex::from_parts(0, 0), None);
        assert_eq!(SessionIndex::from_parts(0, 1 << 28), None);
    }

    #[test]
    fn the_lane_is_in_the_top_four_bits() {
        let index = SessionIndex::from_parts(0xa, 0x0123_4567).unwrap();
        assert_eq!(index.as_u32(), 0xa123_4567);
        assert_eq!(index.lane(), 0xa);
        assert_eq!(SessionIndex::from_parts(0x1f, u32::MAX).map(SessionIndex::as_u32), Some(u32::MAX));
    }
}
