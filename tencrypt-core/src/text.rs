//! Refusals of the text files that members and authorities have, with their lines.

use std::fmt;

/// Refusal of a text (a key file, a file of an authority, a revocation), with its line. Never holds any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TextError {
    line: usize,
    problem: Problem,
}

impl TextError {
    /// The line it is about, counted from 1; 0: a key file as a whole.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// Problem of that line, or of the whole text.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn problem(&self) -> Problem {
        self.problem
    }
}

/// Problem of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// Of a key file.
    #[error(transparent)]
    KeyFile(KeyFileProblem),
    /// Of an authority's file, or of a revocation.
    #[error(transparent)]
    TrustFile(TrustFileProblem),
}

/// A value in a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
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
pub(crate) enum KeyFileProblem {
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
    /// More epochs than this.
    #[error("more than {0} epochs")]
    TooManyEpochs(usize),
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
    pub(crate) fn at(self, line: usize) -> TextError {
        TextError { line, problem: Problem::KeyFile(self) }
    }
}

/// Problem of a file of an authority, or of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrustFileProblem {
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

impl TrustFileProblem {
    pub(crate) fn at(self, line: usize) -> TextError {
        TextError { line, problem: Problem::TrustFile(self) }
    }
}
