//! The run directory: for each namespace held by a `tencrypt up`, its control socket and its lock.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use tencrypt_tun::NetNsId;

use crate::{
    failure::{Exit, Failure},
    os::sys,
};

/// The variable that names the directory.
pub const DIRECTORY_VARIABLE: &str = "TENCRYPT_RUN_DIR";

/// A run directory, or a lock in it, that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// It is not this user's alone.
    #[error("run directory {}: {reason}", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// The fault of it.
        reason: &'static str,
    },
    /// The kernel refused.
    #[error("run directory {}: {source}", path.display())]
    Io {
        /// The directory or the file in it.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another process holds the namespace.
    #[error("another `tencrypt up` holds this namespace")]
    Held,
}

impl RunDirError {
    /// Tells a lack of rights from other failures.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl From<RunDirError> for Failure {
    fn from(error: RunDirError) -> Self {
        let exit = match &error {
            RunDirError::Held => Exit::Held,
            error if error.is_permission() => Exit::NotPermitted,
            _ => Exit::Runtime,
        };
        Self::new(exit, error)
    }
}

/// The run directory, known to belong to this user alone.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

/// The hold on one namespace; released, and its file removed, when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    path: PathBuf,
    _file: File,
}

impl RunDir {
    /// The directory of this user, made if it is absent, and closed to others if they may only read it: kubelet makes the
    /// directory of a hostPath volume so.
    ///
    /// # Errors
    /// It cannot be made, or others may write to it.
    pub fn create() -> Result<Self, RunDirError> {
        Self::create_at(locate())
    }

    fn create_at(path: PathBuf) -> Result<Self, RunDirError> {
        let mut builder = fs::DirBuilder::new();
        match builder.mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if let Err(source) = close_to_readers(&path) {
                    return Err(RunDirError::Io { path, source });
                }
            }
            Err(source) => return Err(RunDirError::Io { path, source }),
        }
        Self::at(path)
    }

    /// The directory of this user, if it exists.
    ///
    /// # Errors
    /// Others may write to it: what answers there is not to be believed.
    pub fn existing() -> Result<Option<Self>, RunDirError> {
        match Self::at(locate()) {
            Ok(directory) => Ok(Some(directory)),
            Err(RunDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn at(path: PathBuf) -> Result<Self, RunDirError> {
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(source) => return Err(RunDirError::Io { path, source }),
        };
        let reason = if !metadata.is_dir() {
            "is not a directory"
        } else if metadata.uid() != sys::effective_uid() {
            "belongs to another user"
        } else if metadata.mode() & 0o077 != 0 {
            "others than its owner may enter it; use `chmod 700`"
        } else {
            return Ok(Self { path });
        };
        Err(RunDirError::Unsafe { path, reason })
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the namespace's control socket.
    #[must_use]
    pub fn socket(&self, namespace: NetNsId) -> PathBuf {
        self.path.join(format!("{namespace}.sock"))
    }

    /// Lists the control sockets there are, by the namespace of each; some may be of programs that have gone.
    #[must_use]
    pub fn sockets(&self) -> Vec<(NetNsId, PathBuf)> {
        let paths = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.filter_map(|path| Some((namespace_of(&path)?, path))).collect()
    }

    /// Removes what a killed program has left of a namespace: its socket and its lock. While a program holds the namespace they stay.
    pub fn tidy(&self, namespace: NetNsId) {
        let socket = self.socket(namespace);
        let lock = self.lock(namespace);
        if fs::symlink_metadata(&socket).or_else(|_| fs::symlink_metadata(&lock)).is_err() {
            return;
        }
        // The lock's file goes with the hold.
        if let Ok(_hold) = self.hold(namespace) {
            let _ = fs::remove_file(socket);
        }
    }

    fn lock(&self, namespace: NetNsId) -> PathBuf {
        self.path.join(format!("{namespace}.lock"))
    }

    /// Takes the namespace for this process. The kernel lets go of it when the process ends, however that happens.
    ///
    /// # Errors
    /// [`RunDirError::Held`], [`RunDirError::Io`].
    pub(crate) fn hold(&self, namespace: NetNsId) -> Result<Hold, RunDirError> {
        let path = self.lock(namespace);
        let failed = |source| RunDirError::Io { path: path.clone(), source };
        // Bounded: a holder that ends between our open and our lock has removed the file we opened.
        for _ in 0..100 {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RunDirError::Held),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            if is_still(&path, &file) {
                return Ok(Hold { path, _file: file });
            }
        }
        Err(RunDirError::Held)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Returns the namespace whose control socket is called so.
fn namespace_of(socket: &Path) -> Option<NetNsId> {
    let (device, inode) = socket.file_name()?.to_str()?.strip_suffix(".sock")?.split_once('-')?;
    Some(NetNsId::new(device.parse().ok()?, inode.parse().ok()?))
}

/// Tells if `path` still names the open `file`.
fn is_still(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => named.dev() == open.dev() && named.ino() == open.ino(),
        _ => false,
    }
}

/// `$TENCRYPT_RUN_DIR`; for the machine's root /run/tencrypt; else `$XDG_RUNTIME_DIR/tencrypt`; else one below /tmp.
fn locate() -> PathBuf {
    let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = named(DIRECTORY_VARIABLE) {
        return path;
    }
    let uid = outer_uid(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default(), sys::effective_uid());
    if uid == 0 {
        return PathBuf::from("/run/tencrypt");
    }
    match named("XDG_RUNTIME_DIR") {
        Some(path) => path.join("tencrypt"),
        None => PathBuf::from(format!("/tmp/tencrypt-{uid}")),
    }
}

/// The user id that `uid` stands for outside of this user namespace (user_namespaces(7): inside, outside, length), so
/// that root of a user's own namespace does not take itself for the machine's.
fn outer_uid(map: &str, uid: u32) -> u32 {
    for line in map.lines() {
        let fields: Vec<u32> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        if let [inside, outside, count] = *fields
            && let Some(offset) = uid.checked_sub(inside)
            && offset < count
        {
            return outside.saturating_add(offset);
        }
    }
    uid
}

/// Takes from others the right to read and enter a directory of this user's to which they may not write.
fn close_to_readers(path: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Of what is no directory the caller says so.
    let Ok(directory) = rustix::fs::open(path, flags, Mode::empty()) else { return Ok(()) };
    let directory = File::from(directory);
    let metadata = directory.metadata()?;
    let others = metadata.mode() & 0o077;
    if metadata.uid() == sys::effective_uid() && others != 0 && others & 0o022 == 0 {
        directory.set_permissions(fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> RunDir {
        let path = env::temp_dir().join(format!("tencrypt-rundir-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        RunDir::at(path).unwrap()
    }

    #[test]
    fn what_a_killed_program_has_left_goes_and_what_a_living_one_has_stays() {
        let directory = directory("tidy");
        let namespace = NetNsId::new(4, 1);
        let names = || fs::read_dir(&directory.path).unwrap().count();
        directory.tidy(namespace);
        assert_eq!(names(), 0, "nothing is made where nothing was");
        fs::write(directory.socket(namespace), "").unwrap();
        let hold = directory.hold(namespace).unwrap();
        directory.tidy(namespace);
        assert_eq!(names(), 2);
        drop(hold);
        fs::write(directory.lock(namespace), "").unwrap();
        directory.tidy(namespace);
        assert_eq!(names(), 0);
        fs::remove_dir(&directory.path).unwrap();
    }

    #[test]
    fn a_namespace_is_held_by_one_and_free_again_afterwards() {
        let directory = directory("hold");
        let (one, other) = (NetNsId::new(4, 1), NetNsId::new(4, 2));
        let hold = directory.hold(one).unwrap();
        assert!(matches!(directory.hold(one), Err(RunDirError::Held)));
        let _unrelated = directory.hold(other).unwrap();
        drop(hold);
        assert!(!directory.path.join("4-1.lock").exists());
        let _again = directory.hold(one).unwrap();
        fs::remove_dir_all(&directory.path).unwrap();
    }

    #[test]
    fn control_sockets_are_found_by_their_names_alone() {
        let directory = directory("sockets");
        let id = NetNsId::new(4, 1);
        for name in ["4-1.lock", "4.sock", "x-1.sock", "note"] {
            fs::write(directory.path.join(name), "").unwrap();
        }
        assert_eq!(directory.sockets(), []);
        fs::write(directory.socket(id), "").unwrap();
        assert_eq!(directory.sockets(), [(id, directory.socket(id))]);
        fs::remove_dir_all(&directory.path).unwrap();
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let path = directory("open").path;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
        assert!(matches!(RunDir::at(path.clone()), Err(RunDirError::Unsafe { .. })));
        let link = path.with_extension("link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(RunDir::at(link.clone()), Err(RunDirError::Unsafe { .. })));
        fs::remove_file(link).unwrap();
        fs::remove_dir(path).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_only_read_is_closed_to_them_and_one_that_they_may_write_to_is_refused() {
        let path = directory("kubelet").path;
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        for (others, then) in [(0o755, Some(0o700)), (0o711, Some(0o700)), (0o775, None), (0o777, None)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(others)).unwrap();
            let created = RunDir::create_at(path.clone());
            assert_eq!(created.is_ok(), then.is_some(), "{others:o}");
            assert_eq!(mode(), then.unwrap_or(others));
        }
        // Not through a link, behind which is somebody else's choice.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let link = path.with_extension("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(RunDir::create_at(link.clone()), Err(RunDirError::Unsafe { .. })));
        assert_eq!(mode(), 0o755);
        fs::remove_file(link).unwrap();
        fs::remove_dir(path).unwrap();
    }

    #[test]
    fn root_of_a_user_namespace_is_not_the_machines_root() {
        assert_eq!(outer_uid("         0          0 4294967295\n", 0), 0);
        assert_eq!(outer_uid("         0       1000          1\n", 0), 1000);
        assert_eq!(outer_uid("0 1000 1\n1 100000 65536\n", 5), 100_004);
        assert_eq!(outer_uid("", 7), 7);
    }
}
