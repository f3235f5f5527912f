//! Keys and what is computed with them: cipher suites, AEAD backends, the tenant key file, identities, randomness.

mod aead;
#[cfg(feature = "aws-lc-rs")]
mod aws_lc;
mod backend;
pub(crate) mod hex;
mod identity;
mod kdf;
mod kem;
mod key_file;
mod keyring;
#[cfg(tencrypt_null_cipher)]
mod null;
mod peer_id;
mod rng;
mod rustcrypto;
mod secret;
#[cfg(test)]
mod tests;
mod x25519;

pub use aead::{Backend, OpenError, OpeningKey, SealingKey};
pub use backend::{KEY_LEN, NONCE_LEN};
pub use hex::{from_hex, to_hex};
pub use identity::Identity;
pub(crate) use kdf::{HASH_LEN, hkdf_sha256, hmac_sha256, sha256};
pub(crate) use kem::{KemSecret, encapsulate};
pub use key_file::{Field, KeyFileError, KeyFileProblem, write_epoch, write_key_file};
pub(crate) use keyring::EpochKeys;
pub use keyring::{KeyChangeError, KeyRing, KeyRingError, MAX_EPOCHS, TENANT_LEN};
pub use peer_id::PeerId;
pub use rng::Rng;
pub use secret::Seed;
pub(crate) use secret::{DEEP, Secret, wipe_stack};
#[cfg(test)]
pub(crate) use secret::{SHALLOW, witness};
#[cfg(test)]
pub(crate) use tests::{work::public_key_operations, wycheproof};
#[cfg(test)]
pub(crate) use x25519::LOW_ORDER;
pub(crate) use x25519::{X25519_LEN, public_key, shared_secret};

pub use crate::record::{Aead, CipherSuite, UnknownSuite};
/// The wrapper of text and bytes that are erased on drop, as key files are.
pub use zeroize::Zeroizing;
