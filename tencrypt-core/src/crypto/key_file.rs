//! The file that a tenant's keys come in: reading and writing it.

use zeroize::Zeroizing;

use super::{
    hex::{self, HexError},
    keyring::{KeyRing, KeyRingError, MAX_EPOCHS, Roots, TENANT_LEN},
    secret::{DEEP, wipe_stack},
};
use crate::text::{Field, KeyFileProblem, TextError};

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
    /// [`TextError`], with the line and what is wrong there; never with any of the text.
    pub fn parse(text: &str) -> Result<Self, TextError> {
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
    fn read(text: &str) -> Result<Self, TextError> {
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
                    roots.push(epoch, root).map_err(|error| problem(error).at(number))?;
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
        roots.derive(tenant, send).map_err(|error| problem(error).at(line))
    }
}

/// The same, where a line says which epoch it is about.
fn problem(error: KeyRingError) -> KeyFileProblem {
    match error {
        KeyRingError::NoEpoch => KeyFileProblem::NoEpoch,
        KeyRingError::DuplicateEpoch(_) => KeyFileProblem::DuplicateEpoch,
        KeyRingError::TooManyEpochs => KeyFileProblem::TooManyEpochs(MAX_EPOCHS),
        KeyRingError::SameRoot(_) => KeyFileProblem::SameRoot,
        KeyRingError::WeakRoot(_) => KeyFileProblem::WeakRoot,
        KeyRingError::UnknownSend(_) => KeyFileProblem::UnknownSend,
        KeyRingError::OtherTenant | KeyRingError::OtherKey(_) => {
            unreachable!("a file alone is no change of keys")
        }
    }
}

fn field<'t, const N: usize>(
    words: &mut impl Iterator<Item = &'t str>,
    field: Field,
    line: usize,
) -> Result<Zeroizing<[u8; N]>, TextError> {
    let problem = match hex::decode(words.next().unwrap_or_default()) {
        Ok(bytes) => return Ok(bytes),
        Err(HexError::Length) => KeyFileProblem::Length(field),
        Err(HexError::Digit) => KeyFileProblem::Digit(field),
    };
    Err(problem.at(line))
}

fn end<'t>(words: &mut impl Iterator<Item = &'t str>, field: Field, line: usize) -> Result<(), TextError> {
    if words.next().is_some() { Err(KeyFileProblem::Trailing(field).at(line)) } else { Ok(()) }
}

/// One way to write each number: digits only, no zeros in front.
fn epoch_number(word: Option<&str>) -> Option<u8> {
    let word = word?;
    let canonical = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| canonical)
}
