//! Drawing session indices.

use crate::{crypto::Rng, record::SessionIndex};

impl SessionIndex {
    /// A random index of `lane` (its low 4 bits count). Whether it is in use already is for the caller to see.
    pub fn random(lane: u8, rng: &mut Rng) -> Self {
        // 1 to 2^28 - 1: lane 0 has no index 0.
        let low = rng.below((1 << Self::RANDOM_BITS) - 1) + 1;
        match Self::from_parts(lane, low) {
            Some(index) => index,
            None => unreachable!("the low bits are not zero"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Seed;

    #[test]
    fn random_indices_keep_their_lane_and_differ() {
        let mut rng = Rng::new(Seed::from_bytes([3; 32]));
        let drawn: Vec<_> = (0..1_000_u32).map(|at| SessionIndex::random(at as u8, &mut rng)).collect();
        for (at, index) in drawn.iter().enumerate() {
            assert_eq!(usize::from(index.lane()), at % 16);
            assert_ne!(index.as_u32() << 4, 0);
        }
        let mut sorted = drawn.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), drawn.len());
        // Every one of the 28 bits is drawn.
        let all =
            drawn.iter().fold((0, u32::MAX), |(or, and), index| (or | index.as_u32(), and & index.as_u32()));
        assert_eq!((all.0 << 4, all.1 << 4), (u32::MAX << 4, 0));
    }
}
