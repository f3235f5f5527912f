//! Randomness from a seed.

use std::fmt;

use super::{
    kdf::{HASH_LEN, hmac_sha256},
    secret::{SHALLOW, Secret, Seed, wipe_stack},
};

/// A deterministic generator: HMAC_DRBG with SHA-256 (NIST SP 800-90A Rev. 1, section 10.1.2). The same seed gives the
/// same bytes. Not `Clone`, printed redacted, erased on drop.
///
/// Its state is replaced after every draw by HMACs under itself, and of the one before nothing is kept: who reads memory
/// later learns nothing of what was drawn before (backtracking resistance, section 8.8 of the standard). The standard wants a
/// reseed after 2^48 draws; a Tunnel makes a few per handshake.
pub struct Rng(Box<State>);

struct State {
    key: Secret<HASH_LEN>,
    value: Secret<HASH_LEN>,
}

impl Rng {
    /// A generator that starts from `seed`.
    #[expect(clippy::needless_pass_by_value, reason = "a seed is used once")]
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        let rng = Self::from_parts(&[seed.expose()]);
        wipe_stack::<SHALLOW>();
        rng
    }

    /// Mixes a fresh seed in. What comes out afterwards depends on both, so a bad seed does no harm.
    #[expect(clippy::needless_pass_by_value, reason = "a seed is used once")]
    pub fn reseed(&mut self, seed: Seed) {
        self.0.update(&[seed.expose()]);
        wipe_stack::<SHALLOW>();
    }

    /// Fills `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
        // A state that was left there would give away whatever is drawn from now on.
        wipe_stack::<SHALLOW>();
    }

    /// 32 random bits.
    pub fn u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound`; 0 if that is 0. No value is more likely than another by more than 2^-32 of itself.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.u64()) * u128::from(bound)) >> 64) as u32
    }

    /// All that later draws come from.
    #[cfg(test)]
    pub(crate) fn state(&self) -> [&[u8; HASH_LEN]; 2] {
        [self.0.key.expose(), self.0.value.expose()]
    }

    /// HMAC_DRBG_Instantiate (section 10.1.2.3) with the seed material in parts.
    #[inline(never)]
    fn from_parts(material: &[&[u8]]) -> Self {
        let (key, value) = (Secret::filled(|_| {}), Secret::filled(|value| *value = [1; HASH_LEN]));
        let mut state = Box::new(State { key, value });
        state.update(material);
        Self(state)
    }
}

impl State {
    /// HMAC_DRBG_Generate (section 10.1.2.5).
    #[inline(never)]
    fn fill(&mut self, out: &mut [u8]) {
        // The standard allows 2^16 bytes a draw (table 2).
        for draw in out.chunks_mut(1 << 16) {
            for chunk in draw.chunks_mut(HASH_LEN) {
                self.next_value();
                chunk.copy_from_slice(&self.value.expose()[..chunk.len()]);
            }
            self.update(&[]);
        }
    }

    /// HMAC_DRBG_Update (section 10.1.2.2).
    #[inline(never)]
    fn update(&mut self, material: &[&[u8]]) {
        for round in [0_u8, 1] {
            let mut parts: [&[u8]; 5] = [&[]; 5];
            let head = [round];
            parts[0] = self.value.expose();
            parts[1] = &head;
            for (part, given) in parts[2..].iter_mut().zip(material) {
                *part = given;
            }
            self.key.set(&hmac_sha256(self.key.expose(), &parts));
            self.next_value();
            if material.is_empty() {
                return;
            }
        }
    }

    fn next_value(&mut self) {
        self.value.set(&hmac_sha256(self.key.expose(), &[self.value.expose()]));
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex::decode;

    /// NIST CAVP, HMAC_DRBG.rsp, SHA-256, no reseed, no prediction resistance, no personalisation, COUNT = 0. The
    /// answer is that of the second draw.
    #[test]
    fn the_nist_vector_comes_out() {
        let entropy =
            decode::<32>("ca851911349384bffe89de1cbdc46e6831e44d34a4fb935ee285dd14b71a7488").unwrap();
        let nonce = decode::<16>("659ba96c601dc69fc902940805ec0ca8").unwrap();
        let expected = decode::<128>(
            "e528e9abf2dece54d47c7e75e5fe302149f817ea9fb4bee6f4199697d04d5b89\
             d54fbb978a15b5c443c9ec21036d2460b6f73ebad0dc2aba6e624abf07745bc1\
             07694bb7547bb0995f70de25d6b29e2d3011bb19d27676c07162c8b5ccde0668\
             961df86803482cb37ed6d5c0bb8d50cf1f50d476aa0458bdaba806f48be9dcb8",
        )
        .unwrap();
        let mut rng = Rng::from_parts(&[&*entropy, &*nonce]);
        let mut out = [0; 128];
        rng.fill(&mut out);
        rng.fill(&mut out);
        assert_eq!(out, *expected);
    }

    #[test]
    fn a_seed_decides_everything_and_a_reseed_changes_it() {
        let mut one = Rng::new(Seed::from_bytes([7; 32]));
        let mut same = Rng::new(Seed::from_bytes([7; 32]));
        let mut other = Rng::new(Seed::from_bytes([8; 32]));
        let first = one.u64();
        assert_eq!(first, same.u64());
        assert_ne!(first, other.u64());
        assert_ne!(first, one.u64());
        let _ = same.u64();
        one.reseed(Seed::from_bytes([9; 32]));
        assert_ne!(one.u64(), same.u64());
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut rng = Rng::new(Seed::from_bytes([1; 32]));
        let mut seen = [0_u32; 5];
        for _ in 0..1_000 {
            seen[rng.below(5) as usize] += 1;
        }
        // Mean 200, standard deviation 12.6.
        assert!(seen.iter().all(|count| (120..280).contains(count)), "{seen:?}");
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
    }
}
