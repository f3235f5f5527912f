//! The Unix socket of an agent: one agent listens at it, and one that died has left nothing that stands in the way.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tencrypt_cni::call::is_permitted;
use tokio::{
    net::{UnixListener, UnixStream},
    time::timeout,
};

/// The time that a socket that is found has to say that somebody listens. The kernel says it at once, unless more wait than
/// there is room for.
const PROBE: Duration = Duration::from_secs(1);

/// The reason why nobody can be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// A living process listens at the socket.
    #[error("{}: another agent runs", path.display())]
    Held {
        /// The socket.
        path: PathBuf,
    },
    /// A file of another kind is in the way.
    #[error("{}: is no socket, and is in the way of one", path.display())]
    Foreign {
        /// It.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{at}: {source}")]
    Io {
        /// The socket, its folder or the address.
        at: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A socket that is listened at; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl Socket {
    /// Listens at `path`, whose folder exists, for the own user and root alone.
    ///
    /// # Errors
    /// Another agent listens there, or is about to; the path is of something else; or the kernel refuses.
    pub(crate) async fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { at: path.display().to_string(), source };
        // Without it two agents could both find a left-over socket, and the second would remove that of the first.
        let _lock = locked_folder(path)?;
        remove_left_over(path).await?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Nobody slips in between: who connects is looked at too.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let file = identity(path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    /// Waits for a client, and tells if it is permitted to ask: root, or the own user.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) async fn accept(&self) -> io::Result<(UnixStream, bool)> {
        let (stream, _) = self.listener.accept().await?;
        let stream = stream.into_std()?;
        let is_permitted = is_permitted(&stream)?;
        Ok((UnixStream::from_std(stream)?, is_permitted))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have removed it, and another agent be there by now.
        if identity(&self.path).is_ok_and(|found| found == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks the folder of `path` against other agents that are at this very place.
fn locked_folder(path: &Path) -> Result<File, BindError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| BindError::Io { at: folder.display().to_string(), source };
    let file = File::open(folder).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BindError::Held { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Removes a socket at which nobody listens.
async fn remove_left_over(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { at: path.display().to_string(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(BindError::Foreign { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        // EAGAIN: as many wait as there is room for (`unix_stream_connect`, net/unix/af_unix.c).
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        _ => Err(BindError::Held { path: path.to_owned() }),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
