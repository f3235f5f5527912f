//! Hashing by a key that outsiders do not know.

use std::hash::{BuildHasher, Hasher};

/// Hasher keyed by the caller: the core draws no randomness from the system, and addresses come from the network,
/// so the key keeps an outsider from choosing colliding ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyedState {
    pub(crate) key: u64,
}

impl BuildHasher for KeyedState {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.key ^ FIRST }
    }
}

/// Folded multiplication: each word is mixed in by the two halves of a 128-bit product.
#[derive(Debug)]
pub(crate) struct KeyedHasher {
    state: u64,
}

// The first digits of pi's fraction in hex: odd, well mixed, nothing up the sleeve.
const FIRST: u64 = 0x243f_6a88_85a3_08d3;
const SECOND: u64 = 0x1319_8a2e_0370_7345;

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.state ^ value) * u128::from(SECOND | 1);
        self.state = (product as u64) ^ ((product >> 64) as u64).rotate_left(23) ^ FIRST;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(FIRST);
        (product as u64) ^ ((product >> 64) as u64)
    }
}
