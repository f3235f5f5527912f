//! ML-KEM-768 (FIPS 203).

use ml_kem::{
    B32, Seed as KeySeed,
    kem::{Decapsulate, KeyExport},
    ml_kem_768::{DecapsulationKey, EncapsulationKey},
};
use zeroize::Zeroize;

use super::{Rng, Secret};
use crate::record::{KEM_CIPHERTEXT_LEN, KEM_PUBLIC_LEN};

/// Bytes of the secret that both sides end up with.
const SHARED_LEN: usize = 32;

/// A decapsulation key, made for one handshake. Erased on drop. It may be moved: what is secret in it is behind pointers
/// (feature `alloc` of its crate).
pub(crate) struct KemSecret(DecapsulationKey);

impl KemSecret {
    /// A fresh one. What it is computed with lies below the frame of the caller, who wipes that.
    #[inline(never)]
    pub(crate) fn generate(rng: &mut Rng) -> Self {
        let seed = Secret::<64>::filled(|seed| rng.fill(seed));
        Self::from_seed((*seed.expose()).into())
    }

    /// The one whose "d" and "z" are these (FIPS 203 algorithm 19).
    pub(super) fn from_seed(seed: KeySeed) -> Self {
        #[cfg(test)]
        super::tests::work::count();
        Self(DecapsulationKey::from_seed(seed))
    }

    /// The vector "s" of the key with this seed, as it lies in memory: a coefficient in 16 bits.
    #[cfg(test)]
    pub(crate) fn vector(seed: &[u8; 64]) -> Vec<u8> {
        #[expect(deprecated, reason = "the only way to the vector")]
        let expanded = ml_kem::ExpandedKeyEncoding::to_expanded_bytes(&Self::from_seed((*seed).into()).0);
        // FIPS 203 algorithm 5: coefficients of 12 bits, 3 x 256 of them.
        let pairs = expanded[..3 * 256 * 12 / 8].as_chunks::<3>().0.iter();
        pairs
            .flat_map(|[low, both, high]| {
                let first = u16::from(*low) | u16::from(both & 0xf) << 8;
                [first, u16::from(both >> 4) | u16::from(*high) << 4]
            })
            .flat_map(u16::to_ne_bytes)
            .collect()
    }

    /// The encapsulation key that belongs to it.
    pub(crate) fn public(&self) -> [u8; KEM_PUBLIC_LEN] {
        self.0.encapsulation_key().to_bytes().into()
    }

    /// The secret in `ciphertext`. One that was not made for this key gives a secret that nobody else has (FIPS 203
    /// section 6.3, implicit rejection).
    pub(crate) fn decapsulate(&self, ciphertext: &[u8; KEM_CIPHERTEXT_LEN]) -> Secret<SHARED_LEN> {
        #[cfg(test)]
        super::tests::work::count();
        let mut shared = self.0.decapsulate(ciphertext.into());
        let secret = Secret::filled(|secret| secret.copy_from_slice(&shared));
        shared.zeroize();
        secret
    }
}

/// A fresh secret for the holder of `public`, and the ciphertext that tells him. `None`: it is no encapsulation key (FIPS
/// 203 section 7.2, modulus check).
pub(crate) fn encapsulate(
    public: &[u8; KEM_PUBLIC_LEN],
    rng: &mut Rng,
) -> Option<([u8; KEM_CIPHERTEXT_LEN], Secret<SHARED_LEN>)> {
    let message = Secret::<32>::filled(|message| rng.fill(message));
    encapsulate_message(public, message.expose().into())
}

/// The same with the randomness given, "m" (FIPS 203 algorithm 17).
pub(super) fn encapsulate_message(
    public: &[u8; KEM_PUBLIC_LEN],
    message: &B32,
) -> Option<([u8; KEM_CIPHERTEXT_LEN], Secret<SHARED_LEN>)> {
    #[cfg(test)]
    super::tests::work::count();
    let public = EncapsulationKey::new(public.into()).ok()?;
    let (ciphertext, mut shared) = public.encapsulate_deterministic(message);
    let secret = Secret::filled(|secret| secret.copy_from_slice(&shared));
    shared.zeroize();
    Some((ciphertext.into(), secret))
}

#[cfg(all(test, feature = "aws-lc-rs"))]
mod tests {
    use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};

    use super::*;
    use crate::crypto::Seed;

    /// AWS-LC has an implementation of its own.
    #[test]
    fn another_implementation_shares_the_same_secrets_in_both_roles() {
        let mut rng = Rng::new(Seed::from_bytes([1; 32]));
        for round in 0..100 {
            let ours = KemSecret::generate(&mut rng);
            let theirs = EncapsulationKey::new(&ML_KEM_768, &ours.public()).unwrap();
            let (ciphertext, shared) = theirs.encapsulate().unwrap();
            let ciphertext = ciphertext.as_ref().try_into().unwrap();
            assert_eq!(ours.decapsulate(ciphertext).expose(), shared.as_ref(), "round {round}");

            let theirs = DecapsulationKey::generate(&ML_KEM_768).unwrap();
            let public = theirs.encapsulation_key().unwrap().key_bytes().unwrap();
            let (ciphertext, shared) = encapsulate(public.as_ref().try_into().unwrap(), &mut rng).unwrap();
            let opened = theirs.decapsulate(Ciphertext::from(&ciphertext[..])).unwrap();
            assert_eq!(opened.as_ref(), shared.expose(), "round {round}");
        }
    }

    #[test]
    fn another_implementation_refuses_the_same_keys() {
        let mut rng = Rng::new(Seed::from_bytes([2; 32]));
        let mut refused = 0;
        for round in 0..500 {
            let mut public = KemSecret::generate(&mut rng).public();
            // Of two coefficients of 12 bits in 3 bytes, the upper one; 3,329 and more is none.
            let at = rng.below(384) as usize * 3 + 1;
            let value = 3_300 + rng.below(64) as u16;
            public[at] = (public[at] & 0x0f) | ((value as u8) << 4);
            public[at + 1] = (value >> 4) as u8;
            let theirs = EncapsulationKey::new(&ML_KEM_768, &public).ok();
            // It looks at a key when it is used.
            let theirs = theirs.and_then(|key| key.encapsulate().ok());
            let ours = encapsulate(&public, &mut rng);
            assert_eq!(ours.is_none(), value >= 3_329, "round {round}: {value}");
            assert_eq!(ours.is_none(), theirs.is_none(), "round {round}: {value}");
            refused += usize::from(ours.is_none());
        }
        assert!((100..400).contains(&refused), "{refused}");
    }
}
