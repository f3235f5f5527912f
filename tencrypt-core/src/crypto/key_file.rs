//! The file that a tenant's keys come in: reading and writing it.

use std::fmt;

use zeroize::Zeroizing;

use super::{
    hex::{self, HexError},
    keyring::{KeyRing, KeyRingError, MAX_EPOCHS, Roots, TENANT_LEN},
    secret::{DEEP, wipe_stack},
};

/// Longest key file in bytes: what a human writes is far shorter, what is longer is another file.
const MAX_BYTES: usize = 64 * 1024;
/// Most lines of a key file.
const MAX_LINES: usize = 256;
const FIRST_LINE: &str = "tencrypt-key-v1";

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
    /// Blank lines and lines that begin with `#` mean nothing. There are 1 to [`MAX_EPOCHS`](Self::MAX_EPOCHS) epochs, all of
    /// which are accepted. `send` names the one that new handshakes start under; a file with one epoch may leave it out.
    ///
    /// # Errors
    /// [`KeyFileError`], with the line and what is wrong there; never with any of the text.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let parsed = Self::read(text);
        wipe_stack::<DEEP>();
        parsed
    }

    /// The text of a key file with one epoch. Every member of the tenant gets the same file.
    #[must_use]
    pub fn write_file(tenant: [u8; TENANT_LEN], epoch: u8, root: &[u8; 32]) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str(FIRST_LINE);
        text.push_str("\ntenant ");
        hex::encode(&tenant, &mut text);
        text.push('\n');
        text.push_str(&Self::write_epoch(epoch, root));
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
        let mut roots = Roots::new();
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
                    roots.push(epoch, root).map_err(|error| KeyFileProblem::of(error).at(number))?;
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
        let (send, line) = match (send, roots.numbers().as_slice()) {
            (_, []) => return Err(KeyFileProblem::NoEpoch.at(lines)),
            (Some(named), _) => named,
            (None, [only]) => (*only, lines),
            (None, _) => return Err(KeyFileProblem::NoSend.at(lines)),
        };
        roots.derive(tenant, send).map_err(|error| KeyFileProblem::of(error).at(line))
    }
}

/// Refusal of a key file, with its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
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
    #[cfg(test)]
    pub(super) fn problem(&self) -> KeyFileProblem {
        self.problem
    }
}

/// A value in a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(super) enum Field {
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
pub(super) enum KeyFileProblem {
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
    /// More than [`KeyRing::MAX_EPOCHS`] epochs.
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
    /// The same, where a line says which epoch it is about.
    fn of(error: KeyRingError) -> Self {
        match error {
            KeyRingError::NoEpoch => Self::NoEpoch,
            KeyRingError::DuplicateEpoch(_) => Self::DuplicateEpoch,
            KeyRingError::TooManyEpochs => Self::TooManyEpochs,
            KeyRingError::SameRoot(_) => Self::SameRoot,
            KeyRingError::WeakRoot(_) => Self::WeakRoot,
            KeyRingError::UnknownSend(_) => Self::UnknownSend,
        }
    }

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
