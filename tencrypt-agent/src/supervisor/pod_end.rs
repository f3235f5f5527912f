//! The end of the pod, which is that of the program: nothing of it is to stay on the node.
//!
//! The namespace itself says nothing, since the program's own sockets keep it alive. Two signs do: its file, such as
//! `/run/netns/NAME`, is gone or another namespace's; or its interface is gone and no process is left in it.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt as _, net::UnixDatagram},
    },
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use tencrypt_tun::{NetNs, NetNsId};

/// Looks at which the file has to be gone: it may be replaced in more than one step.
const LOOKS: u32 = 2;
/// The time between two looks at all processes.
const PROCESSES: Duration = Duration::from_secs(2);
/// The time that the interface may be away without a process: one that is replaced comes back sooner.
const PATIENCE: Duration = Duration::from_secs(3);

/// The file by which the program was given its namespace.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    path: Option<PathBuf>,
    id: NetNsId,
}

impl Place {
    /// Returns the file of a namespace. One below `/proc`, or a link, says when a process or a name ends, and not when the
    /// pod does.
    pub(crate) fn of(namespace: &NetNs) -> Self {
        let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|file| file.is_symlink());
        let path = namespace.path().filter(|path| !path.starts_with("/proc") && !is_link(path));
        Self { path: path.map(Path::to_owned), id: namespace.id() }
    }

    /// Returns the namespace.
    pub(crate) fn id(&self) -> NetNsId {
        self.id
    }

    /// Tells if the file leads to the namespace no longer. One that cannot be looked at says nothing.
    fn is_gone(&self) -> bool {
        let Some(path) = &self.path else { return false };
        match fs::metadata(path) {
            Ok(found) => NetNsId::new(found.dev(), found.ino()) != self.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// The signs of a pod's end.
#[derive(Debug)]
pub(crate) struct PodEnd {
    place: Place,
    /// Number of a socket in the namespace. A process in the same namespace lists it in `/proc/PID/net/unix`, which needs no
    /// right to look into the process, as its namespace's link does (proc(5)).
    socket: u64,
    _held: File,
    missed: u32,
    interface_gone: Option<Instant>,
    looked: Option<Instant>,
}

impl PodEnd {
    /// Watches for the end of the pod in whose namespace the calling thread is.
    ///
    /// # Errors
    /// No socket can be opened.
    pub(super) fn new(place: Place) -> io::Result<Self> {
        let held = File::from(OwnedFd::from(UnixDatagram::unbound()?));
        let socket = held.metadata()?.ino();
        Ok(Self { place, socket, _held: held, missed: 0, interface_gone: None, looked: None })
    }

    /// Notes if the pod's interface is there.
    pub(super) fn interface_is(&mut self, present: bool) {
        match present {
            true => self.interface_gone = None,
            false => drop(self.interface_gone.get_or_insert_with(Instant::now)),
        }
    }

    /// Tells if the pod has ended. To be asked once a second.
    pub(super) fn has_come(&mut self, now: Instant) -> bool {
        self.missed = if self.place.is_gone() { self.missed + 1 } else { 0 };
        if self.missed >= LOOKS {
            return true;
        }
        let has_waited = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        if !self.interface_gone.is_some_and(has_waited) {
            return false;
        }
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < PROCESSES) {
            return false;
        }
        self.looked = Some(now);
        !self.has_process()
    }

    /// Tells if any other process is in the namespace, or may be: where `/proc` does not say, one is.
    fn has_process(&self) -> bool {
        let Ok(entries) = fs::read_dir("/proc") else { return true };
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let others = numbers.filter(|number| *number != process::id());
        others.map(|number| format!("/proc/{number}/net/unix")).any(|path| match File::open(path) {
            Ok(file) => lists(BufReader::new(file), self.socket),
            // It has ended meanwhile.
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput),
        })
    }
}

/// Tells if a list of sockets as in `/proc/net/unix` has the socket: the number is in the seventh column.
fn lists(list: impl io::BufRead, socket: u64) -> bool {
    let number = socket.to_string();
    list.lines().map_while(Result::ok).any(|line| line.split_ascii_whitespace().nth(6) == Some(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_in_the_list_by_its_number_alone() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0000000000000000: 00000002 00000000 00000000 0002 01 4711\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 815 /run/4712\n";
        for (socket, expected) in [(4711, true), (815, true), (4712, false), (471, false), (0, false)] {
            assert_eq!(lists(list.as_bytes(), socket), expected, "{socket}");
        }
        assert!(!lists(&b""[..], 1));
    }

    #[test]
    fn a_process_in_the_same_namespace_is_found_and_the_program_itself_is_none() {
        let place = Place { path: None, id: NetNsId::new(0, 0) };
        let mut end = PodEnd::new(place).unwrap();
        // Others of the machine are in the namespace of this test.
        assert!(end.has_process());
        end.interface_is(false);
        assert!(!end.has_come(Instant::now() + PATIENCE));
    }

    #[test]
    fn a_file_that_is_another_namespaces_or_gone_is_a_sign_and_one_of_a_process_is_none() {
        let own = NetNs::open("/proc/self/ns/net").unwrap();
        assert!(!Place::of(&own).is_gone(), "below /proc");
        let path = std::env::temp_dir().join(format!("tencrypt-place-{}", process::id()));
        let place = Place { path: Some(path.clone()), id: own.id() };
        let mut end = PodEnd::new(place).unwrap();
        fs::write(&path, "").unwrap();
        assert!(!end.has_come(Instant::now()), "once is not enough");
        fs::remove_file(&path).unwrap();
        assert!(end.has_come(Instant::now()));
    }
}
