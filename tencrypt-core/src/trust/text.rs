//! The small text files of an authority: a first line that says what it is, and lines with one field each.

use zeroize::Zeroizing;

use crate::crypto::hex::{self, HexError};

/// Longest file of one key in bytes: comments included, what a human writes is far shorter.
const MAX_KEY_FILE: usize = 4 << 10;

/// Refusal of a text, with its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TextError {
    line: usize,
    problem: TextProblem,
}

impl TextError {
    /// The line it is about, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Problem of that line, or of the whole text.
    #[must_use]
    #[cfg(test)]
    pub(super) fn problem(&self) -> TextProblem {
        self.problem
    }
}

/// Problem of a text. Never holds any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum TextProblem {
    /// Longer than such a file may be.
    #[error("longer than such a file may be")]
    TooLong,
    /// The first line that is no comment must say what the file is.
    #[error("expected `{0}`")]
    FirstLine(&'static str),
    /// A line that begins with no known word.
    #[error("expected `{0}`")]
    Field(&'static str),
    /// A field that is not there.
    #[error("no `{0}` line")]
    Missing(&'static str),
    /// A field that is there twice.
    #[error("a second `{0}` line")]
    Duplicate(&'static str),
    /// A key that is too short or too long.
    #[error("the key is not 32 bytes long")]
    Length,
    /// A character that is no hexadecimal digit.
    #[error("the key is not hexadecimal")]
    Digit,
    /// More text after the value.
    #[error("text after the value")]
    Trailing,
    /// A secret of 32 equal bytes.
    #[error("the secret is 32 equal bytes: not a random key")]
    WeakSecret,
    /// Bytes that are no public key that signatures can be verified with.
    #[error("not an Ed25519 public key")]
    NoPublicKey,
    /// Not a number from 0 to 4294967295, written without sign and leading zeros.
    #[error("expected a number from 0 to 4294967295")]
    Number,
    /// A line of a revocation file that begins with no known word.
    #[error("expected `min-generation`, `deny-key` or `deny-pod`")]
    RevocationField,
    /// Not the name of a pod.
    #[error("expected the name of a pod: lower case letters, digits, hyphens and dots")]
    Pod,
    /// The last line does not end: the file is not whole.
    #[error("the last line has no end: the file is not whole")]
    Unfinished,
}

impl TextProblem {
    pub(super) fn at(self, line: usize) -> TextError {
        TextError { line, problem: self }
    }
}

/// The lines that mean something, numbered from 1, after the first of them, which must be `first_line`.
pub(super) fn lines<'t>(
    text: &'t str,
    first_line: &'static str,
) -> Result<impl Iterator<Item = (usize, &'t str)>, TextError> {
    let numbered = (1..).zip(text.lines().map(str::trim));
    let mut meaningful = numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    match meaningful.next() {
        Some((_, line)) if line == first_line => Ok(meaningful),
        Some((number, _)) => Err(TextProblem::FirstLine(first_line).at(number)),
        None => Err(TextProblem::FirstLine(first_line).at(text.lines().count().max(1))),
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
            return Err(TextProblem::TooLong.at(1));
        }
        let mut found = None;
        for (number, line) in lines(text, self.first_line)? {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some(self.field) {
                return Err(TextProblem::Field(self.field).at(number));
            }
            if found.is_some() {
                return Err(TextProblem::Duplicate(self.field).at(number));
            }
            let key = hex::decode(words.next().unwrap_or_default()).map_err(|error| match error {
                HexError::Length => TextProblem::Length.at(number),
                HexError::Digit => TextProblem::Digit.at(number),
            })?;
            if words.next().is_some() {
                return Err(TextProblem::Trailing.at(number));
            }
            found = Some((key, number));
        }
        found.ok_or(TextProblem::Missing(self.field).at(text.lines().count()))
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
