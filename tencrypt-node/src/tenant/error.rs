//! The reasons why a folder gives no tenant.

use std::path::PathBuf;

use tencrypt_agent::os::files::ReadError;

/// A folder that gives no tenant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TenantError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The obstacle.
        source: ReadError,
    },
    /// The content of a file is wrong.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The reason, in a line.
        reason: String,
    },
    /// A file whose reader names it.
    #[error("{0}")]
    Named(String),
}
