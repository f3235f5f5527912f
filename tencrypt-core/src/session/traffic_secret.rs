//! Secrets that a caller brings, in place of those of the handshake.

use std::fmt;

use zeroize::Zeroizing;

use super::keys::DirectionKeys;
use crate::{
    crypto::{HASH_LEN, KEY_LEN, Secret, hkdf_sha256},
    record::Aead,
};

/// Bytes of the salt that tells apart the sessions of one [`TrafficSecret`]: a hash's, as RFC 5869 section 3.1 advises.
pub(crate) const SALT_LEN: usize = HASH_LEN;

/// One of the two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Initiator,
    Responder,
}

/// A secret that both ends of a session have from a key exchange of their own, as one of the ends holds it. Which end is
/// the initiator is for them to agree on; who speaks first is the custom.
///
/// It is spent on one [`Sealer`](super::Sealer) or one [`Opener`](super::Opener), and is not `Clone`: an end that sends and
/// receives makes it twice. The sealer mixes a random salt in and hands it out, so that two sealers of one secret have
/// neither a key nor a nonce in common; the other end's opener is made with that salt. The end that seals is mixed in too:
/// an opener at the initiator opens what the responder has sealed, and none of the initiator's own records, whatever
/// salt it was given. Two ends that both take themselves for the initiator do not understand each other.
///
/// Printed redacted, erased on drop. Making a sealer or an opener of it overwrites 128 KiB of stack, where the derivation has
/// worked.
///
/// ```
/// use tencrypt::{
///     Seed,
///     crypto::Aead,
///     record::SessionIndex,
///     session::{Opener, Sealer, TrafficSecret},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // What a key exchange has left at both ends, and what the operating system gives.
/// let (shared, random) = ([0x5a; 32], [0xc3; 32]);
/// let index = SessionIndex::from_u32(7).ok_or("0 is no index")?;
///
/// let initiator = TrafficSecret::for_initiator(Aead::Aes256Gcm, shared);
/// let (mut sealer, salt) = Sealer::from_secret(initiator, index, Seed::from_bytes(random));
///
/// let responder = TrafficSecret::for_responder(Aead::Aes256Gcm, shared);
/// let mut opener = Opener::from_secret(responder, &salt);
///
/// let mut record = [0; 5 + Sealer::OVERHEAD];
/// let counter = sealer.counters(1)?.take().ok_or("none was left")?;
/// sealer.seal(counter, 0, b"hello", &mut record);
/// assert!(opener.open(&mut record.clone()).is_ok_and(|plain| plain.bytes == b"hello"));
/// assert!(opener.open(&mut record.clone()).is_err(), "a replay");
///
/// let initiator = TrafficSecret::for_initiator(Aead::Aes256Gcm, shared);
/// assert!(Opener::from_secret(initiator, &salt).open(&mut record).is_err(), "its own record, sent back to it");
/// # Ok(())
/// # }
/// ```
///
/// A second use of one value does not compile:
///
/// ```compile_fail,E0382
/// # use tencrypt::{Seed, crypto::Aead, record::SessionIndex, session::{Sealer, TrafficSecret}};
/// let index = SessionIndex::from_u32(7).unwrap();
/// let secret = TrafficSecret::for_initiator(Aead::Aes256Gcm, [0x5a; 32]);
/// let one = Sealer::from_secret(secret, index, Seed::from_bytes([1; 32]));
/// let two = Sealer::from_secret(secret, index, Seed::from_bytes([2; 32]));
/// ```
pub struct TrafficSecret {
    // Boxed: the value moves, the secret does not.
    secret: Box<Secret<KEY_LEN>>,
    aead: Aead,
    end: End,
}

impl TrafficSecret {
    /// Bytes of the salt that a sealer's keys are made with.
    pub const SALT_LEN: usize = SALT_LEN;

    /// The secret `bytes` at the initiator, for records sealed with `aead`. They have to be as good as random (the output of
    /// a key exchange, not a password); the caller's copy is the caller's to erase.
    #[must_use]
    pub fn for_initiator(aead: Aead, bytes: [u8; KEY_LEN]) -> Self {
        Self::copied(aead, End::Initiator, bytes)
    }

    /// The same at the responder.
    #[must_use]
    pub fn for_responder(aead: Aead, bytes: [u8; KEY_LEN]) -> Self {
        Self::copied(aead, End::Responder, bytes)
    }

    /// As [`for_initiator`](Self::for_initiator), written by `fill` where it stays, so that there is no other copy.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn try_for_initiator<E>(
        aead: Aead,
        fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        Self::filled(aead, End::Initiator, fill)
    }

    /// The same at the responder.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn try_for_responder<E>(
        aead: Aead,
        fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        Self::filled(aead, End::Responder, fill)
    }

    fn copied(aead: Aead, end: End, bytes: [u8; KEY_LEN]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self { secret: Secret::boxed(|secret| secret.copy_from_slice(&*bytes)), aead, end }
    }

    fn filled<E>(
        aead: Aead,
        end: End,
        fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut filled = Ok(());
        let secret = Secret::boxed(|secret| filled = fill(secret));
        filled.map(|()| Self { secret, aead, end })
    }

    /// Key and IV of what this end seals with this salt.
    pub(super) fn into_sealing_keys(self, salt: &[u8; SALT_LEN]) -> DirectionKeys {
        let sender = self.end;
        self.into_keys(salt, sender)
    }

    /// Key and IV of what the other end has sealed with this salt.
    pub(super) fn into_opening_keys(self, salt: &[u8; SALT_LEN]) -> DirectionKeys {
        let sender = match self.end {
            End::Initiator => End::Responder,
            End::Responder => End::Initiator,
        };
        self.into_keys(salt, sender)
    }

    fn into_keys(self, salt: &[u8; SALT_LEN], sender: End) -> DirectionKeys {
        let sender = match sender {
            End::Initiator => 1,
            End::Responder => 2,
        };
        let aead = match self.aead {
            Aead::ChaCha20Poly1305 => 1,
            Aead::Aes256Gcm => 2,
        };
        let expand = |label: &[u8], out: &mut [u8]| {
            hkdf_sha256(salt, self.secret.expose(), &[b"tencrypt v1 traffic ", label, &[sender, aead]], out);
        };
        DirectionKeys {
            aead: self.aead,
            key: Secret::filled(|key| expand(b"key", key)),
            iv: Secret::filled(|iv| expand(b"iv", iv)),
        }
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficSecret")
            .field("aead", &self.aead)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
