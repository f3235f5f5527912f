//! Properties of the repository itself, a test each: its shape, its public items, its packages.
//!
//! The library finds offences in text that it is given; the tests of the crate apply it to the repository.

pub mod arrows;
pub mod comments;
pub mod diff;
pub mod faces;
pub mod lines;
pub mod references;
pub mod sources;
pub mod syntax;
pub mod tokens;

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the repository")
}

/// A place where something does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "for the tests of this repository alone")]
pub struct Offence {
    /// The file, relative to the root of the repository.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The offence in words.
    pub text: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.text)
    }
}
