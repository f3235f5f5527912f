//! The AEAD seam: one enum over the backends, matched once per call.

use std::fmt;

use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;

#[cfg(feature = "aws-lc-rs")]
use super::aws_lc::AwsLc;
#[cfg(tencrypt_null_cipher)]
use super::null::Null;
use super::{
    backend::{AeadKey, Failed, KEY_LEN, NONCE_LEN},
    rustcrypto::RustCrypto,
};
use crate::record::{Aead, DATA_HEADER_LEN, TAG_LEN};

/// Implementation of the AEAD. All give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The pure Rust crates `aes-gcm` and `chacha20poly1305`.
    RustCrypto,
    /// AWS-LC, two to four times as fast.
    #[cfg(feature = "aws-lc-rs")]
    AwsLc,
    /// None, for measuring what the rest costs. Protects nothing.
    #[cfg(tencrypt_null_cipher)]
    Null,
}

impl Backend {
    /// Every backend of this build.
    pub const ALL: &'static [Self] = &[
        Self::RustCrypto,
        #[cfg(feature = "aws-lc-rs")]
        Self::AwsLc,
    ];

    /// The fastest of them: what sessions use.
    #[must_use]
    pub const fn fastest() -> Self {
        #[cfg(tencrypt_null_cipher)]
        return Self::Null;
        #[cfg(not(tencrypt_null_cipher))]
        return Self::for_handshakes();
    }

    /// The fastest that is a cipher.
    pub(crate) const fn for_handshakes() -> Self {
        #[cfg(feature = "aws-lc-rs")]
        return Self::AwsLc;
        #[cfg(not(feature = "aws-lc-rs"))]
        return Self::RustCrypto;
    }
}

/// A tag that does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tag does not verify")]
#[non_exhaustive]
pub struct OpenError;

/// An AEAD key that seals. Neither `Clone` nor printable; erased on drop, as far as the backend erases its own state.
///
/// It keeps no counter. A nonce used twice under one key gives both packets away, so nonces are
/// [`Sealer`](crate::session::Sealer)'s alone; this type is public for measurements of the bare cipher.
pub struct SealingKey(Key);

impl SealingKey {
    /// A key of `aead`, computed with by `backend`.
    #[must_use]
    pub fn new(backend: Backend, aead: Aead, key: &[u8; KEY_LEN]) -> Self {
        Self(Key::new(backend, aead, key))
    }

    /// Seals `src` into `out`, ciphertext then tag, with `aad` authenticated beside it.
    ///
    /// # Panics
    /// If `out` is not 16 bytes longer than `src`.
    #[inline]
    pub fn seal_into(&self, nonce: [u8; NONCE_LEN], aad: &[u8; DATA_HEADER_LEN], src: &[u8], out: &mut [u8]) {
        self.seal(nonce, aad, src, out);
    }

    /// The same with associated data of any length.
    #[inline]
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], src: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), src.len() + TAG_LEN, "a sealed packet is 16 bytes longer");
        let Some((ciphertext, tag)) = out.split_last_chunk_mut::<TAG_LEN>() else { return };
        if self.0.seal_into(nonce, aad, src, ciphertext, tag).is_err() {
            // Neither cipher refuses what fits a datagram; were it to, the peer would get a record that does not open.
            out.fill(0);
        }
    }
}

/// An AEAD key that opens. Neither `Clone` nor printable; erased on drop, as far as the backend erases its own state.
pub struct OpeningKey(Key);

impl OpeningKey {
    /// A key of `aead`, computed with by `backend`.
    #[must_use]
    pub fn new(backend: Backend, aead: Aead, key: &[u8; KEY_LEN]) -> Self {
        Self(Key::new(backend, aead, key))
    }

    /// Opens `sealed`, ciphertext then tag, in place. Returns the plaintext: all but the last 16 bytes.
    ///
    /// # Errors
    /// [`OpenError`] if the tag does not verify or there is no room for one. `sealed` is zeros then: a backend may
    /// have decrypted before it compared.
    #[inline]
    pub fn open_in_place<'b>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8; DATA_HEADER_LEN],
        sealed: &'b mut [u8],
    ) -> Result<&'b mut [u8], OpenError> {
        self.open(nonce, aad, sealed)
    }

    /// The same with associated data of any length.
    #[inline]
    pub(crate) fn open<'b>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &'b mut [u8],
    ) -> Result<&'b mut [u8], OpenError> {
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenError)?;
        match self.0.open_in_place(nonce, aad, text, tag) {
            Ok(()) => Ok(text),
            Err(Failed) => {
                text.fill(0);
                tag.fill(0);
                Err(OpenError)
            }
        }
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey(..)")
    }
}

enum Key {
    RustCryptoAes(RustCrypto<Aes256Gcm>),
    RustCryptoChaCha(RustCrypto<ChaCha20Poly1305>),
    #[cfg(feature = "aws-lc-rs")]
    AwsLcAes(AwsLc<false>),
    #[cfg(feature = "aws-lc-rs")]
    AwsLcChaCha(AwsLc<true>),
    #[cfg(tencrypt_null_cipher)]
    Null(Null),
}

macro_rules! each {
    ($self:ident, $key:ident => $call:expr) => {
        match $self {
            Key::RustCryptoAes($key) => $call,
            Key::RustCryptoChaCha($key) => $call,
            #[cfg(feature = "aws-lc-rs")]
            Key::AwsLcAes($key) => $call,
            #[cfg(feature = "aws-lc-rs")]
            Key::AwsLcChaCha($key) => $call,
            #[cfg(tencrypt_null_cipher)]
            Key::Null($key) => $call,
        }
    };
}

impl Key {
    fn new(backend: Backend, aead: Aead, key: &[u8; KEY_LEN]) -> Self {
        match (backend, aead) {
            (Backend::RustCrypto, Aead::Aes256Gcm) => Self::RustCryptoAes(AeadKey::new(key)),
            (Backend::RustCrypto, Aead::ChaCha20Poly1305) => Self::RustCryptoChaCha(AeadKey::new(key)),
            #[cfg(feature = "aws-lc-rs")]
            (Backend::AwsLc, Aead::Aes256Gcm) => Self::AwsLcAes(AeadKey::new(key)),
            #[cfg(feature = "aws-lc-rs")]
            (Backend::AwsLc, Aead::ChaCha20Poly1305) => Self::AwsLcChaCha(AeadKey::new(key)),
            #[cfg(tencrypt_null_cipher)]
            (Backend::Null, _) => Self::Null(AeadKey::new(key)),
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
        each!(self, key => key.seal_into(nonce, aad, src, ciphertext, tag))
    }

    #[inline]
    fn open_in_place(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Failed> {
        each!(self, key => key.open_in_place(nonce, aad, ciphertext, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; NONCE_LEN] = [9; NONCE_LEN];
    const AAD: [u8; DATA_HEADER_LEN] = [3; DATA_HEADER_LEN];
    const KEY: [u8; KEY_LEN] = [5; KEY_LEN];

    fn all() -> impl Iterator<Item = (Backend, Aead)> {
        Backend::ALL.iter().flat_map(|backend| Aead::ALL.map(|aead| (*backend, aead)))
    }

    fn lengths() -> impl Iterator<Item = usize> {
        (0..=272).chain([1_399, 1_400, 1_401, 1_440, 2_047, 8_999, 9_000, 9_001, 65_475])
    }

    fn seal(backend: Backend, aead: Aead, src: &[u8]) -> Vec<u8> {
        let mut out = vec![0x77; src.len() + TAG_LEN];
        SealingKey::new(backend, aead, &KEY).seal_into(NONCE, &AAD, src, &mut out);
        out
    }

    #[test]
    fn backends_give_the_same_bytes_at_every_length() {
        for aead in Aead::ALL {
            for len in lengths() {
                let src: Vec<u8> = (0..len).map(|at| at as u8).collect();
                let reference = seal(Backend::RustCrypto, aead, &src);
                for backend in Backend::ALL {
                    assert_eq!(seal(*backend, aead, &src), reference, "{backend:?} {aead:?} {len}");
                    let mut sealed = reference.clone();
                    let key = OpeningKey::new(*backend, aead, &KEY);
                    let plain = key.open_in_place(NONCE, &AAD, &mut sealed).map(|plain| plain.to_vec());
                    assert_eq!(plain.as_deref(), Ok(&src[..]), "{backend:?} {aead:?} {len}");
                }
            }
        }
    }

    #[test]
    fn a_failed_open_leaves_no_plaintext() {
        for (backend, aead) in all() {
            for len in [1, 16, 64, 1_400, 9_000] {
                let src = vec![0x5a; len];
                for bad in [0, len - 1, len, len + TAG_LEN - 1] {
                    let mut sealed = seal(backend, aead, &src);
                    sealed[bad] ^= 1;
                    let key = OpeningKey::new(backend, aead, &KEY);
                    assert_eq!(key.open_in_place(NONCE, &AAD, &mut sealed), Err(OpenError));
                    assert!(sealed.iter().all(|byte| *byte == 0), "{backend:?} {aead:?} {len} {bad}");
                }
            }
        }
    }

    #[test]
    fn nonce_aad_and_key_are_bound() {
        for (backend, aead) in all() {
            let sealed = seal(backend, aead, b"packet");
            let open = |nonce, aad, key| {
                OpeningKey::new(backend, aead, key).open_in_place(nonce, aad, &mut sealed.clone()).is_ok()
            };
            assert!(open(NONCE, &AAD, &KEY));
            assert!(!open([8; NONCE_LEN], &AAD, &KEY));
            assert!(!open(NONCE, &[2; DATA_HEADER_LEN], &KEY));
            assert!(!open(NONCE, &AAD, &[4; KEY_LEN]));
        }
    }

    #[test]
    fn less_than_a_tag_does_not_open() {
        for (backend, aead) in all() {
            let key = OpeningKey::new(backend, aead, &KEY);
            for len in 0..TAG_LEN {
                assert_eq!(key.open_in_place(NONCE, &AAD, &mut vec![0; len]), Err(OpenError));
            }
        }
    }

    #[test]
    fn keys_print_redacted() {
        let key = SealingKey::new(Backend::RustCrypto, Aead::Aes256Gcm, &KEY);
        assert_eq!(format!("{key:?}"), "SealingKey(..)");
        let key = OpeningKey::new(Backend::RustCrypto, Aead::Aes256Gcm, &KEY);
        assert_eq!(format!("{key:?}"), "OpeningKey(..)");
    }
}
