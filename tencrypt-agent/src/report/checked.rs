//! The findings about a start, as `check` shows them.

use serde::Serialize;

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    /// True if `up` would start.
    pub would_start: bool,
    /// In the order of a start.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The part of a start that it is about, in one word.
    pub subject: String,
    /// Its consequence.
    pub verdict: Verdict,
    /// The finding in words.
    pub text: String,
}

/// Consequence of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// As it ought to be.
    Ok,
    /// `up` starts, and whoever runs it ought to know.
    Note,
    /// `up` does not start.
    Refused,
}
