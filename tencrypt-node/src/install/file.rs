//! Files that others write.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    io::{self, Read as _, Seek as _},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// A file that is passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub(crate) struct Fault {
    /// Its name in its folder.
    pub(crate) name: String,
    /// The reason, in a line.
    pub(crate) reason: String,
}

impl Fault {
    /// A fault of the file of this name, as one line.
    pub(crate) fn of(name: &OsStr, reason: impl std::fmt::Display) -> Self {
        Self { name: line(&name.to_string_lossy()), reason: line(&reason.to_string()) }
    }
}

/// The text on one line.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// The reason why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The kernel's answer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no regular file.
    #[error("no regular file")]
    Kind,
    /// It is too long.
    #[error("longer than {0} bytes")]
    TooLong(usize),
}

/// A file as it was when it was read, and open: its inode is nobody else's for as long.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) metadata: Metadata,
    pub(crate) bytes: Vec<u8>,
}

impl Opened {
    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn read(path: &Path, limit: usize) -> Result<Self, ReadError> {
        let file = open(path, OFlags::empty())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ReadError::Kind);
        }
        let mut bytes = Vec::new();
        // One more than there may be, so that it is seen.
        (&file).take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit { Err(ReadError::TooLong(limit)) } else { Ok(Self { file, metadata, bytes }) }
    }

    /// The bytes that the same file holds now, wherever its name has gone.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn again(&self, limit: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        (&self.file).rewind()?;
        (&self.file).take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit { Err(ReadError::TooLong(limit)) } else { Ok(bytes) }
    }
}

/// Opens a file for reading, with `more` flags. Whatever the file is, opening it waits for nobody.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn open(path: &Path, more: OFlags) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(path, flags | more, Mode::empty())?))
}

/// Writes to the disk which files are in the folder of this one.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
