//! Naming the pod's network namespace.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::os::sys;

/// Where `ip netns` keeps names (ip-netns(8)); the second is the first on systems whose /var/run is no link.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// What tells namespaces apart: device and inode number (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetNsId {
    /// Device number of nsfs.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl fmt::Display for NetNsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.device, self.inode)
    }
}

/// A network namespace, kept alive.
#[derive(Debug)]
pub(crate) struct NetNsRef {
    /// Open, so that the number is not given to another namespace.
    _file: File,
    id: NetNsId,
    name: String,
}

/// Why there is no such namespace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetNsError {
    /// Neither name nor path exists.
    #[error("no network namespace `{0}`")]
    Absent(String),
    /// It is something else.
    #[error("`{0}` is not a network namespace")]
    Other(String),
    /// It cannot be opened.
    #[error("network namespace `{name}`: {source}")]
    Open {
        /// As given.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetNsError {
    /// Whether rights are missing.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl NetNsRef {
    /// Opens the namespace called `name` below /run/netns; with a slash in it, it is a path.
    ///
    /// # Errors
    /// See [`NetNsError`].
    pub(crate) fn open(name: &str) -> Result<Self, NetNsError> {
        let candidates: Vec<PathBuf> = if name.contains('/') {
            vec![PathBuf::from(name)]
        } else {
            NAMED.iter().map(|directory| Path::new(directory).join(name)).collect()
        };
        for path in candidates {
            match File::open(&path) {
                Ok(file) => return Self::from_file(file, name),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(NetNsError::Open { name: name.to_owned(), source }),
            }
        }
        Err(NetNsError::Absent(name.to_owned()))
    }

    fn from_file(file: File, name: &str) -> Result<Self, NetNsError> {
        if !sys::is_network_namespace(&file) {
            return Err(NetNsError::Other(name.to_owned()));
        }
        let metadata =
            file.metadata().map_err(|source| NetNsError::Open { name: name.to_owned(), source })?;
        let id = NetNsId { device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { _file: file, id, name: name.to_owned() })
    }

    /// What tells it apart.
    #[must_use]
    pub(crate) fn id(&self) -> NetNsId {
        self.id
    }

    /// As the user called it.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_opens_by_path_and_is_itself() {
        let first = NetNsRef::open("/proc/self/ns/net").unwrap();
        let second = NetNsRef::open("/proc/thread-self/ns/net").unwrap();
        assert_eq!(first.id(), second.id());
    }

    #[test]
    fn other_namespaces_and_files_are_refused() {
        for path in ["/proc/self/ns/mnt", "/proc/self/status", "/dev/null", "/"] {
            assert!(matches!(NetNsRef::open(path), Err(NetNsError::Other(_))), "{path}");
        }
    }

    #[test]
    fn an_unknown_name_is_absent() {
        for name in ["tencrypt-no-such-namespace", "/no/such/path", ".."] {
            let opened = NetNsRef::open(name);
            assert!(matches!(opened, Err(NetNsError::Absent(_) | NetNsError::Other(_))), "{name}");
        }
    }
}
