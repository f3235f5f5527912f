//! The configuration file: TOML, every key known, every mistake named by file, line and field.
//!
//! [`ConfigFile::parse`] and [`Config::parse_given`] are pure; [`ConfigFile::read`] adds the file.

mod document;
mod error;
pub(crate) mod fact_rules;
mod model;
pub mod offload;
mod project;
mod sections;

use std::path::Path;

pub(crate) use self::model::unprotected_reason;
pub use self::{
    error::ConfigError,
    model::{Config, ConfigFile, Dns, Files, Identity, Network, Policy, Tenant},
};
use crate::os::files::{self, Access};

/// Longest configuration file in bytes: some 10,000 facts.
pub const MAX_FILE_LEN: u64 = 1 << 20;

/// The source of a configuration that no file holds, in messages.
const GIVEN: &str = "configuration of the node's agent";

impl Config {
    /// Reads the settings in `text`, which the node's agent gives: they name no files, since what these hold comes from the
    /// agent too.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse_given(text: &str) -> Result<Self, ConfigError> {
        Self::parse_given_in(text, Path::new(GIVEN))
    }

    /// The same, for an agent that has them in the file at `path`, which messages name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse_given_in(text: &str, path: &Path) -> Result<Self, ConfigError> {
        sections::given(text, path)
    }
}

impl ConfigFile {
    /// Reads the configuration in `text`. `path` is its file: messages name it, relative paths start beside it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        sections::file(text, path)
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
