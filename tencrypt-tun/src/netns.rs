//! Network namespaces, and threads that sit in them.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use thiserror::Error;

use crate::sys;

/// Directories where `ip netns` binds namespaces by name (ip-netns(8)); they differ where /var/run is no link.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// An open network namespace. It exists for as long as a handle does, even when its last process is gone.
///
/// Opened once and passed on: a name can be bound to another namespace later, a handle stays what it is. A clone
/// shares the descriptor.
#[derive(Debug, Clone)]
pub struct NetNs {
    file: Arc<File>,
    id: NetNsId,
    name: Arc<str>,
    path: Option<Arc<Path>>,
}

/// Identity of a namespace: device and inode of its file (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetNsId {
    device: u64,
    inode: u64,
}

impl NetNsId {
    /// Identity made of its parts, as in a file name written earlier.
    #[must_use]
    pub const fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    /// Reads what [`Display`](fmt::Display) writes.
    fn parse(text: &str) -> Option<Self> {
        let (device, inode) = text.split_once('-')?;
        Some(Self::new(device.parse().ok()?, inode.parse().ok()?))
    }

    /// Device number of nsfs.
    #[must_use]
    pub const fn device(self) -> u64 {
        self.device
    }

    /// Inode number.
    #[must_use]
    pub const fn inode(self) -> u64 {
        self.inode
    }
}

/// `DEVICE-INODE`, decimal: fit for a file name.
impl fmt::Display for NetNsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.device, self.inode)
    }
}

/// A namespace that cannot be opened or entered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetNsError {
    /// Neither a name of `ip netns`, nor a path, nor a process.
    #[error("no network namespace `{name}`")]
    Absent {
        /// The namespace as the caller called it.
        name: String,
    },
    /// The file exists and is not a network namespace.
    #[error("`{name}` is not a network namespace")]
    NotNetwork {
        /// The namespace as the caller called it.
        name: String,
    },
    /// The file cannot be opened.
    #[error("network namespace `{name}`")]
    Open {
        /// The namespace as the caller called it.
        name: String,
        /// Answer of the kernel.
        source: io::Error,
    },
    /// The thread cannot be started, or cannot enter: needs `CAP_SYS_ADMIN` in the user namespace that owns this one.
    #[error("cannot enter the namespace")]
    Enter(#[source] io::Error),
}

impl NetNsError {
    /// Tells a lack of rights from other failures.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Enter(source) => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            Self::Absent { .. } | Self::NotNetwork { .. } => false,
        }
    }
}

impl NetNs {
    /// Opens a namespace by path (anything with a `/`), by its name in `/run/netns` or `/var/run/netns`, by the id of a
    /// process in it, or by its [id](NetNsId) as that is written, where any process has a thread in it.
    ///
    /// # Errors
    /// [`NetNsError`]; a name that is all digits is taken for a process only where no such name exists, and so is an id.
    pub fn open(name: &str) -> Result<Self, NetNsError> {
        let mut candidates: Vec<PathBuf> = if name.contains('/') {
            vec![PathBuf::from(name)]
        } else {
            NAMED.iter().map(|directory| Path::new(directory).join(name)).collect()
        };
        if name.parse::<u32>().is_ok() {
            candidates.push(PathBuf::from(format!("/proc/{name}/ns/net")));
        }
        candidates.extend(NetNsId::parse(name).and_then(thread_in));
        for path in candidates {
            match File::open(&path) {
                Ok(file) => return Self::new(file, name, Some(path.into())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(NetNsError::Open { name: name.to_owned(), source }),
            }
        }
        Err(NetNsError::Absent { name: name.to_owned() })
    }

    /// Takes an open descriptor of a namespace, which is called `name` in messages from here on.
    ///
    /// # Errors
    /// [`NetNsError::NotNetwork`] for a descriptor of anything else.
    pub fn from_fd(descriptor: OwnedFd, name: &str) -> Result<Self, NetNsError> {
        Self::new(File::from(descriptor), name, None)
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetNsError`] where `/proc` is not mounted.
    pub fn current() -> Result<Self, NetNsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    fn new(file: File, name: &str, path: Option<Arc<Path>>) -> Result<Self, NetNsError> {
        if !sys::is_netns(file.as_fd()) {
            return Err(NetNsError::NotNetwork { name: name.to_owned() });
        }
        let metadata =
            file.metadata().map_err(|source| NetNsError::Open { name: name.to_owned(), source })?;
        let id = NetNsId { device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { file: Arc::new(file), id, name: name.into(), path })
    }

    /// Name of the namespace as the caller called it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File the namespace was found at; none for one taken by its descriptor. The file may be another namespace's by now.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Identity of the namespace, equal for all handles of it.
    #[must_use]
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// Tells if the calling thread sits in this namespace.
    #[must_use]
    pub fn is_own(&self) -> bool {
        Self::current().is_ok_and(|own| own.id == self.id)
    }

    /// Tells if this is the host's namespace as far as the caller can see: the caller's own, or that of process 1. An
    /// ordinary user may not look at process 1; then only the caller's own is compared.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.is_own() || Self::open("/proc/1/ns/net").is_ok_and(|init| init.id == self.id)
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    ///
    /// # Errors
    /// [`NetNsError::Enter`].
    ///
    /// # Panics
    /// If `work` does.
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
        let file = Arc::clone(&self.file);
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

/// Returns the file of a thread in the namespace. Its process may have its first thread elsewhere, as a tunnel's has.
fn thread_in(id: NetNsId) -> Option<PathBuf> {
    let numbered = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()))
    };
    let threads = numbered(Path::new("/proc"))
        .flat_map(|process| numbered(&process.path().join("task")).collect::<Vec<_>>());
    let files = threads.map(|thread| thread.path().join("ns/net"));
    let is_there =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|found| NetNsId::new(found.dev(), found.ino()) == id);
    files.into_iter().find(is_there)
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
    fn a_namespace_is_found_by_process_path_and_descriptor() {
        let own = NetNs::current().expect("/proc");
        let by_process = NetNs::open(&std::process::id().to_string()).expect("by process");
        let by_path = NetNs::open("/proc/self/ns/net").expect("by path");
        let descriptor = own.as_fd().try_clone_to_owned().expect("descriptors are left");
        let by_descriptor = NetNs::from_fd(descriptor, "mine").expect("by descriptor");
        let by_id = NetNs::open(&own.id().to_string()).expect("by id");
        for namespace in [&by_process, &by_path, &by_descriptor, &by_id, &own.clone()] {
            assert_eq!(namespace.id(), own.id());
            assert!(namespace.is_own() && namespace.is_host());
        }
        assert_eq!((by_path.name(), by_descriptor.name()), ("/proc/self/ns/net", "mine"));
        assert_eq!(by_process.path(), Some(Path::new(&format!("/proc/{}/ns/net", std::process::id()))));
        assert_eq!(by_descriptor.path(), None);
    }

    #[test]
    fn an_identity_is_written_as_a_file_name() {
        let id = NetNsId::new(4, 4_026_531_840);
        assert_eq!(id.to_string(), "4-4026531840");
        assert_eq!((id.device(), id.inode()), (4, 4_026_531_840));
        assert_eq!(NetNsId::parse("4-4026531840"), Some(id));
        for other in ["4", "4-", "-4", "4-x", "shop-1", "4-5-6"] {
            assert_eq!(NetNsId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn other_namespaces_and_files_are_refused() {
        for path in ["/proc/self/ns/mnt", "/proc/self/status", "/dev/null", "/", ".."] {
            let error = NetNs::open(path).expect_err(path);
            assert!(matches!(error, NetNsError::NotNetwork { .. } | NetNsError::Absent { .. }), "{path}");
            assert!(!error.is_permission());
        }
        assert!(matches!(NetNs::open("/proc/self/ns/mnt"), Err(NetNsError::NotNetwork { .. })));
        assert!(matches!(NetNs::open("/proc/self/status"), Err(NetNsError::NotNetwork { .. })));
        let file = File::open("/dev/null").expect("exists");
        assert!(matches!(NetNs::from_fd(file.into(), "null"), Err(NetNsError::NotNetwork { .. })));
    }

    #[test]
    fn unknown_names_are_absent() {
        for name in ["no-such-namespace", "/no/such/namespace", "4294967295"] {
            assert!(matches!(NetNs::open(name), Err(NetNsError::Absent { .. })), "{name}");
        }
    }

    #[test]
    fn a_lack_of_rights_is_told_from_other_failures() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(NetNsError::Enter(denied()).is_permission());
        assert!(NetNsError::Open { name: "pod".to_owned(), source: denied() }.is_permission());
        let other = io::Error::from(io::ErrorKind::Interrupted);
        assert!(!NetNsError::Open { name: "pod".to_owned(), source: other }.is_permission());
    }
}
