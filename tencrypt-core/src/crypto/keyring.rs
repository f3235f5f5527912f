//! The tenant's keys and the file they come in.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    hex::{self, HexError},
    kdf::{hkdf_sha256, hmac_sha256},
    secret::Secret,
};
use crate::record::MAC_LEN;

/// Bytes of a tenant id.
pub const TENANT_LEN: usize = 16;
/// Longest key file in bytes: what a human writes is far shorter, what is longer is another file.
const MAX_BYTES: usize = 64 * 1024;
/// Most lines of a key file.
const MAX_LINES: usize = 256;
const FIRST_LINE: &str = "tencrypt-key-v1";

/// The keys of one tenant. Not `Clone`, printed redacted, erased on drop.
pub struct KeyRing {
    tenant: [u8; TENANT_LEN],
    newest: Arc<EpochKeys>,
}

impl KeyRing {
    /// The keys in the text of a key file:
    ///
    /// ```text
    /// tencrypt-key-v1
    /// tenant <16 bytes in hex>
    /// epoch <0 to 255> <32 bytes in hex>
    /// ```
    ///
    /// Blank lines and lines that begin with `#` mean nothing. Exactly one epoch is accepted so far.
    ///
    /// # Errors
    /// [`KeyFileError`], with the line and what is wrong there; never with any of the text.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
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
        let mut epoch: Option<(u8, Zeroizing<[u8; 32]>)> = None;
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
                    let parsed = epoch_number(words.next()).ok_or(KeyFileProblem::EpochNumber.at(number))?;
                    let root = field(&mut words, Field::Root, number)?;
                    end(&mut words, Field::Root, number)?;
                    if root.iter().all(|byte| *byte == root[0]) {
                        return Err(KeyFileProblem::WeakRoot.at(number));
                    }
                    match &epoch {
                        Some((known, _)) if *known == parsed => {
                            return Err(KeyFileProblem::DuplicateEpoch.at(number));
                        }
                        Some(_) => return Err(KeyFileProblem::SeveralEpochs.at(number)),
                        None => epoch = Some((parsed, root)),
                    }
                }
                _ => return Err(KeyFileProblem::UnknownField.at(number)),
            }
        }
        let tenant = tenant.ok_or(KeyFileProblem::NoTenant.at(lines))?;
        let (number, root) = epoch.ok_or(KeyFileProblem::NoEpoch.at(lines))?;
        Ok(Self { tenant, newest: Arc::new(EpochKeys::derive(&tenant, number, &root)) })
    }

    /// The tenant's 16 random bytes. No secret.
    #[must_use]
    pub fn tenant_id(&self) -> &[u8; TENANT_LEN] {
        &self.tenant
    }

    /// The epoch that new handshakes start under.
    #[must_use]
    pub fn newest_epoch(&self) -> u8 {
        self.newest.number
    }

    /// The keys that new handshakes start under.
    pub(crate) fn newest(&self) -> &Arc<EpochKeys> {
        &self.newest
    }

    /// The keys of an epoch, if this side holds them.
    pub(crate) fn epoch(&self, number: u8) -> Option<&Arc<EpochKeys>> {
        Some(&self.newest).filter(|keys| keys.number == number)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("tenant", &self.tenant)
            .field("newest_epoch", &self.newest.number)
            .finish_non_exhaustive()
    }
}

/// The text of a key file with one epoch. Every member of the tenant gets the same file.
#[must_use]
pub fn write_key_file(tenant: [u8; TENANT_LEN], epoch: u8, root: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    text.push_str(FIRST_LINE);
    text.push_str("\ntenant ");
    hex::encode(&tenant, &mut text);
    text.push_str("\nepoch ");
    text.push_str(&epoch.to_string());
    text.push(' ');
    hex::encode(root, &mut text);
    text.push('\n');
    text
}

/// The keys of one epoch, each with one use.
///
/// Cookie and reset keys (labels `cookie` and `reset`) come with the messages that need them.
#[derive(Debug)]
pub(crate) struct EpochKeys {
    number: u8,
    psk: Secret<32>,
    mac: Secret<32>,
}

impl EpochKeys {
    fn derive(tenant: &[u8; TENANT_LEN], number: u8, root: &[u8; 32]) -> Self {
        let key =
            |label: &[u8]| Secret::filled(|key| hkdf_sha256(tenant, root, &[b"tencrypt v1 ", label], key));
        Self { number, psk: key(b"psk"), mac: key(b"mac") }
    }

    /// The epoch's number.
    pub(crate) fn number(&self) -> u8 {
        self.number
    }

    /// The pre-shared key of the Noise handshake.
    pub(crate) fn psk(&self) -> &[u8; 32] {
        self.psk.expose()
    }

    /// mac1 over the bytes before it.
    pub(crate) fn mac1(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        let mut mac1 = [0; MAC_LEN];
        mac1.copy_from_slice(&hmac_sha256(self.mac.expose(), &[covered])[..MAC_LEN]);
        mac1
    }

    /// Whether `mac1` is the one over `covered`, in time that does not depend on where they differ.
    pub(crate) fn verify_mac1(&self, covered: &[u8], mac1: &[u8; MAC_LEN]) -> bool {
        self.mac1(covered).ct_eq(mac1).into()
    }
}

/// Why a key file is refused.
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

    /// What is wrong.
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
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tenant => "tenant id",
            Self::Root => "root key",
        })
    }
}

/// What is wrong with a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileProblem {
    /// More than 64 KiB or 256 lines.
    #[error("longer than 64 KiB or 256 lines: not a key file")]
    TooLong,
    /// The first line that is no comment must be `tencrypt-key-v1`.
    #[error("expected `tencrypt-key-v1`")]
    FirstLine,
    /// A line that begins with neither `tenant` nor `epoch`.
    #[error("expected `tenant` or `epoch`")]
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
    /// A second epoch, which this version does not take.
    #[error("several epochs are not supported yet")]
    SeveralEpochs,
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

/// One way to write each number: digits only, no zeros in front.
fn epoch_number(word: Option<&str>) -> Option<u8> {
    let word = word?;
    let canonical = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
