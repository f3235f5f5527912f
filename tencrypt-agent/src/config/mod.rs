//! The configuration file: TOML, every key known, every mistake named by file, line and field.
//!
//! [`Config::parse`] is pure; [`Config::read`] adds the file.

mod document;
mod error;
mod model;
pub mod offload;
mod project;
mod sections;

use std::path::Path;

pub(crate) use self::model::unprotected_reason;
pub use self::{
    error::ConfigError,
    model::{Config, Dns, Identity, Network, Policy, Tenant},
};
use crate::os::files::{self, Access};

/// Longest configuration file in bytes: some 10,000 facts.
pub const MAX_FILE_LEN: u64 = 1 << 20;

impl Config {
    /// Reads the configuration in `text`. `path` is its file: messages name it, relative paths start beside it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        sections::config(text, path)
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// It is absent, no regular file, longer than [`MAX_FILE_LEN`], not UTF-8, or [`parse`](Self::parse) refuses it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = files::read_regular(path, MAX_FILE_LEN, Access::Anyone)
            .map_err(|error| ConfigError::of_file(path, error))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                Err(ConfigError::new(path, error::line_after(before), "", "is not UTF-8"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
