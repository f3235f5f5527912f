//! Network namespaces as descriptors.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

use crate::sys;

/// The reason why a file does not stand for a network namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// It cannot be opened.
    #[error("{0}")]
    Open(
        /// The kernel's answer.
        #[from]
        io::Error,
    ),
    /// It is a file of another kind, or a namespace of another kind.
    #[error("no network namespace")]
    Other,
}

/// Opens the network namespace at `path`, without waiting, whatever the file is.
///
/// # Errors
/// The file cannot be opened, or is no network namespace.
pub fn open(path: &Path) -> Result<OwnedFd, NetnsError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    check(file.as_fd())?;
    Ok(file)
}

/// Checks that `file` stands for a network namespace: a file of nsfs that says so of itself (ioctl_nsfs(2)).
///
/// # Errors
/// [`NetnsError::Other`] if it does not, or if the kernel does not say.
pub fn check(file: BorrowedFd<'_>) -> Result<(), NetnsError> {
    if sys::is_netns(file) { Ok(()) } else { Err(NetnsError::Other) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn a_network_namespace_is_opened_and_is_the_one_of_its_path() {
        let path = Path::new("/proc/self/ns/net");
        let opened = fs::File::from(open(path).unwrap()).metadata().unwrap();
        let named = fs::metadata(path).unwrap();
        assert_eq!((opened.dev(), opened.ino()), (named.dev(), named.ino()));
    }

    #[test]
    fn other_namespaces_and_other_files_are_none() {
        for path in
            ["/proc/self/ns/uts", "/proc/self/ns/mnt", "/dev/null", "/proc/self/maps", "/", "/proc/self/exe"]
        {
            assert!(matches!(open(Path::new(path)), Err(NetnsError::Other)), "{path}");
        }
        assert!(matches!(open(Path::new("/nonexistent")), Err(NetnsError::Open(_))));
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(check(socket.as_fd()), Err(NetnsError::Other)));
    }

    #[test]
    fn a_pipe_without_a_writer_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("tencrypt-cni-{}-pipe", std::process::id()));
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let opened = open(&path);
        fs::remove_file(&path).unwrap();
        assert!(matches!(opened, Err(NetnsError::Other)), "{opened:?}");
    }
}
