//! Mistakes in a configuration.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::failure::{Exit, Failure};

/// One mistake in a configuration file, as `file:line: field: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    path: PathBuf,
    line: usize,
    field: String,
    reason: String,
}

impl ConfigError {
    pub(super) fn new(path: &Path, line: usize, field: &str, reason: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), line, field: field.to_owned(), reason: reason.to_string() }
    }

    /// The file as a whole.
    pub(super) fn of_file(path: &Path, reason: impl fmt::Display) -> Self {
        Self::new(path, 0, "", reason)
    }

    /// The line, from 1; 0 if it is about the file as a whole.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The field, such as `network.port` or `fact[2].prefix`; empty if there is none.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The mistake, without file, line and field.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

/// The line, from 1, of what follows `before`.
pub(super) fn line_after(before: &[u8]) -> usize {
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}
