//! The fast AEAD backend: AWS-LC.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::backend::{AeadKey, Failed, KEY_LEN, NONCE_LEN};
use crate::record::TAG_LEN;

/// A key of ChaCha20-Poly1305 if `CHACHA`, else of AES-256-GCM. AWS-LC allocates its context and erases what it frees
/// (`OPENSSL_free`). "Less safe" because the nonce is the caller's affair, here the Sealer's.
pub(super) struct AwsLc<const CHACHA: bool>(LessSafeKey);

impl<const CHACHA: bool> AeadKey for AwsLc<CHACHA> {
    fn new(key: &[u8; KEY_LEN]) -> Self {
        let algorithm = if CHACHA { &CHACHA20_POLY1305 } else { &AES_256_GCM };
        match UnboundKey::new(algorithm, key) {
            Ok(key) => Self(LessSafeKey::new(key)),
            Err(_) => unreachable!("both algorithms take 32 bytes"),
        }
    }

    #[inline]
    fn seal_into(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        src: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), Failed> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.seal_out_of_place_scatter(nonce, Aad::from(aad), src, ciphertext, &[], tag).map_err(|_| Failed)
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Failed> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, ciphertext)
            .map(|_| ())
            .map_err(|_| Failed)
    }
}
