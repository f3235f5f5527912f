//! Reading and replacing small files that people and orchestrators hand over.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use zeroize::Zeroizing;

use crate::{
    failure::Exit,
    os::{secret_memory::SecretBytes, sys},
};

/// A file that was not read. Its path is in the error that wraps this one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No such file.
    #[error("does not exist")]
    Absent,
    /// A directory, a pipe, a device, a socket.
    #[error("is not a regular file")]
    NotRegular,
    /// Longer than its reader takes.
    #[error("is longer than {limit} bytes")]
    TooLong {
        /// Most bytes.
        limit: u64,
    },
    /// Others than the owner of a secret may read or write it.
    #[error("mode {mode:04o} lets others than the owner at it; use `chmod 600`")]
    Exposed {
        /// Its permission bits.
        mode: u32,
    },
    /// Of a user who is neither root nor the caller: who owns a file decides on its content.
    #[error("belongs to user {uid}; root or the user of this program must own it")]
    Owner {
        /// Its owner.
        uid: u32,
    },
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
    /// The kernel's answer.
    #[error("{0}")]
    Io(io::Error),
}

/// A file that was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    /// The name is taken.
    #[error("{} exists already; it is never overwritten", .0.display())]
    Exists(PathBuf),
    /// The kernel refused.
    #[error("cannot make {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel gives no randomness.
    #[error("the kernel gives no randomness")]
    Random,
}

impl MakeError {
    /// A mistake of the user's if the name was taken, else a failure at run time.
    pub(crate) fn exit(&self) -> Exit {
        if matches!(self, Self::Exists(_)) { Exit::Usage } else { Exit::Runtime }
    }
}

/// Users to whom a file's mode may give access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All of them.
    Anyone,
    /// The owner and nobody else: the file is a secret.
    OwnerAlone,
}

impl Access {
    /// Refuses a file whose mode gives access to more users than these, and one of a stranger's.
    ///
    /// # Errors
    /// [`ReadError::Owner`], [`ReadError::Exposed`].
    pub(crate) fn check(self, metadata: &Metadata) -> Result<(), ReadError> {
        self.check_as(sys::effective_uid(), metadata.uid(), metadata.mode())
    }

    fn check_as(self, caller: u32, uid: u32, mode: u32) -> Result<(), ReadError> {
        if uid != 0 && uid != caller {
            return Err(ReadError::Owner { uid });
        }
        match mode & 0o7777 {
            mode if self == Self::OwnerAlone && mode & 0o077 != 0 => Err(ReadError::Exposed { mode }),
            _ => Ok(()),
        }
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// It is opened once and asked through its descriptor, so that a file exchanged meanwhile (the `..data` link of a
/// Kubernetes volume) is read whole, old or new. Links are followed. Opening a FIFO or a device does not block.
/// `access` is checked before anything of it is read.
///
/// # Errors
/// See [`ReadError`].
pub fn read_regular(path: &Path, limit: u64, access: Access) -> Result<Vec<u8>, ReadError> {
    let file = open_regular(path)?;
    let metadata = file.metadata()?;
    access.check(&metadata)?;
    read_limited(file, metadata.len(), limit)
}

/// Reads a regular file of UTF-8 text, of at most `limit` bytes, as [`read_regular`] does; it is erased after use.
///
/// # Errors
/// See [`ReadError`].
pub fn read_text(path: &Path, limit: u64, access: Access) -> Result<Zeroizing<String>, ReadError> {
    let bytes = read_regular(path, limit, access)?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        ReadError::NotText
    })
}

/// Reads a secret of at most `limit` bytes, which its owner alone may have access to, as [`read_regular`] does: into
/// memory that is erased after use, hidden where the kernel can. Returns it with the number of bytes read.
///
/// # Errors
/// See [`ReadError`].
pub fn read_secret(path: &Path, limit: u64) -> Result<(SecretBytes, usize), ReadError> {
    let mut file = open_regular(path)?;
    Access::OwnerAlone.check(&file.metadata()?)?;
    let mut bytes = SecretBytes::new(limit as usize + 1);
    let mut len = 0;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match file.read(room)? {
            0 => return Ok((bytes, len)),
            some => len += some,
        }
    }
    Err(ReadError::TooLong { limit })
}

/// Writes a file whole, in place of what is there. A crash leaves the old one or the new one.
///
/// # Errors
/// The kernel's answer.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_whole(path, &random_suffix()?, mode, content, |_| Ok(()), |hidden| fs::rename(hidden, path))
}

/// Makes a file that is not there yet, mode 0600, whole or not at all: written under a temporary name, synced, and linked
/// to its own, which fails if that is taken.
///
/// # Errors
/// See [`MakeError`].
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), MakeError> {
    let write = || {
        let suffix = random_suffix()?;
        hidden(path, &suffix)?;
        // Asked first, for the sake of the message; the link below decides.
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        write_whole(path, &suffix, 0o600, content, |_| Ok(()), |hidden| fs::hard_link(hidden, path))
    };
    write().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => MakeError::Exists(path.to_owned()),
        _ => MakeError::Write { path: path.to_owned(), source },
    })
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

/// The directory that holds `path`.
pub(crate) fn directory(path: &Path) -> &Path {
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

/// Properties that change when a file does, or when another one takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Takes the stamp of the file at `path`, links followed; `None` if there is none, or none that can be seen.
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

/// Reads a regular file of at most `limit` bytes, whoever owns it. With `root` the path is one within that directory, as
/// for a process whose root it is: no link and no `..` on the way leads out of it (openat2(2), since Linux 5.6).
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn read_in(root: Option<&Path>, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let file = match root {
        Some(root) => open_within(root, path)?,
        None => open_regular(path)?,
    };
    let len = file.metadata()?.len();
    read_limited(file, len, limit)
}

/// Opens a regular file for reading.
///
/// # Errors
/// See [`ReadError`].
pub(crate) fn open_regular(path: &Path) -> Result<File, ReadError> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

fn open_within(root: &Path, path: &Path) -> Result<File, ReadError> {
    let root = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(root)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // A process's links below /proc lead anywhere.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(root, path, flags, Mode::empty(), resolve);
    regular(opened.map_err(io::Error::from)?.into())
}

fn regular(file: File) -> Result<File, ReadError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_user_than_root_or_the_caller_is_refused_whatever_its_mode() {
        for access in [Access::Anyone, Access::OwnerAlone] {
            for (caller, owner, counts) in
                [(0, 0, true), (1000, 0, true), (1000, 1000, true), (0, 1000, false), (1000, 1001, false)]
            {
                let checked = access.check_as(caller, owner, 0o100_600);
                assert_eq!(checked.is_ok(), counts, "{access:?}: {caller}, {owner}");
                assert!(checked.is_ok() || matches!(checked, Err(ReadError::Owner { uid }) if uid == owner));
            }
        }
        assert!(Access::Anyone.check_as(0, 0, 0o100_644).is_ok());
        assert!(matches!(
            Access::OwnerAlone.check_as(0, 0, 0o100_640),
            Err(ReadError::Exposed { mode: 0o640 })
        ));
    }
}
