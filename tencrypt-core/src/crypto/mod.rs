//! Keys and what can be wrong with them: the tenant's key ring and its file, members' numbers, names of suites.
//!
//! [`KeyRing`], [`Identity`], [`Seed`] and [`CipherSuite`] are at the root: whoever makes a Tunnel needs them.

pub(crate) mod aead;
#[cfg(feature = "aws-lc-rs")]
mod aws_lc;
mod backend;
pub(crate) mod hex;
pub(crate) mod identity;
mod kdf;
mod kem;
mod key_file;
pub(crate) mod keyring;
#[cfg(tencrypt_null_cipher)]
mod null;
mod peer_id;
pub(crate) mod rng;
mod rustcrypto;
pub(crate) mod secret;
#[cfg(test)]
mod tests;
mod x25519;

pub(crate) use aead::{Backend, OpeningKey, SealingKey};
pub(crate) use backend::{KEY_LEN, NONCE_LEN};
#[cfg(test)]
pub(crate) use hex::to_hex;
pub(crate) use identity::Identity;
pub(crate) use kdf::{HASH_LEN, hkdf_sha256, hmac_sha256, sha256};
pub(crate) use kem::{KemSecret, encapsulate};
pub(crate) use keyring::EpochKeys;
pub use keyring::KeyRingError;
pub(crate) use keyring::{KeyRing, TENANT_LEN};
pub use peer_id::PeerId;
pub(crate) use rng::Rng;
pub(crate) use secret::Seed;
pub(crate) use secret::{DEEP, Secret, wipe_stack};
#[cfg(test)]
pub(crate) use secret::{SHALLOW, witness};
#[cfg(test)]
pub(crate) use tests::{work::public_key_operations, wycheproof};
#[cfg(test)]
pub(crate) use x25519::LOW_ORDER;
pub(crate) use x25519::{X25519_LEN, public_key, shared_secret};

pub(crate) use crate::record::CipherSuite;
pub use crate::record::suite::Aead;
/// The wrapper of text and bytes that are erased on drop, as key files are.
pub use zeroize::Zeroizing;
