//! The tenant's keys.

use std::{fmt, ops::Deref, sync::Arc};

use subtle::ConstantTimeEq;

use super::{
    kdf::{hkdf_sha256, hmac_sha256},
    secret::{DEEP, Secret, wipe_stack},
};
use crate::record::{COOKIE_NONCE_LEN, MAC_LEN};

/// Bytes of a tenant id.
pub(crate) const TENANT_LEN: usize = 16;
/// Most epochs of a tenant's keys: a rotation needs two or three, and nobody counts further while each pod still has to
/// catch up.
pub(crate) const MAX_EPOCHS: usize = 8;

/// Bytes of an epoch's fingerprint: as many as people compare.
const FINGERPRINT_LEN: usize = 4;

/// The keys of one tenant: every epoch that is accepted, and which of them is sent. Not `Clone`, printed redacted,
/// erased on drop.
pub struct KeyRing {
    tenant: [u8; TENANT_LEN],
    /// In the order given, at least one.
    epochs: Vec<Arc<EpochKeys>>,
    send: Arc<EpochKeys>,
}

impl KeyRing {
    /// Bytes of a tenant's number.
    pub const TENANT_LEN: usize = TENANT_LEN;
    /// Most epochs of a tenant at one time.
    pub const MAX_EPOCHS: usize = MAX_EPOCHS;

    /// Makes the keys of `tenant`, which is 16 random bytes and no secret, from the number and the root key of each epoch
    /// that is accepted: 1 to [`MAX_EPOCHS`](Self::MAX_EPOCHS) of them, a root key being 32 random bytes. New handshakes start under the
    /// epoch `send`. [`parse`](Self::parse) reads the same from a file; every member of the tenant is given the same.
    ///
    /// Root keys are read where they are, and nothing of them is left behind: the caller's copy is the only one, and the
    /// caller's to erase.
    ///
    /// ```
    /// use tencrypt::{KeyRing, crypto::Zeroizing};
    ///
    /// # fn read(root: &mut [u8; 32]) {
    /// #     *root = std::array::from_fn(|at| at as u8);
    /// # }
    /// let mut root = Zeroizing::new([0; 32]); // erased when it is dropped
    /// read(&mut root);
    /// let keys = KeyRing::new([7; 16], [(1, &*root)], 1)?;
    /// assert!(keys.holds(1) && keys.send_epoch() == 1);
    /// # Ok::<(), tencrypt::crypto::KeyRingError>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyRingError`]: what [`parse`](Self::parse) refuses in a file.
    pub fn new<'r>(
        tenant: [u8; TENANT_LEN],
        epochs: impl IntoIterator<Item = (u8, &'r [u8; 32])>,
        send: u8,
    ) -> Result<Self, KeyRingError> {
        let mut roots = Roots::new();
        epochs.into_iter().try_for_each(|(epoch, root)| roots.push(epoch, root))?;
        let keys = roots.derive(tenant, send);
        wipe_stack::<DEEP>();
        keys
    }

    /// The tenant's 16 random bytes. No secret.
    #[must_use]
    pub fn tenant_id(&self) -> &[u8; TENANT_LEN] {
        &self.tenant
    }

    /// The epoch that new handshakes start under.
    #[must_use]
    pub fn send_epoch(&self) -> u8 {
        self.send.number
    }

    /// The epochs that are accepted, the one that is sent among them, in the order given.
    pub fn epochs(&self) -> impl Iterator<Item = u8> {
        self.epochs.iter().map(|keys| keys.number)
    }

    /// Tells if an epoch is accepted.
    #[must_use]
    pub fn holds(&self, epoch: u8) -> bool {
        self.epoch(epoch).is_some()
    }

    /// Returns 4 bytes that tell the key of an epoch from another under the same number; `None` if the epoch is not held.
    ///
    /// No secret, and no use of the root key but this: HKDF under a label of its own. Two keys have the same with
    /// probability 2^-32: it shows that files differ, and is no proof against somebody who looks for a second key.
    #[must_use]
    pub fn fingerprint(&self, epoch: u8) -> Option<[u8; FINGERPRINT_LEN]> {
        self.epoch(epoch).map(|keys| keys.fingerprint)
    }

    /// The epoch to go to from the one that is sent: of those after it the nearest.
    #[must_use]
    pub fn next_epoch(&self) -> Option<u8> {
        self.epochs().filter(|epoch| self.is_newer(*epoch)).min_by_key(|epoch| self.ahead(*epoch))
    }

    /// The epoch to let go of: of those before the one that is sent the furthest.
    #[must_use]
    pub fn oldest_epoch(&self) -> Option<u8> {
        let before = |epoch: &u8| *epoch != self.send.number && !self.is_newer(*epoch);
        self.epochs().filter(before).min_by_key(|epoch| self.ahead(*epoch))
    }

    /// The number of an epoch to be made: after the one that is sent and every one that follows it.
    #[must_use]
    pub fn vacant_epoch(&self) -> u8 {
        let newest =
            self.epochs().filter(|epoch| self.is_newer(*epoch)).max_by_key(|epoch| self.ahead(*epoch));
        newest.unwrap_or(self.send.number).wrapping_add(1)
    }

    /// Tells if an epoch comes after the one that is sent: by up to 127 steps, for 0 comes after 255 (serial numbers,
    /// RFC 1982 section 3.2).
    #[must_use]
    pub fn is_newer(&self, epoch: u8) -> bool {
        (1..=127).contains(&self.ahead(epoch))
    }

    fn ahead(&self, epoch: u8) -> u8 {
        epoch.wrapping_sub(self.send.number)
    }

    /// Checks that a running member may go over from these keys to `next`. Keys are compared in constant time.
    ///
    /// # Errors
    /// [`KeyRingError::OtherTenant`] or [`KeyRingError::OtherKey`].
    pub fn check_change(&self, next: &Self) -> Result<(), KeyRingError> {
        if self.tenant != next.tenant {
            return Err(KeyRingError::OtherTenant);
        }
        let differs =
            |keys: &&Arc<EpochKeys>| next.epoch(keys.number).is_some_and(|other| !keys.is_same(other));
        self.epochs.iter().find(differs).map_or(Ok(()), |keys| Err(KeyRingError::OtherKey(keys.number)))
    }

    /// Tells if `other` accepts and sends the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.check_change(other).is_ok()
            && self.send.number == other.send.number
            && self.epochs().eq(other.epochs())
    }

    /// The keys that new handshakes start under.
    pub(crate) fn sent(&self) -> &Arc<EpochKeys> {
        &self.send
    }

    /// The keys of an epoch, if this side holds them.
    pub(crate) fn epoch(&self, number: u8) -> Option<&Arc<EpochKeys>> {
        self.epochs.iter().find(|keys| keys.number == number)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("tenant", &self.tenant)
            .field("epochs", &self.epochs().collect::<Vec<_>>())
            .field("send", &self.send.number)
            .finish_non_exhaustive()
    }
}

/// Reason for which bytes are no keys of a tenant, or none that a running member may take in place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// No epoch.
    #[error("no epoch")]
    NoEpoch,
    /// An epoch's number occurs twice.
    #[error("epoch {0} was given before")]
    DuplicateEpoch(u8),
    /// More than [`KeyRing::MAX_EPOCHS`] epochs.
    #[error("more than {MAX_EPOCHS} epochs")]
    TooManyEpochs,
    /// Two epochs have one key, the one named as the second: a rotation that changes nothing.
    #[error("the root key of epoch {0} is that of an epoch before")]
    SameRoot(u8),
    /// A root key of 32 equal bytes.
    #[error("the root key of epoch {0} is 32 equal bytes: not a random key")]
    WeakRoot(u8),
    /// The epoch to be sent is not among those given.
    #[error("epoch {0} is to be sent and is not among those given")]
    UnknownSend(u8),
    /// In place of those before: the keys are another tenant's.
    #[error("the tenant id is another one")]
    OtherTenant,
    /// In place of those before: an epoch that is in use has another key. Members that know both under one number would
    /// not understand each other.
    #[error("epoch {0} has another key than the one in use; a new key needs a new epoch")]
    OtherKey(u8),
}

/// Root keys with the numbers of their epochs, in the order given; checked as they come.
pub(super) struct Roots<R>(Vec<(u8, R)>);

impl<R: Deref<Target = [u8; 32]>> Roots<R> {
    /// None yet. There is room for all that [`push`](Self::push) takes: growing would leave copies behind.
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(MAX_EPOCHS))
    }

    /// Adds an epoch.
    pub(super) fn push(&mut self, epoch: u8, root: R) -> Result<(), KeyRingError> {
        if root.iter().all(|byte| *byte == root[0]) {
            return Err(KeyRingError::WeakRoot(epoch));
        }
        if self.0.iter().any(|(known, _)| *known == epoch) {
            return Err(KeyRingError::DuplicateEpoch(epoch));
        }
        if self.0.iter().any(|(_, known)| known.ct_eq(&*root).into()) {
            return Err(KeyRingError::SameRoot(epoch));
        }
        if self.0.len() >= MAX_EPOCHS {
            return Err(KeyRingError::TooManyEpochs);
        }
        self.0.push((epoch, root));
        Ok(())
    }

    /// The epochs' numbers.
    pub(super) fn numbers(&self) -> Vec<u8> {
        self.0.iter().map(|(epoch, _)| *epoch).collect()
    }

    /// Derives the keys of every epoch.
    #[inline(never)]
    pub(super) fn derive(&self, tenant: [u8; TENANT_LEN], send: u8) -> Result<KeyRing, KeyRingError> {
        if self.0.is_empty() {
            return Err(KeyRingError::NoEpoch);
        }
        let derive = |(number, root): &(u8, R)| Arc::new(EpochKeys::derive(&tenant, *number, root));
        let epochs: Vec<Arc<EpochKeys>> = self.0.iter().map(derive).collect();
        let send =
            epochs.iter().find(|keys| keys.number == send).cloned().ok_or(KeyRingError::UnknownSend(send))?;
        Ok(KeyRing { tenant, epochs, send })
    }
}

/// The keys of one epoch, each with one use.
#[derive(Debug)]
pub(crate) struct EpochKeys {
    number: u8,
    psk: Secret<32>,
    mac: Secret<32>,
    cookie: Secret<32>,
    reset: Secret<32>,
    /// No secret.
    fingerprint: [u8; FINGERPRINT_LEN],
}

impl EpochKeys {
    fn derive(tenant: &[u8; TENANT_LEN], number: u8, root: &[u8; 32]) -> Self {
        let key =
            |label: &[u8]| Secret::filled(|key| hkdf_sha256(tenant, root, &[b"tencrypt v1 ", label], key));
        let mut fingerprint = [0; FINGERPRINT_LEN];
        hkdf_sha256(tenant, root, &[b"tencrypt v1 ", b"fingerprint"], &mut fingerprint);
        Self {
            number,
            psk: key(b"psk"),
            mac: key(b"mac"),
            cookie: key(b"cookie"),
            reset: key(b"reset"),
            fingerprint,
        }
    }

    /// Tells if both have the same keys, in time that does not depend on where they differ.
    fn is_same(&self, other: &Self) -> bool {
        self.psk.expose().ct_eq(other.psk.expose()).into()
    }

    /// The epoch's number.
    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// Every key of the epoch.
    #[cfg(test)]
    pub(crate) fn all(&self) -> [&[u8; 32]; 4] {
        [&self.psk, &self.mac, &self.cookie, &self.reset].map(Secret::expose)
    }

    /// The pre-shared key of the Noise handshake.
    pub(crate) fn psk(&self) -> &[u8; 32] {
        self.psk.expose()
    }

    /// mac1 over the bytes before it.
    pub(crate) fn mac1(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        tag(&self.mac, covered)
    }

    /// Tells if `mac1` is the one over `covered`, in time that does not depend on where they differ.
    pub(crate) fn verify_mac1(&self, covered: &[u8], mac1: &[u8; MAC_LEN]) -> bool {
        self.mac1(covered).ct_eq(mac1).into()
    }

    /// The key that one COOKIE is sealed with, by its nonce.
    pub(crate) fn cookie_key(&self, nonce: &[u8; COOKIE_NONCE_LEN]) -> Secret<32> {
        Secret::filled(|key| hkdf_sha256(nonce, self.cookie.expose(), &[b"tencrypt v1 seal"], key))
    }

    /// The tag of a RESET over the bytes before it.
    pub(crate) fn reset_tag(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        tag(&self.reset, covered)
    }

    /// Tells if `tag` is the one over `covered`, in time that does not depend on where they differ.
    pub(crate) fn verify_reset_tag(&self, covered: &[u8], tag: &[u8; MAC_LEN]) -> bool {
        self.reset_tag(covered).ct_eq(tag).into()
    }
}

/// The first bytes of an HMAC.
fn tag(key: &Secret<32>, covered: &[u8]) -> [u8; MAC_LEN] {
    let mut tag = [0; MAC_LEN];
    tag.copy_from_slice(&hmac_sha256(key.expose(), &[covered])[..MAC_LEN]);
    tag
}

#[cfg(test)]
#[path = "tests/keyring.rs"]
mod tests;
