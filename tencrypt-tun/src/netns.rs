//! Network namespaces, and threads that sit in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use crate::sys;

/// Where `ip netns add` binds namespaces by name.
const NAMED: &str = "/run/netns";

/// An open network namespace. It exists for as long as this handle does, even when its last process is gone.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    id: NetNsId,
}

/// What tells namespaces apart: device and inode of their file (man 7 namespaces).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    device: u64,
    inode: u64,
}

/// A namespace that cannot be opened or entered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetNsError {
    /// Neither a name in `/run/netns`, nor a path, nor a process.
    #[error("no such namespace: {}", path.display())]
    Absent {
        /// The file looked for.
        path: PathBuf,
    },
    /// The file exists and is not a network namespace.
    #[error("{} is not a network namespace", path.display())]
    NotNetwork {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started, or cannot enter: needs `CAP_SYS_ADMIN` in the user namespace that owns this one.
    #[error("cannot enter the namespace")]
    Enter(#[source] io::Error),
}

impl NetNs {
    /// Opens a namespace by path (anything with a `/`), by its name in `/run/netns`, or by the id of a process in it.
    ///
    /// # Errors
    /// [`NetNsError`]; a name that is all digits is taken for a process only where no such name exists.
    pub fn open(spec: &str) -> Result<Self, NetNsError> {
        if spec.contains('/') {
            return Self::open_path(Path::new(spec));
        }
        match Self::open_path(&Path::new(NAMED).join(spec)) {
            Err(NetNsError::Absent { .. }) if spec.parse::<u32>().is_ok() => {
                Self::open_path(Path::new(&format!("/proc/{spec}/ns/net")))
            }
            other => other,
        }
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetNsError`] where `/proc` is not mounted.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    fn open_path(path: &Path) -> Result<Self, NetNsError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetNsError::Absent { path: path.to_owned() },
            _ => NetNsError::Open { path: path.to_owned(), source },
        })?;
        if !sys::is_netns(file.as_fd()) {
            return Err(NetNsError::NotNetwork { path: path.to_owned() });
        }
        let metadata =
            file.metadata().map_err(|source| NetNsError::Open { path: path.to_owned(), source })?;
        Ok(Self { file, id: NetNsId { device: metadata.dev(), inode: metadata.ino() } })
    }

    /// What tells this namespace from others.
    #[must_use]
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// Whether the calling thread sits in this namespace.
    #[must_use]
    pub fn is_own(&self) -> bool {
        Self::current().is_ok_and(|own| own.id == self.id)
    }

    /// Whether this is the host's namespace as far as the caller can tell: its own, or that of process 1. An ordinary
    /// user may not look at process 1; then its own is all that is compared.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.is_own() || Self::open_path(Path::new("/proc/1/ns/net")).is_ok_and(|init| init.id == self.id)
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    ///
    /// # Errors
    /// [`NetNsError::Enter`].
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        thread::scope(|scope| {
            let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
                sys::enter_netns(self.file.as_fd())?;
                Ok(work())
            });
            worker
                .map_err(NetNsError::Enter)?
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
                .map_err(NetNsError::Enter)
        })
    }

    /// Runs `work` inside the namespace: here, where the calling thread sits in it, else as [`run`](Self::run) does.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        if self.is_own() { Ok(work()) } else { self.run(work) }
    }

    /// Starts a thread called `name` (at most 15 bytes are shown) that lives inside the namespace.
    ///
    /// # Errors
    /// [`NetNsError::Enter`]; the thread has entered when this returns `Ok`.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, NetNsError> {
        let file = self.file.try_clone().map_err(NetNsError::Enter)?;
        let (entered, result) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let outcome = sys::enter_netns(file.as_fd());
                let inside = outcome.is_ok();
                // The starter waits for this message, so it can only fail after a panic there.
                let _ = entered.send(outcome);
                // There is no T to return without running the work; nobody joins this thread.
                if inside { work() } else { resume_unwind(Box::new("could not enter the namespace")) }
            })
            .map_err(NetNsError::Enter)?;
        match result.recv() {
            Ok(Ok(())) => Ok(thread),
            Ok(Err(error)) => Err(NetNsError::Enter(error)),
            Err(_) => Err(NetNsError::Enter(io::Error::other("the thread ended before it entered"))),
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_process_and_by_path() {
        let own = NetNs::current().expect("/proc");
        let by_process = NetNs::open(&std::process::id().to_string()).expect("by process");
        let by_path = NetNs::open("/proc/self/ns/net").expect("by path");
        assert_eq!((by_process.id(), by_path.id()), (own.id(), own.id()));
        assert!(by_path.is_own());
        assert!(by_path.is_host());
    }

    #[test]
    fn other_files_are_not_taken_for_namespaces() {
        assert!(matches!(NetNs::open("/proc/self/ns/mnt"), Err(NetNsError::NotNetwork { .. })));
        assert!(matches!(NetNs::open("/proc/self/status"), Err(NetNsError::NotNetwork { .. })));
        assert!(matches!(NetNs::open("no-such-namespace"), Err(NetNsError::Absent { .. })));
        assert!(matches!(NetNs::open("/no/such/namespace"), Err(NetNsError::Absent { .. })));
    }
}
