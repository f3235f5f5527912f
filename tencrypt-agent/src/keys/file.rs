//! Key files on disk: made once, never half written, refused where others may read them.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use tencrypt::crypto::{self, KeyRing, write_key_file};

use crate::os::files::{self, ReadError};

/// Longest key file in bytes: 8 epochs take some 600 bytes.
pub(crate) const LIMIT: u64 = 64 << 10;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("key file {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Others than its owner may read or write it.
    #[error("key file {}: mode {mode:04o} lets others than the owner at it; use `chmod 600`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its content is wrong.
    #[error("key file {}: line {}: {}", path.display(), source.line(), source.problem())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        source: crypto::KeyFileError,
    },
    /// `genkey` does not overwrite.
    #[error("{} exists already; a key file is never overwritten", .0.display())]
    Exists(PathBuf),
    /// It cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel gives no randomness.
    #[error("the kernel gives no randomness")]
    Random,
}

impl From<ReadError> for KeyFileError {
    fn from(error: ReadError) -> Self {
        Self::Read { path: PathBuf::new(), reason: error.to_string() }
    }
}

impl KeyFileError {
    fn at(mut self, place: &Path) -> Self {
        match &mut self {
            Self::Read { path, .. } | Self::Exposed { path, .. } => place.clone_into(path),
            _ => {}
        }
        self
    }
}

/// The keys in the key file at `path`.
///
/// # Errors
/// It is absent, no regular file, longer than 64 KiB, open to others than its owner, or malformed.
pub fn read(path: &Path) -> Result<KeyRing, KeyFileError> {
    let admit = |metadata: &fs::Metadata| check_mode(path, metadata);
    let (bytes, len) =
        files::read_secret(path, LIMIT, admit).map_err(|error: KeyFileError| error.at(path))?;
    let text = std::str::from_utf8(&bytes[..len])
        .map_err(|_| KeyFileError::Read { path: path.to_owned(), reason: "is not text".to_owned() })?;
    KeyRing::parse(text).map_err(|source| KeyFileError::Content { path: path.to_owned(), source })
}

/// Whether nobody but the file's owner is let at it.
pub(crate) fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyFileError> {
    match metadata.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(KeyFileError::Exposed { path: path.to_owned(), mode }),
        _ => Ok(()),
    }
}

/// The file at `path` cannot be read.
pub(crate) fn unreadable(path: &Path, error: io::Error) -> KeyFileError {
    KeyFileError::from(ReadError::from(error)).at(path)
}

/// Makes a key file with one epoch and a fresh tenant id, mode 0600.
///
/// It is written under a temporary name, synced, and linked to its own, which fails if that is taken: a crash leaves
/// either nothing or all of it there.
///
/// # Errors
/// [`KeyFileError::Exists`], [`KeyFileError::Write`] or [`KeyFileError::Random`].
pub fn generate(path: &Path, epoch: u8) -> Result<(), KeyFileError> {
    let mut tenant = [0; 16];
    let mut root = Zeroizing::new([0; 32]);
    for bytes in [&mut tenant[..], &mut root[..]] {
        getrandom::fill(bytes).map_err(|_| KeyFileError::Random)?;
    }
    let text = write_key_file(tenant, epoch, &root);
    files::write_new(path, text.as_bytes()).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Write { path: path.to_owned(), source },
    })
}
