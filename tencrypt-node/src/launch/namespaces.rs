//! The namespaces of process 1.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    os::unix::fs::MetadataExt as _,
};

use rustix::thread::{
    CapabilitySet, LinkNameSpaceType as Type, capabilities, move_into_link_name_space as enter,
};

/// The kinds that make a container, with their names in `/proc/PID/ns`. The mounts come last: from then on a path is another file.
/// User and time namespaces are not among them: a container of a node agent has the node's.
const KINDS: [(&str, Type); 5] = [
    ("cgroup", Type::ControlGroup),
    ("ipc", Type::InterProcessCommunication),
    ("uts", Type::HostNameAndNISDomainName),
    ("net", Type::Network),
    ("mnt", Type::Mount),
];

/// The kind that tells a container from the node itself.
const MOUNTS: &str = "mnt";

/// The kind that cannot be entered: setns(2) takes the own one and those below it alone (pidns_install, kernel/pid_namespace.c).
const PROCESSES: &str = "pid";

/// The reason why the namespaces of process 1 were not entered.
#[derive(Debug, thiserror::Error)]
pub(super) enum NamespaceError {
    /// A namespace cannot be opened or compared.
    #[error("cannot open {path}: {source}{}", Missing(*.missing))]
    Open {
        /// The file that stands for it.
        path: String,
        /// The kernel's answer.
        source: io::Error,
        /// The rights that this takes and the process has not.
        missing: CapabilitySet,
    },
    /// This process is in a namespace of processes of its own, and what it starts would end with that.
    #[error(
        "process 1 is in another namespace of processes, which cannot be entered: the container needs hostPID"
    )]
    Processes,
    /// A namespace cannot be entered.
    #[error("cannot enter {path}: {source}{}", Missing(*.missing))]
    Enter {
        /// The file that stands for it.
        path: String,
        /// The kernel's answer.
        source: io::Error,
        /// The rights that this takes and the process has not.
        missing: CapabilitySet,
    },
}

/// Enters those namespaces of process 1 that are others than this process's own, if it has other mounts than process 1, and tells if
/// it has. Root and working folder become those of process 1.
///
/// Process 1 is that of `/proc`. For a thread that is alone in its process: others would keep its mounts from being changed (setns(2)).
///
/// # Errors
/// It may not: CAP_SYS_PTRACE is needed to open them (proc_ns_get_link, fs/proc/namespaces.c), CAP_SYS_ADMIN to enter them and
/// CAP_SYS_CHROOT for the mounts (mntns_install, fs/namespace.c). Or its namespace of processes is another one too.
pub(super) fn enter_those_of_process_1() -> Result<bool, NamespaceError> {
    if other(MOUNTS)?.is_none() {
        return Ok(false);
    }
    if other(PROCESSES)?.is_some() {
        return Err(NamespaceError::Processes);
    }
    let mut others = Vec::new();
    for (name, kind) in KINDS {
        others.extend(other(name)?.map(|file| (name, kind, file)));
    }
    for (name, kind, file) in others {
        enter(file.as_fd(), Some(kind)).map_err(|error| NamespaceError::Enter {
            path: format!("/proc/1/ns/{name}"),
            source: error.into(),
            missing: missing(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_CHROOT),
        })?;
    }
    Ok(true)
}

/// Tells if this process has other mounts than process 1, as in a container that may see it. Where that cannot be known it has not.
pub(crate) fn is_contained() -> bool {
    other(MOUNTS).is_ok_and(|other| other.is_some())
}

/// The namespace of process 1 of this kind, if it is another one than this process's own. A kernel that was built without such
/// namespaces has none.
fn other(name: &str) -> Result<Option<File>, NamespaceError> {
    let opening = |path: &str, source| NamespaceError::Open {
        path: path.to_owned(),
        source,
        missing: missing(CapabilitySet::SYS_PTRACE),
    };
    let (their_path, own_path) = (format!("/proc/1/ns/{name}"), format!("/proc/self/ns/{name}"));
    let own = match fs::metadata(&own_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && name != MOUNTS => return Ok(None),
        own => own.map_err(|error| opening(&own_path, error))?,
    };
    let file = File::open(&their_path).map_err(|error| opening(&their_path, error))?;
    let theirs = file.metadata().map_err(|error| opening(&their_path, error))?;
    Ok(((theirs.dev(), theirs.ino()) != (own.dev(), own.ino())).then_some(file))
}

/// Those of `needed` that this process has not.
fn missing(needed: CapabilitySet) -> CapabilitySet {
    // Without an answer none is said to be missing: it is the kernel's error that stands then.
    capabilities(None).map_or(CapabilitySet::empty(), |own| needed - own.effective)
}

/// The end of an error's line that names rights.
struct Missing(CapabilitySet);

impl std::fmt::Display for Missing {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut before = "; missing: ";
        for (name, _) in self.0.iter_names() {
            write!(to, "{before}CAP_{name}")?;
            before = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_and_the_rights_that_are_missing() {
        let error = |missing| NamespaceError::Enter {
            path: "/proc/1/ns/mnt".to_owned(),
            source: io::Error::from(rustix::io::Errno::PERM),
            missing,
        };
        let both = error(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_CHROOT).to_string();
        let begin = "cannot enter /proc/1/ns/mnt: Operation not permitted (os error 1)";
        assert_eq!(both, format!("{begin}; missing: CAP_SYS_CHROOT, CAP_SYS_ADMIN"));
        assert_eq!(error(CapabilitySet::empty()).to_string(), begin);
    }
}
