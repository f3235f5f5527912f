//! The reason why a collection is not heard of.

use std::fmt;

use serde::Deserialize;

use super::client::ClientError;

/// Most characters of the server's own words.
const WORDS: usize = 400;

/// A failure, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Its kind.
    pub(crate) kind: FailureKind,
    said: String,
}

/// The kinds of failures that are not treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The server has forgotten the place (410).
    Gone,
    /// There is no such collection (404).
    Absent,
    /// A watch has been silent for too long.
    Silent,
    /// The answer, or a line of a watch, has more bytes than are taken.
    TooLong,
    /// Any other.
    Other,
}

/// A `Status`, as far as it is read (Kubernetes API conventions, "Response Status Kind").
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
}

impl Failure {
    /// A failure of another kind.
    pub(crate) fn other(said: &impl fmt::Display) -> Self {
        Self { kind: FailureKind::Other, said: said.to_string() }
    }

    /// JSON that makes no sense. The reason is not told: it may have some of the content in it.
    pub(crate) fn malformed(error: &serde_json::Error) -> Self {
        Self::other(&format_args!(
            "JSON that makes no sense, at line {} column {}",
            error.line(),
            error.column()
        ))
    }

    /// An event of the type `ERROR`, with this object.
    pub(crate) fn of_status(object: &[u8]) -> Self {
        let Status { code, reason, message } = serde_json::from_slice(object).unwrap_or_default();
        let kind = kind_of(code);
        let said: String = format!("{code} {reason}: {message}").chars().take(WORDS).collect();
        Self { kind, said }
    }
}

fn kind_of(code: u16) -> FailureKind {
    match code {
        410 => FailureKind::Gone,
        404 => FailureKind::Absent,
        _ => FailureKind::Other,
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let kind = match &error {
            _ if error.is_gone() => FailureKind::Gone,
            _ if error.is_absent() => FailureKind::Absent,
            ClientError::Timeout { .. } => FailureKind::Silent,
            ClientError::TooLong { .. } => FailureKind::TooLong,
            _ => FailureKind::Other,
        };
        Self { kind, said: error.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}
