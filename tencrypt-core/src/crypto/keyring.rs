//! The tenant's keys and the file they come in.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    hex::{self, HexError},
    kdf::{hkdf_sha256, hmac_sha256},
    secret::{DEEP, Secret, wipe_stack},
};
use crate::record::{COOKIE_NONCE_LEN, MAC_LEN};

/// Bytes of a tenant id.
pub const TENANT_LEN: usize = 16;
/// Longest key file in bytes: what a human writes is far shorter, what is longer is another file.
const MAX_BYTES: usize = 64 * 1024;
/// Most lines of a key file.
const MAX_LINES: usize = 256;
const FIRST_LINE: &str = "tencrypt-key-v1";

/// Most epochs of a key file: a rotation needs two or three, and nobody counts further while each pod still has to
/// catch up.
pub const MAX_EPOCHS: usize = 8;

/// The keys of one tenant: every epoch that is accepted, and which of them is sent. Not `Clone`, printed redacted,
/// erased on drop.
pub struct KeyRing {
    tenant: [u8; TENANT_LEN],
    /// In the file's order, at least one.
    epochs: Vec<Arc<EpochKeys>>,
    send: Arc<EpochKeys>,
}

impl KeyRing {
    /// The keys in the text of a key file:
    ///
    /// ```text
    /// tencrypt-key-v1
    /// tenant <16 bytes in hex>
    /// epoch <0 to 255> <32 bytes in hex>
    /// send <0 to 255>
    /// ```
    ///
    /// Blank lines and lines that begin with `#` mean nothing. There are 1 to [`MAX_EPOCHS`] epochs, all of which are
    /// accepted. `send` names the one that new handshakes start under; a file with one epoch may leave it out.
    ///
    /// # Errors
    /// [`KeyFileError`], with the line and what is wrong there; never with any of the text.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let parsed = Self::read(text);
        wipe_stack::<DEEP>();
        parsed
    }

    #[inline(never)]
    fn read(text: &str) -> Result<Self, KeyFileError> {
        if text.len() > MAX_BYTES {
            return Err(KeyFileProblem::TooLong.at(0));
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            return Err(KeyFileProblem::TooLong.at(MAX_LINES + 1));
        }
        let numbered = (1..).zip(text.lines().map(str::trim));
        let mut meaningful = numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        match meaningful.next() {
            Some((_, FIRST_LINE)) => {}
            Some((number, _)) => return Err(KeyFileProblem::FirstLine.at(number)),
            None => return Err(KeyFileProblem::FirstLine.at(lines.max(1))),
        }
        let mut tenant = None;
        let mut send = None;
        let mut roots: Vec<Root> = Vec::with_capacity(MAX_EPOCHS);
        for (number, line) in meaningful {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("tenant") => {
                    let id = field(&mut words, Field::Tenant, number)?;
                    end(&mut words, Field::Tenant, number)?;
                    if tenant.replace(*id).is_some() {
                        return Err(KeyFileProblem::DuplicateTenant.at(number));
                    }
                }
                Some("epoch") => {
                    let epoch = epoch_number(words.next()).ok_or(KeyFileProblem::EpochNumber.at(number))?;
                    let root = field(&mut words, Field::Root, number)?;
                    end(&mut words, Field::Root, number)?;
                    check_root(epoch, &root, &roots).map_err(|problem| problem.at(number))?;
                    roots.push((epoch, root));
                }
                Some("send") => {
                    let epoch = epoch_number(words.next()).ok_or(KeyFileProblem::EpochNumber.at(number))?;
                    end(&mut words, Field::Send, number)?;
                    if send.replace((epoch, number)).is_some() {
                        return Err(KeyFileProblem::DuplicateSend.at(number));
                    }
                }
                _ => return Err(KeyFileProblem::UnknownField.at(number)),
            }
        }
        let tenant = tenant.ok_or(KeyFileProblem::NoTenant.at(lines))?;
        let (send, line) = match (send, roots.as_slice()) {
            (_, []) => return Err(KeyFileProblem::NoEpoch.at(lines)),
            (Some(named), _) => named,
            (None, [(only, _)]) => (*only, lines),
            (None, _) => return Err(KeyFileProblem::NoSend.at(lines)),
        };
        let derive = |(number, root): &Root| Arc::new(EpochKeys::derive(&tenant, *number, root));
        let epochs: Vec<Arc<EpochKeys>> = roots.iter().map(derive).collect();
        let send = epochs.iter().find(|keys| keys.number == send).cloned();
        Ok(Self { tenant, send: send.ok_or(KeyFileProblem::UnknownSend.at(line))?, epochs })
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

    /// The epochs that are accepted, the one that is sent among them, in the file's order.
    pub fn epochs(&self) -> impl Iterator<Item = u8> {
        self.epochs.iter().map(|keys| keys.number)
    }

    /// Tells if an epoch is accepted.
    #[must_use]
    pub fn holds(&self, epoch: u8) -> bool {
        self.epoch(epoch).is_some()
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
    /// [`KeyChangeError`].
    pub fn check_change(&self, next: &Self) -> Result<(), KeyChangeError> {
        if self.tenant != next.tenant {
            return Err(KeyChangeError::OtherTenant);
        }
        let differs =
            |keys: &&Arc<EpochKeys>| next.epoch(keys.number).is_some_and(|other| !keys.is_same(other));
        self.epochs.iter().find(differs).map_or(Ok(()), |keys| Err(KeyChangeError::OtherKey(keys.number)))
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

/// Reason for which a running member keeps its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyChangeError {
    /// The keys are another tenant's.
    #[error("the tenant id is another one")]
    OtherTenant,
    /// An epoch that is in use has another key: members that know both under one number would not understand each other.
    #[error("epoch {0} has another key than the one in use; a new key needs a new epoch")]
    OtherKey(u8),
}

/// The text of a key file with one epoch. Every member of the tenant gets the same file.
#[must_use]
pub fn write_key_file(tenant: [u8; TENANT_LEN], epoch: u8, root: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    text.push_str(FIRST_LINE);
    text.push_str("\ntenant ");
    hex::encode(&tenant, &mut text);
    text.push('\n');
    text.push_str(&write_epoch(epoch, root));
    text
}

/// The line of a key file that holds one epoch, with its end.
#[must_use]
pub fn write_epoch(epoch: u8, root: &[u8; 32]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(80));
    line.push_str("epoch ");
    line.push_str(&epoch.to_string());
    line.push(' ');
    hex::encode(root, &mut line);
    line.push('\n');
    line
}

/// The keys of one epoch, each with one use.
#[derive(Debug)]
pub(crate) struct EpochKeys {
    number: u8,
    psk: Secret<32>,
    mac: Secret<32>,
    cookie: Secret<32>,
    reset: Secret<32>,
}

impl EpochKeys {
    fn derive(tenant: &[u8; TENANT_LEN], number: u8, root: &[u8; 32]) -> Self {
        let key =
            |label: &[u8]| Secret::filled(|key| hkdf_sha256(tenant, root, &[b"tencrypt v1 ", label], key));
        Self { number, psk: key(b"psk"), mac: key(b"mac"), cookie: key(b"cookie"), reset: key(b"reset") }
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

/// Refusal of a key file, with its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("key file, line {line}: {problem}")]
pub struct KeyFileError {
    line: usize,
    problem: KeyFileProblem,
}

impl KeyFileError {
    /// The line it is about, counted from 1; 0: the file as a whole.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Problem of that line, or of the whole file.
    #[must_use]
    pub fn problem(&self) -> KeyFileProblem {
        self.problem
    }
}

/// A value in a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// The tenant id: 16 bytes.
    Tenant,
    /// An epoch's root key: 32 bytes.
    Root,
    /// The number of the epoch that is sent.
    Send,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tenant => "tenant id",
            Self::Root => "root key",
            Self::Send => "epoch's number",
        })
    }
}

/// Problem of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileProblem {
    /// More than 64 KiB or 256 lines.
    #[error("longer than 64 KiB or 256 lines: not a key file")]
    TooLong,
    /// The first line that is no comment must be `tencrypt-key-v1`.
    #[error("expected `tencrypt-key-v1`")]
    FirstLine,
    /// A line that begins with none of `tenant`, `epoch` and `send`.
    #[error("expected `tenant`, `epoch` or `send`")]
    UnknownField,
    /// No `tenant` line.
    #[error("no `tenant` line")]
    NoTenant,
    /// A second `tenant` line.
    #[error("a second `tenant` line")]
    DuplicateTenant,
    /// No `epoch` line.
    #[error("no `epoch` line")]
    NoEpoch,
    /// An epoch's number is not a decimal number from 0 to 255.
    #[error("the epoch's number is not one of 0 to 255")]
    EpochNumber,
    /// An epoch's number occurs twice.
    #[error("this epoch was given before")]
    DuplicateEpoch,
    /// More than [`MAX_EPOCHS`] epochs.
    #[error("more than {MAX_EPOCHS} epochs")]
    TooManyEpochs,
    /// Two epochs have one key: a rotation that changes nothing.
    #[error("the root key is that of an epoch before")]
    SameRoot,
    /// Several epochs, and nothing says which one is sent.
    #[error("several epochs and no `send` line")]
    NoSend,
    /// A second `send` line.
    #[error("a second `send` line")]
    DuplicateSend,
    /// `send` names an epoch that is not in the file.
    #[error("`send` names an epoch that is not in the file")]
    UnknownSend,
    /// A value is missing, or too short or too long.
    #[error("the {0} has the wrong length")]
    Length(Field),
    /// A value holds a character that is no hexadecimal digit.
    #[error("the {0} is not hexadecimal")]
    Digit(Field),
    /// A root key of 32 equal bytes.
    #[error("the root key is 32 equal bytes: not a random key")]
    WeakRoot,
    /// More text after the last value of a line.
    #[error("text after the {0}")]
    Trailing(Field),
}

impl KeyFileProblem {
    fn at(self, line: usize) -> KeyFileError {
        KeyFileError { line, problem: self }
    }
}

fn field<'t, const N: usize>(
    words: &mut impl Iterator<Item = &'t str>,
    field: Field,
    line: usize,
) -> Result<Zeroizing<[u8; N]>, KeyFileError> {
    let problem = match hex::decode(words.next().unwrap_or_default()) {
        Ok(bytes) => return Ok(bytes),
        Err(HexError::Length) => KeyFileProblem::Length(field),
        Err(HexError::Digit) => KeyFileProblem::Digit(field),
    };
    Err(problem.at(line))
}

fn end<'t>(words: &mut impl Iterator<Item = &'t str>, field: Field, line: usize) -> Result<(), KeyFileError> {
    if words.next().is_some() { Err(KeyFileProblem::Trailing(field).at(line)) } else { Ok(()) }
}

/// An epoch's number and root key.
type Root = (u8, Zeroizing<[u8; 32]>);

/// Checks that an epoch may stand behind those before it.
fn check_root(epoch: u8, root: &[u8; 32], before: &[Root]) -> Result<(), KeyFileProblem> {
    if root.iter().all(|byte| *byte == root[0]) {
        return Err(KeyFileProblem::WeakRoot);
    }
    if before.iter().any(|(known, _)| *known == epoch) {
        return Err(KeyFileProblem::DuplicateEpoch);
    }
    if before.iter().any(|(_, known)| known.ct_eq(root).into()) {
        return Err(KeyFileProblem::SameRoot);
    }
    if before.len() >= MAX_EPOCHS { Err(KeyFileProblem::TooManyEpochs) } else { Ok(()) }
}

/// One way to write each number: digits only, no zeros in front.
fn epoch_number(word: Option<&str>) -> Option<u8> {
    let word = word?;
    let canonical = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
#[path = "tests/keyring.rs"]
mod tests;
