//! Reading and replacing small files that people and orchestrators hand over.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::secret_memory::SecretBytes;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("does not exist")]
    Absent,
    #[error("is not a regular file")]
    NotRegular,
    #[error("is longer than {limit} bytes")]
    TooLong { limit: u64 },
    #[error("{0}")]
    Io(io::Error),
}

/// A regular file's bytes, at most `limit` of them, and what it is.
///
/// It is opened once and asked through its descriptor, so that a file exchanged meanwhile (the `..data` link of a
/// Kubernetes volume) is read whole, old or new. Links are followed. Opening a FIFO or a device does not block.
/// `admit` looks at the file before anything of it is read.
pub(crate) fn read_regular<E: From<ReadError>>(
    path: &Path,
    limit: u64,
    admit: impl FnOnce(&Metadata) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let file = open_regular(path)?;
    let metadata = file.metadata().map_err(ReadError::from)?;
    admit(&metadata)?;
    Ok(read_limited(file, metadata.len(), limit)?)
}

/// The same for a secret: its bytes are in memory that is erased after use, hidden where the kernel can, and their number.
pub(crate) fn read_secret<E: From<ReadError>>(
    path: &Path,
    limit: u64,
    admit: impl FnOnce(&Metadata) -> Result<(), E>,
) -> Result<(SecretBytes, usize), E> {
    let mut file = open_regular(path)?;
    admit(&file.metadata().map_err(ReadError::from)?)?;
    let mut bytes = SecretBytes::new(limit as usize + 1);
    let mut len = 0;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match file.read(room).map_err(ReadError::from)? {
            0 => return Ok((bytes, len)),
            some => len += some,
        }
    }
    Err(ReadError::TooLong { limit }.into())
}

/// Writes a file whole, in place of what is there: under a temporary name, synced, renamed. A crash leaves the old one or
/// the new one.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|_| io::Error::other("the kernel gives no randomness"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:016x}", u64::from_ne_bytes(suffix)));
    let temporary = directory.join(hidden);
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    written().inspect_err(|_| {
        // Mostly it was never made.
        let _ = std::fs::remove_file(&temporary);
    })?;
    File::open(directory)?.sync_all()
}

/// A regular file, open for reading.
pub(crate) fn open_regular(path: &Path) -> Result<File, ReadError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ReadError::NotRegular) }
}

fn read_limited(file: File, len: u64, limit: u64) -> Result<Vec<u8>, ReadError> {
    if len > limit {
        return Err(ReadError::TooLong { limit });
    }
    // Room for all of it at once: no half of a secret is left in memory that was outgrown.
    let mut bytes = Vec::with_capacity(limit.min(len + 1) as usize);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(ReadError::TooLong { limit }) } else { Ok(bytes) }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Self::Absent,
            // A FIFO opened for writing elsewhere, a socket, a device without a driver.
            Some(libc::ENXIO | libc::EISDIR) => Self::NotRegular,
            _ => Self::Io(error),
        }
    }
}
