//! Floors, below which nothing can be: copying the bytes, and the cipher alone, with the same lengths and
//! associated data.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use tencrypt::{
    crypto::Aead,
    internal::{Backend, OpeningKey, SealingKey},
};

use crate::measure::{BATCH, Load};

const KEY: [u8; 32] = [5; 32];
const AAD: [u8; 16] = [3; 16];
const HEADER: usize = AAD.len();
const TAG: usize = 16;

/// A bare cipher: seals out of place behind room for a header, opens in place.
pub(crate) trait Bare {
    fn seal(&self, nonce: [u8; 12], src: &[u8], out: &mut [u8]);
    fn open(&self, nonce: [u8; 12], sealed: &mut [u8]);
}

/// aws-lc-rs by its own interface.
pub(crate) struct AwsLc(LessSafeKey);

impl AwsLc {
    pub(crate) fn aes() -> Self {
        Self::new(&AES_256_GCM)
    }

    pub(crate) fn chacha() -> Self {
        Self::new(&CHACHA20_POLY1305)
    }

    fn new(algorithm: &'static Algorithm) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(algorithm, &KEY).expect("a key has 32 bytes")))
    }
}

impl Bare for AwsLc {
    #[inline]
    fn seal(&self, nonce: [u8; 12], src: &[u8], out: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let (ciphertext, tag) = out[HEADER..].split_at_mut(src.len());
        self.0.seal_out_of_place_scatter(nonce, Aad::from(AAD), src, ciphertext, &[], tag).expect("it fits");
    }

    #[inline]
    fn open(&self, nonce: [u8; 12], sealed: &mut [u8]) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(AAD), &mut sealed[HEADER..]).expect("it is authentic");
    }
}

/// The RustCrypto crates, behind the core's seam, which adds a branch.
pub(crate) struct RustCrypto(SealingKey, OpeningKey);

impl RustCrypto {
    pub(crate) fn new(aead: Aead) -> Self {
        let backend = Backend::RustCrypto;
        Self(SealingKey::new(backend, aead, &KEY), OpeningKey::new(backend, aead, &KEY))
    }
}

impl Bare for RustCrypto {
    #[inline]
    fn seal(&self, nonce: [u8; 12], src: &[u8], out: &mut [u8]) {
        self.0.seal_into(nonce, &AAD, src, &mut out[HEADER..]);
    }

    #[inline]
    fn open(&self, nonce: [u8; 12], sealed: &mut [u8]) {
        self.1.open_in_place(nonce, &AAD, &mut sealed[HEADER..]).expect("it is authentic");
    }
}

/// A bare cipher with the buffers of a load.
pub(crate) struct Ciphering<B> {
    cipher: B,
    load: Load,
    counter: u64,
    packets: Vec<Vec<u8>>,
    /// As many as a batch, or a train.
    records: Vec<Vec<u8>>,
    nonces: Vec<[u8; 12]>,
}

impl<B: Bare> Ciphering<B> {
    pub(crate) fn new(cipher: B, load: Load) -> Self {
        let count = BATCH.max(load.packets);
        Self {
            cipher,
            load,
            counter: 0,
            packets: vec![vec![0x5a; load.len]; count],
            records: vec![vec![0; HEADER + load.len + TAG]; count],
            nonces: vec![[0; 12]; count],
        }
    }

    /// Seals the packet of this number in a batch; of a train all.
    #[inline]
    pub(crate) fn seal(&mut self, at: usize) {
        for at in at..at + self.load.packets {
            self.counter += 1;
            self.nonces[at][4..].copy_from_slice(&self.counter.to_le_bytes());
            self.cipher.seal(self.nonces[at], &self.packets[at], &mut self.records[at]);
        }
    }

    /// Opens what was sealed under this number.
    #[inline]
    pub(crate) fn open(&mut self, at: usize) {
        for at in at..at + self.load.packets {
            self.cipher.open(self.nonces[at], &mut self.records[at]);
        }
    }
}

/// Buffers to copy between.
pub(crate) struct Copying {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Copying {
    pub(crate) fn new(load: Load) -> Self {
        let len = load.packets * load.len;
        Self { from: vec![0x5a; len], to: vec![0; len] }
    }

    #[inline]
    pub(crate) fn copy(&mut self) {
        self.to.copy_from_slice(&self.from);
        std::hint::black_box(&mut self.to);
    }
}
