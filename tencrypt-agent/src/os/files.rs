//! Reading and replacing small files that people and orchestrators hand over.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::os::secret_memory::SecretBytes;

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

/// Writes a file whole, in place of what is there. A crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_whole(path, &random_suffix()?, mode, content, |_| Ok(()), |hidden| fs::rename(hidden, path))
}

/// Makes a file that is not there yet, mode 0600, whole or not at all.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let suffix = random_suffix()?;
    hidden(path, &suffix)?;
    // What has a name is asked for first, for the sake of the message; the link below decides.
    if fs::symlink_metadata(path).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    write_whole(path, &suffix, 0o600, content, |_| Ok(()), |hidden| fs::hard_link(hidden, path))
}

/// Writes a file under the hidden name `.NAME.SUFFIX` beside `path`, syncs it, has `place` give it its own name, and syncs
/// the directory. `prepare` sees it before there is anything in it. The hidden name is gone in the end.
pub(crate) fn write_whole(
    path: &Path,
    suffix: &str,
    mode: u32,
    content: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
    place: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let hidden = hidden(path, suffix)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&hidden)?;
    let hidden = Hidden(hidden);
    prepare(&file)?;
    file.write_all(content)?;
    file.sync_all()?;
    place(&hidden.0)?;
    drop(hidden);
    File::open(directory(path))?.sync_all()
}

/// `.NAME.SUFFIX` beside `path`.
pub(crate) fn hidden(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?);
    hidden.push(format!(".{suffix}"));
    Ok(directory(path).join(hidden))
}

/// Where `path` is.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The hidden name of a file that was just made, removed at the end of its scope.
struct Hidden(PathBuf);

impl Drop for Hidden {
    fn drop(&mut self) {
        // After a rename it is gone.
        let _ = fs::remove_file(&self.0);
    }
}

fn random_suffix() -> io::Result<String> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(|_| io::Error::other("the kernel gives no randomness"))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(suffix)))
}

/// What changes when a file does, or another one takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    /// Seconds since 1970, and nanoseconds.
    pub(crate) changed: (i64, i64),
}

impl Stamp {
    /// Of what is at `path`, links followed; `None`: nothing that can be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            file: (file.dev(), file.ino()),
            size: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
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
