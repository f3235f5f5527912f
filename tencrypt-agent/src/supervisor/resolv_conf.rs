//! The place of a pod's resolv.conf.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tencrypt_tun::NetNs;

use crate::os::files::{self, ReadError};

/// Longest resolv.conf that is read, in bytes. glibc reads lines of any length; real files have a few hundred bytes.
const LIMIT: u64 = 1 << 20;
/// The file as every program knows it.
const PATH: &str = "/etc/resolv.conf";

/// A pod's resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResolvConfFile {
    /// A file of this host's.
    Host(PathBuf),
    /// That of a process: whatever links lead to, it is within the process's root directory, which is at this path.
    Process(PathBuf),
}

impl ResolvConfFile {
    /// The file at `configured`, or that of the namespace: of the process in whose directory below /proc the namespace was
    /// opened, or the one that `ip netns` shows programs in it (ip-netns(8)), or else this host's.
    pub(super) fn of(configured: Option<&Path>, namespace: &NetNs) -> Self {
        let own = || namespace.path().and_then(Self::of_namespace);
        let found = configured.map(|path| Self::Host(path.to_owned())).or_else(own);
        found.unwrap_or_else(|| Self::Host(PATH.into()))
    }

    /// The file of the namespace whose own file is at `path`, if it is of a kind that has one.
    fn of_namespace(path: &Path) -> Option<Self> {
        if let Ok(below) = path.strip_prefix("/proc") {
            let (process, _) = below.to_str()?.split_once("/ns/")?;
            return Some(Self::Process(Path::new("/proc").join(process).join("root")));
        }
        let name = path.strip_prefix("/run/netns").or_else(|_| path.strip_prefix("/var/run/netns")).ok()?;
        let path = Path::new("/etc/netns").join(name).join("resolv.conf");
        // Where there is none, programs in the namespace read the host's.
        path.exists().then_some(Self::Host(path))
    }

    /// Reads the file. A FIFO, a device or a socket is refused, and does not block.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(super) fn read(&self) -> Result<Vec<u8>, ReadError> {
        match self {
            Self::Host(path) => files::read_in(None, path, LIMIT),
            Self::Process(root) => files::read_in(Some(root), Path::new(PATH), LIMIT),
        }
    }
}

impl fmt::Display for ResolvConfFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(path) => write!(f, "{}", path.display()),
            Self::Process(root) => write!(f, "{}{PATH}", root.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn the_resolv_conf_of_a_namespace_is_known_by_its_process_or_its_name() {
        let of = |path: &str| ResolvConfFile::of_namespace(Path::new(path)).map(|file| file.to_string());
        assert_eq!(of("/proc/4711/ns/net").as_deref(), Some("/proc/4711/root/etc/resolv.conf"));
        assert_eq!(of("/proc/self/task/9/ns/net").as_deref(), Some("/proc/self/task/9/root/etc/resolv.conf"));
        assert_eq!(of("/run/netns/no-such-namespace"), None, "programs in it read the host's");
        assert_eq!(of("/tmp/namespace"), None);
    }

    #[test]
    fn no_link_leads_out_of_the_root_of_a_process() {
        let base = std::env::temp_dir().join(format!("tencrypt-root-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        let root = base.join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        fs::write(base.join("outside"), "nameserver 192.0.2.66\n").unwrap();
        fs::write(root.join("run/resolv.conf"), "nameserver 10.96.0.10\n").unwrap();
        let (file, link) = (ResolvConfFile::Process(root.clone()), root.join("etc/resolv.conf"));
        let inside = Some(b"nameserver 10.96.0.10\n".to_vec());
        let outside = base.join("outside");
        for (target, expected) in [
            (Path::new("/run/resolv.conf"), &inside),
            (Path::new("../run/resolv.conf"), &inside),
            (Path::new("../../../../../../run/resolv.conf"), &inside),
            (&*outside, &None),
            (Path::new("../../outside"), &None),
            (Path::new("/proc/self/root/etc/hostname"), &None),
        ] {
            symlink(target, &link).unwrap();
            assert_eq!(&file.read().ok(), expected, "{}", target.display());
            fs::remove_file(&link).unwrap();
        }
        // What would block whoever opens it, and what is no file.
        let fifo = std::process::Command::new("mkfifo").arg(&link).status();
        assert!(fifo.is_ok_and(|made| made.success()), "mkfifo");
        assert!(matches!(file.read(), Err(ReadError::NotRegular)));
        assert!(matches!(ResolvConfFile::Host(link.clone()).read(), Err(ReadError::NotRegular)));
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        assert!(matches!(file.read(), Err(ReadError::NotRegular)));
        assert!(matches!(ResolvConfFile::Host("/dev/zero".into()).read(), Err(ReadError::NotRegular)));
        fs::remove_dir_all(&base).unwrap();
    }
}
