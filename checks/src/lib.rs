//! What must hold of the repository itself, each property a test: its shape, its public items, its packages.

use std::path::Path;

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
