//! The small text files of an authority: a first line that says what it is, and lines with one field each.

use zeroize::Zeroizing;

use crate::{
    crypto::hex::{self, HexError},
    text::{TextError, TrustFileProblem},
};

/// Longest file of one key in bytes: comments included, what a human writes is far shorter.
const MAX_KEY_FILE: usize = 4 << 10;

/// The lines that mean something, numbered from 1, after the first of them, which must be `first_line`.
pub(super) fn lines<'t>(
    text: &'t str,
    first_line: &'static str,
) -> Result<impl Iterator<Item = (usize, &'t str)>, TextError> {
    let numbered = (1..).zip(text.lines().map(str::trim));
    let mut meaningful = numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    match meaningful.next() {
        Some((_, line)) if line == first_line => Ok(meaningful),
        Some((number, _)) => Err(TrustFileProblem::FirstLine(first_line).at(number)),
        None => Err(TrustFileProblem::FirstLine(first_line).at(text.lines().count().max(1))),
    }
}

/// A file with one key of 32 bytes.
pub(super) struct Format {
    pub(super) first_line: &'static str,
    pub(super) field: &'static str,
}

impl Format {
    /// The key, and the line it is in.
    pub(super) fn parse(&self, text: &str) -> Result<(Zeroizing<[u8; 32]>, usize), TextError> {
        if text.len() > MAX_KEY_FILE {
            return Err(TrustFileProblem::TooLong.at(1));
        }
        let mut found = None;
        for (number, line) in lines(text, self.first_line)? {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some(self.field) {
                return Err(TrustFileProblem::Field(self.field).at(number));
            }
            if found.is_some() {
                return Err(TrustFileProblem::Duplicate(self.field).at(number));
            }
            let key = hex::decode(words.next().unwrap_or_default()).map_err(|error| match error {
                HexError::Length => TrustFileProblem::Length.at(number),
                HexError::Digit => TrustFileProblem::Digit.at(number),
            })?;
            if words.next().is_some() {
                return Err(TrustFileProblem::Trailing.at(number));
            }
            found = Some((key, number));
        }
        found.ok_or(TrustFileProblem::Missing(self.field).at(text.lines().count()))
    }

    pub(super) fn write(&self, key: &[u8; 32]) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(self.first_line);
        text.push('\n');
        text.push_str(self.field);
        text.push(' ');
        hex::encode(key, &mut text);
        text.push('\n');
        text
    }
}
