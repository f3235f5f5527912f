//! `XXpsk0+psk3` once more, from the Noise specification (revision 34) alone: what the published vectors, which come
//! from the very library that is used, are compared with, and transcripts with other keys and lengths than theirs.
//!
//! Whoever has all the secrets needs one symmetric state for both sides. Section numbers are the specification's.

use aead::{AeadInOut, KeyInit};
use aes_gcm::Aes256Gcm;
use chacha20poly1305::ChaCha20Poly1305;
use curve25519_dalek::montgomery::MontgomeryPoint;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use crate::record::Aead;

type Key = [u8; 32];

/// Everything both sides know and draw.
pub(super) struct Secrets<'a> {
    pub(super) aead: Aead,
    pub(super) prologue: &'a [u8],
    pub(super) psks: [Key; 2],
    /// Static and ephemeral secret.
    pub(super) initiator: [Key; 2],
    pub(super) responder: [Key; 2],
}

/// Record of what was said, and what is left of it.
pub(super) struct Transcript {
    pub(super) messages: [Vec<u8>; 3],
    /// Initiator to responder, then the other way.
    pub(super) keys: [Key; 2],
    pub(super) hash: Key,
    pub(super) hash_after_second: Key,
}

/// The messages with these payloads.
pub(super) fn transcript(secrets: &Secrets<'_>, payloads: [&[u8]; 3]) -> Transcript {
    let [static_i, ephemeral_i] = secrets.initiator;
    let [static_r, ephemeral_r] = secrets.responder;
    let mut state = Symmetric::new(secrets.aead, secrets.prologue);

    // -> psk, e
    state.mix_key_and_hash(&secrets.psks[0]);
    let mut first = state.ephemeral(&ephemeral_i);
    first.extend(state.encrypt_and_hash(payloads[0]));

    // <- e, ee, s, es
    let mut second = state.ephemeral(&ephemeral_r);
    state.mix_key(&dh(&ephemeral_r, &public(&ephemeral_i)));
    second.extend(state.encrypt_and_hash(&public(&static_r)));
    state.mix_key(&dh(&static_r, &public(&ephemeral_i)));
    second.extend(state.encrypt_and_hash(payloads[1]));

    let hash_after_second = state.hash;

    // -> s, se, psk
    let mut third = state.encrypt_and_hash(&public(&static_i));
    state.mix_key(&dh(&static_i, &public(&ephemeral_r)));
    state.mix_key_and_hash(&secrets.psks[1]);
    third.extend(state.encrypt_and_hash(payloads[2]));

    let [initiator, responder, _] = hkdf(&state.chaining_key, &[]);
    Transcript {
        messages: [first, second, third],
        keys: [initiator, responder],
        hash: state.hash,
        hash_after_second,
    }
}

/// Section 5.1 and 12.3, 12.4: ciphertext and tag.
pub(super) fn encrypt(aead: Aead, key: &Key, counter: u64, ad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = plain.to_vec();
    let mut nonce = [0; 12];
    let tag = match aead {
        Aead::Aes256Gcm => {
            nonce[4..].copy_from_slice(&counter.to_be_bytes());
            Aes256Gcm::new(key.into()).encrypt_inout_detached(&nonce.into(), ad, out.as_mut_slice().into())
        }
        Aead::ChaCha20Poly1305 => {
            nonce[4..].copy_from_slice(&counter.to_le_bytes());
            let cipher = ChaCha20Poly1305::new(key.into());
            cipher.encrypt_inout_detached(&nonce.into(), ad, out.as_mut_slice().into())
        }
    };
    out.extend(tag.expect("short"));
    out
}

/// Section 5.2.
struct Symmetric {
    aead: Aead,
    chaining_key: Key,
    hash: Key,
    key: Key,
    counter: u64,
}

impl Symmetric {
    fn new(aead: Aead, prologue: &[u8]) -> Self {
        let cipher = match aead {
            Aead::Aes256Gcm => "AESGCM",
            Aead::ChaCha20Poly1305 => "ChaChaPoly",
        };
        // Longer than a hash, so it is hashed.
        let name: Key = Sha256::digest(format!("Noise_XXpsk0+psk3_25519_{cipher}_SHA256")).into();
        // There is a key before anything is encrypted: psk0 comes first.
        let mut state = Self { aead, chaining_key: name, hash: name, key: [0; 32], counter: 0 };
        state.mix_hash(prologue);
        state
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Sha256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    fn mix_key(&mut self, input: &[u8]) {
        [self.chaining_key, self.key, _] = hkdf(&self.chaining_key, input);
        self.counter = 0;
    }

    fn mix_key_and_hash(&mut self, input: &[u8]) {
        let [chaining_key, hashed, key] = hkdf(&self.chaining_key, input);
        self.mix_hash(&hashed);
        (self.chaining_key, self.key, self.counter) = (chaining_key, key, 0);
    }

    fn encrypt_and_hash(&mut self, plain: &[u8]) -> Vec<u8> {
        let out = encrypt(self.aead, &self.key, self.counter, &self.hash, plain);
        self.counter += 1;
        self.mix_hash(&out);
        out
    }

    /// "e", which is mixed into the key too where there are pre-shared keys (section 9.2).
    fn ephemeral(&mut self, secret: &Key) -> Vec<u8> {
        let public = public(secret);
        self.mix_hash(&public);
        self.mix_key(&public);
        public.to_vec()
    }
}

/// Section 4.3.
fn hkdf(chaining_key: &Key, input: &[u8]) -> [Key; 3] {
    let first_key = mac(chaining_key, &[input]);
    let first = mac(&first_key, &[&[1]]);
    let second = mac(&first_key, &[&first, &[2]]);
    [first, second, mac(&first_key, &[&second, &[3]])]
}

/// HMAC-SHA256.
pub(super) fn mac(key: &Key, parts: &[&[u8]]) -> Key {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn public(secret: &Key) -> Key {
    MontgomeryPoint::mul_base_clamped(*secret).to_bytes()
}

fn dh(secret: &Key, public: &Key) -> Key {
    MontgomeryPoint(*public).mul_clamped(*secret).to_bytes()
}
