//! Keys of a session, and how nonces come of them.

use crate::{
    crypto::{HASH_LEN, KEY_LEN, NONCE_LEN, Secret, hkdf_sha256},
    record::Aead,
};

/// Key and IV of one direction.
#[derive(Debug)]
pub(crate) struct DirectionKeys {
    pub(super) aead: Aead,
    pub(super) key: Secret<KEY_LEN>,
    pub(super) iv: Secret<NONCE_LEN>,
}

impl DirectionKeys {
    /// From this direction's output of Noise `Split()` and the transcript hash. Bounds on an AEAD used with many keys
    /// want nonces that differ between keys (draft-irtf-cfrg-aead-limits, multi-key setting), hence the IV.
    pub(crate) fn derive(aead: Aead, split: &[u8; KEY_LEN], transcript: &[u8; HASH_LEN]) -> Self {
        Self {
            aead,
            key: Secret::filled(|key| hkdf_sha256(transcript, split, &[b"tencrypt v1 key"], key)),
            iv: Secret::filled(|iv| hkdf_sha256(transcript, split, &[b"tencrypt v1 iv"], iv)),
        }
    }
}

/// The nonce of a record: the IV, its last 8 bytes xored with the counter in little endian.
#[inline]
pub(super) fn nonce(iv: &Secret<NONCE_LEN>, counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = *iv.expose();
    for (byte, counter) in nonce[4..].iter_mut().zip(counter.to_le_bytes()) {
        *byte ^= counter;
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hmac_sha256;

    #[test]
    fn the_nonce_is_the_iv_with_the_counter_in_its_last_eight_bytes() {
        let iv = Secret::filled(|iv| *iv = [0, 1, 2, 3, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]);
        assert_eq!(nonce(&iv, 0), *iv.expose());
        assert_eq!(
            nonce(&iv, 0x0102_0304_0506_0708),
            [0, 1, 2, 3, 0x18, 0x16, 0x14, 0x16, 0x10, 0x16, 0x14, 0x16]
        );
    }

    /// Recomputed from RFC 5869 with the salt and info that docs/wire-format.md gives.
    #[test]
    fn keys_are_those_of_the_specification() {
        let (split, transcript) = ([1; 32], [2; 32]);
        let keys = DirectionKeys::derive(Aead::Aes256Gcm, &split, &transcript);
        let prk = hmac_sha256(&transcript, &[&split]);
        assert_eq!(keys.key.expose(), &*hmac_sha256(&*prk, &[b"tencrypt v1 key", &[1]]));
        assert_eq!(keys.iv.expose()[..], hmac_sha256(&*prk, &[b"tencrypt v1 iv", &[1]])[..12]);
    }
}
