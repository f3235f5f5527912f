//! Key files on disk: made once, never half written, refused where others may read them.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use tencrypt::{KeyRing, TextError};

use crate::{
    failure::{Exit, Failure},
    os::files::{self, MakeError, ReadError},
};

/// Longest key file in bytes: 8 epochs take some 600 bytes.
pub const MAX_FILE_LEN: u64 = 64 << 10;

/// A key file that gives no keys, or cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("key file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The obstacle.
        source: ReadError,
    },
    /// Its content is wrong.
    #[error("key file {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        source: TextError,
    },
    /// It cannot be made.
    #[error(transparent)]
    Make(#[from] MakeError),
}

impl KeyFileError {
    /// The file at `path` cannot be read.
    pub(crate) fn unreadable(path: &Path, error: impl Into<ReadError>) -> Self {
        Self::Read { path: path.to_owned(), source: error.into() }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let exit = match &error {
            KeyFileError::Make(error) => error.exit(),
            KeyFileError::Read { .. } | KeyFileError::Content { .. } => Exit::Usage,
        };
        Self::new(exit, error)
    }
}

/// Reads the keys in the key file at `path`.
///
/// # Errors
/// It is absent, no regular file, longer than 64 KiB, open to others than its owner, or malformed.
pub fn read(path: &Path) -> Result<KeyRing, KeyFileError> {
    let (bytes, len) =
        files::read_secret(path, MAX_FILE_LEN).map_err(|error| KeyFileError::unreadable(path, error))?;
    let text =
        std::str::from_utf8(&bytes[..len]).map_err(|_| KeyFileError::unreadable(path, ReadError::NotText))?;
    KeyRing::parse(text).map_err(|source| KeyFileError::Content { path: path.to_owned(), source })
}

/// Makes a key file with one epoch and a fresh tenant id, mode 0600. A crash leaves either nothing or all of it there.
///
/// # Errors
/// [`KeyFileError::Make`].
pub fn generate(path: &Path, epoch: u8) -> Result<(), KeyFileError> {
    let mut tenant = [0; 16];
    let mut root = Zeroizing::new([0; 32]);
    for bytes in [&mut tenant[..], &mut root[..]] {
        getrandom::fill(bytes).map_err(|_| MakeError::Random)?;
    }
    let text = KeyRing::write_file(tenant, epoch, &root);
    Ok(files::write_new(path, text.as_bytes())?)
}
