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

/// The two ends of a session. Which is which is for them to agree on; who speaks first is the custom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a session has two ends")]
pub enum Role {
    /// The end that began.
    Initiator,
    /// The other one.
    Responder,
}

/// A secret that both ends of a session have from a key exchange of their own, for one direction of it.
///
/// It is spent on one [`Sealer`](super::Sealer) or one [`Opener`](super::Opener), and is not `Clone`. The sealer mixes a
/// random salt in and hands it out, so that two sealers of one secret have neither a key nor a nonce in common; the other
/// end's opener is made with that salt. `sender` is mixed in too: no end takes its own records for the other's.
///
/// Printed redacted, erased on drop. Making a sealer or an opener of it overwrites 128 KiB of stack, where the derivation has
/// worked.
///
/// ```
/// use tencrypt::{
///     Seed,
///     crypto::Aead,
///     record::SessionIndex,
///     session::{Opener, Role, Sealer, TrafficSecret},
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // What a key exchange has left at both ends, and what the operating system gives.
/// let (shared, random) = ([0x5a; 32], [0xc3; 32]);
/// let secret = || TrafficSecret::from_bytes(Aead::Aes256Gcm, Role::Initiator, shared);
///
/// let index = SessionIndex::from_u32(7).ok_or("0 is no index")?;
/// let (mut sealer, salt) = Sealer::from_secret(secret(), index, Seed::from_bytes(random));
/// let mut opener = Opener::from_secret(secret(), &salt);
///
/// let mut record = [0; 5 + Sealer::OVERHEAD];
/// let counter = sealer.counters(1)?.take().ok_or("none was left")?;
/// sealer.seal(counter, 0, b"hello", &mut record);
/// assert!(opener.open(&mut record.clone()).is_ok_and(|plain| plain.bytes == b"hello"));
/// assert!(opener.open(&mut record).is_err(), "a replay");
/// # Ok(())
/// # }
/// ```
///
/// A second use of one value does not compile:
///
/// ```compile_fail,E0382
/// # use tencrypt::{Seed, crypto::Aead, record::SessionIndex, session::{Role, Sealer, TrafficSecret}};
/// let index = SessionIndex::from_u32(7).unwrap();
/// let secret = TrafficSecret::from_bytes(Aead::Aes256Gcm, Role::Initiator, [0x5a; 32]);
/// let one = Sealer::from_secret(secret, index, Seed::from_bytes([1; 32]));
/// let two = Sealer::from_secret(secret, index, Seed::from_bytes([2; 32]));
/// ```
pub struct TrafficSecret {
    // Boxed: the value moves, the secret does not.
    secret: Box<Secret<KEY_LEN>>,
    aead: Aead,
    sender: Role,
}

impl TrafficSecret {
    /// Bytes of the salt that a sealer's keys are made with.
    pub const SALT_LEN: usize = SALT_LEN;

    /// The secret `bytes` for what `sender` seals with `aead`. They have to be as good as random (the output of a key
    /// exchange, not a password); the caller's copy is the caller's to erase.
    #[must_use]
    pub fn from_bytes(aead: Aead, sender: Role, bytes: [u8; KEY_LEN]) -> Self {
        let bytes = Zeroizing::new(bytes);
        Self { secret: Secret::boxed(|secret| secret.copy_from_slice(&*bytes)), aead, sender }
    }

    /// The same, written by `fill` where it stays, so that there is no other copy.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn try_filled<E>(
        aead: Aead,
        sender: Role,
        fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut filled = Ok(());
        let secret = Secret::boxed(|secret| filled = fill(secret));
        filled.map(|()| Self { secret, aead, sender })
    }

    /// Key and IV of the session with this salt.
    pub(super) fn into_keys(self, salt: &[u8; SALT_LEN]) -> DirectionKeys {
        let sender = match self.sender {
            Role::Initiator => 1,
            Role::Responder => 2,
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
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}
