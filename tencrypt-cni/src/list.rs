//! The list on disk: which namespaces are enrolled, for a time in which the node agent does not answer.
//!
//! ```text
//! tencrypt-namespaces-v1
//! ready
//! open -
//! open default
//! enrolled shop
//! ```
//!
//! The agent writes it, whole, and the plugin reads it. `ready` stands there once the agent has ever been ready on the node. `-`
//! stands for pods without a Kubernetes namespace, as podman and systemd-nspawn make them. A namespace that is not named is
//! unknown, and so is every one if any line is wrong, or if the last one does not end: a name that was cut off may be another's.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::names;

/// The file of the list, unless the network configuration names another.
pub const PATH: &str = "/var/lib/tencrypt/namespaces";

/// Longest list in bytes.
pub const LIMIT: usize = 4 << 20;

/// Most lines of a list.
pub const MAX_LINES: usize = 100_000;

const FIRST_LINE: &str = "tencrypt-namespaces-v1";
const READY: &str = "ready";
const NO_NAMESPACE: &str = "-";

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    is_ready: bool,
    /// By name; `-` for pods without a namespace.
    namespaces: BTreeMap<String, Standing>,
}

/// A namespace's place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a namespace that is neither is unknown")]
pub enum Standing {
    /// Its pods are to be protected.
    Enrolled,
    /// Its pods are left as they are.
    Open,
}

impl Standing {
    /// Its word in the list.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Open => "open",
        }
    }
}

/// The name that was given is no namespace's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no name of a namespace")]
#[non_exhaustive]
pub struct InvalidNamespace;

/// The reason why a line is none of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// It is not the first line of a list of this version.
    #[error("`{FIRST_LINE}` is expected")]
    First,
    /// It is no line of a list.
    #[error("`{READY}`, `enrolled NAME` or `open NAME` is expected")]
    Shape,
    /// `ready` stands elsewhere than in the second line.
    #[error("`{READY}` belongs into line 2")]
    Ready,
    /// The name is no namespace's.
    #[error("no name of a namespace")]
    Name,
    /// The namespace is there already.
    #[error("the namespace is named twice")]
    Twice,
    /// The line does not end.
    #[error("cut off")]
    CutOff,
    /// It is no text.
    #[error("no UTF-8")]
    NotText,
    /// It is one too many.
    #[error("more than {MAX_LINES} lines")]
    TooMany,
}

/// The reason why a list cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The kernel's answer.
    #[error("{0}")]
    Io(
        /// It.
        #[from]
        io::Error,
    ),
    /// It is no regular file.
    #[error("no regular file")]
    Kind,
    /// Others than root and the own user own it or may change it.
    #[error("others may change it")]
    Writable,
    /// It is longer than [`LIMIT`].
    #[error("longer than {LIMIT} bytes")]
    TooLong,
    /// A line is wrong.
    #[error("line {line}: {fault}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The reason.
        fault: LineFault,
    },
}

impl List {
    /// A list that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells if the agent has ever been ready on the node.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Notes that the agent is ready.
    pub fn set_ready(&mut self) {
        self.is_ready = true;
    }

    /// The standing of a namespace, or of pods without one; `None` if it is unknown.
    #[must_use]
    pub fn standing(&self, namespace: Option<&str>) -> Option<Standing> {
        // Nobody's namespace is called `-`.
        self.namespaces.get(namespace.unwrap_or(NO_NAMESPACE)).copied()
    }

    /// Notes the standing of a namespace, or of pods without one, in place of an earlier one; `None` forgets it.
    ///
    /// # Errors
    /// [`InvalidNamespace`] if it is no label of RFC 1123.
    pub fn set(
        &mut self,
        namespace: Option<&str>,
        standing: Option<Standing>,
    ) -> Result<(), InvalidNamespace> {
        let name = match namespace {
            Some(name) if !names::is_namespace(name) => return Err(InvalidNamespace),
            Some(name) => name,
            None => NO_NAMESPACE,
        };
        match standing {
            Some(standing) => self.namespaces.insert(name.to_owned(), standing),
            None => self.namespaces.remove(name),
        };
        Ok(())
    }

    /// Reads the bytes of a list.
    ///
    /// # Errors
    /// [`ListError::TooLong`] and [`ListError::Line`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        if bytes.len() > LIMIT {
            return Err(ListError::TooLong);
        }
        let mut list = Self::new();
        let mut count = 0;
        for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            count = at + 1;
            list.read_line(count, line).map_err(|fault| ListError::Line { line: count, fault })?;
        }
        if count == 0 { Err(ListError::Line { line: 1, fault: LineFault::First }) } else { Ok(list) }
    }

    fn read_line(&mut self, number: usize, line: &[u8]) -> Result<(), LineFault> {
        if number > MAX_LINES {
            return Err(LineFault::TooMany);
        }
        let text = std::str::from_utf8(line).map_err(|_| LineFault::NotText)?;
        let text = text.strip_suffix('\n').ok_or(LineFault::CutOff)?;
        match (number, text.split_once(' ')) {
            (1, _) if text == FIRST_LINE => Ok(()),
            (1, _) => Err(LineFault::First),
            (2, _) if text == READY => {
                self.is_ready = true;
                Ok(())
            }
            (_, None) if text == READY => Err(LineFault::Ready),
            (_, Some(("enrolled", name))) => self.add(name, Standing::Enrolled),
            (_, Some(("open", name))) => self.add(name, Standing::Open),
            _ => Err(LineFault::Shape),
        }
    }

    fn add(&mut self, name: &str, standing: Standing) -> Result<(), LineFault> {
        if name != NO_NAMESPACE && !names::is_namespace(name) {
            return Err(LineFault::Name);
        }
        let before = self.namespaces.insert(name.to_owned(), standing);
        if before.is_some() { Err(LineFault::Twice) } else { Ok(()) }
    }

    /// Reads the list at `path`.
    ///
    /// # Errors
    /// See [`ListError`].
    pub fn read(path: &Path) -> Result<Self, ListError> {
        // Whatever the file is, opening it waits for nobody.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(ListError::Kind);
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.mode() & 0o022 != 0 || ![0, own].contains(&metadata.uid()) {
            return Err(ListError::Writable);
        }
        let mut bytes = Vec::new();
        // One more than there may be, so that it is seen.
        file.take(LIMIT as u64 + 1).read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    /// Writes the list to `path`, mode 0644: whoever reads it finds the old one or the new one, after a crash too. It is made in the
    /// same directory as `NAME.new`, which one writer at a time may use.
    ///
    /// # Errors
    /// [`ListError::Io`], [`ListError::TooLong`] and too many lines. The file is as it was, unless its directory cannot be
    /// synchronized.
    pub fn write(&self, path: &Path) -> Result<(), ListError> {
        let text = self.to_string();
        if text.len() > LIMIT {
            return Err(ListError::TooLong);
        }
        if text.lines().count() > MAX_LINES {
            return Err(ListError::Line { line: MAX_LINES + 1, fault: LineFault::TooMany });
        }
        let new = beside(path)?;
        let written = replace(path, &new, text.as_bytes());
        if written.is_err() {
            // It may be gone already, or was never there.
            let _ = std::fs::remove_file(&new);
        }
        Ok(written?)
    }
}

impl fmt::Display for List {
    /// The text of the list, as [`List::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if self.is_ready {
            writeln!(f, "{READY}")?;
        }
        for (name, standing) in &self.namespaces {
            writeln!(f, "{} {name}", standing.as_str())?;
        }
        Ok(())
    }
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    Ok(path.with_file_name(name))
}

fn replace(path: &Path, new: &Path, bytes: &[u8]) -> io::Result<()> {
    // A new file each time: what a crash has left there may be anything, a link too.
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let mut file = File::from(rustix::fs::open(new, flags, mode)?);
    // Whatever the umask has taken away.
    rustix::fs::fchmod(file.as_fd(), mode)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    const TEXT: &str = "tencrypt-namespaces-v1\nready\nopen -\nopen default\nenrolled shop\n";

    fn fault(bytes: &[u8]) -> (usize, LineFault) {
        match List::parse(bytes) {
            Err(ListError::Line { line, fault }) => (line, fault),
            other => panic!("{other:?}"),
        }
    }

    /// A folder of its own, gone with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tencrypt-cni-list-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_list_says_what_its_lines_say() {
        let list = List::parse(TEXT.as_bytes()).unwrap();
        assert!(list.is_ready());
        assert_eq!(list.standing(Some("shop")), Some(Standing::Enrolled));
        assert_eq!(list.standing(Some("default")), Some(Standing::Open));
        assert_eq!(list.standing(None), Some(Standing::Open));
        assert_eq!(list.standing(Some("shops")), None);
        let list = List::parse(b"tencrypt-namespaces-v1\nenrolled -\n").unwrap();
        assert!(!list.is_ready());
        assert_eq!(list.standing(None), Some(Standing::Enrolled));
        assert_eq!(List::parse(b"tencrypt-namespaces-v1\n").unwrap(), List::new());
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let mut list = List::new();
        for (namespace, standing) in
            [(Some("shop"), Standing::Enrolled), (Some("default"), Standing::Open), (None, Standing::Open)]
        {
            list.set(namespace, Some(standing)).unwrap();
        }
        list.set_ready();
        assert_eq!(list.to_string(), "tencrypt-namespaces-v1\nready\nopen -\nopen default\nenrolled shop\n");
        assert_eq!(List::parse(list.to_string().as_bytes()).unwrap(), list);
        list.set(Some("shop"), Some(Standing::Open)).unwrap();
        list.set(None, None).unwrap();
        assert_eq!((list.standing(Some("shop")), list.standing(None)), (Some(Standing::Open), None));
        for name in ["", "-", "Shop", "a b", "a\n", "a.b"] {
            assert_eq!(list.set(Some(name), Some(Standing::Open)), Err(InvalidNamespace), "{name}");
        }
    }

    #[test]
    fn a_wrong_line_spoils_the_list_and_is_named() {
        let after = |rest: &str| fault(format!("tencrypt-namespaces-v1\n{rest}").as_bytes());
        for text in [
            "",
            "\n",
            "ready\n",
            "tencrypt-namespaces-v2\n",
            "tencrypt-namespaces-v1 \n",
            "tencrypt-namespaces-v1\r\n",
        ] {
            assert_eq!(fault(text.as_bytes()), (1, LineFault::First), "{text:?}");
        }
        for rest in ["\n", "open\n", "closed a\n", "Open a\n", " open a\n", "ready \n", "ready a\n", "#\n"] {
            assert_eq!(after(rest), (2, LineFault::Shape), "{rest:?}");
        }
        for name in ["", " a", "a ", "a b", "Shop", "a.b", "--", "-a", "a\r", "ä", &"a".repeat(64)] {
            assert_eq!(after(&format!("open a\nopen {name}\n")), (3, LineFault::Name), "{name:?}");
        }
        assert_eq!(after("open a\nready\n"), (3, LineFault::Ready));
        assert_eq!(after("ready\nready\n"), (3, LineFault::Ready));
        for twice in ["open a\nopen a\n", "open a\nenrolled a\n", "open -\nopen -\n"] {
            assert_eq!(after(twice), (3, LineFault::Twice), "{twice:?}");
        }
        for cut in ["open a", "enrolled shop\nopen defaul", "ready"] {
            let lines = cut.lines().count() + 1;
            assert_eq!(after(cut), (lines, LineFault::CutOff), "{cut:?}");
        }
        assert_eq!(fault(b"tencrypt-namespaces-v1"), (1, LineFault::CutOff));
        assert_eq!(fault(b"tencrypt-namespaces-v1\nopen \xff\n"), (2, LineFault::NotText));
        assert_eq!(fault(b"tencrypt-namespaces-v1\nopen a\0\n"), (2, LineFault::Name));
    }

    #[test]
    fn a_list_has_its_bounds() {
        let long = |count: usize| {
            let names: String = (0..count).map(|number| format!("open {number}\n")).collect();
            format!("tencrypt-namespaces-v1\n{names}")
        };
        assert!(List::parse(long(MAX_LINES - 1).as_bytes()).is_ok());
        assert_eq!(fault(long(MAX_LINES).as_bytes()), (MAX_LINES + 1, LineFault::TooMany));
        assert!(matches!(List::parse(&vec![b'\n'; LIMIT + 1]), Err(ListError::TooLong)));
        let folder = Folder::new("bounds");
        let mut list = List::new();
        for number in 0..MAX_LINES {
            list.set(Some(&number.to_string()), Some(Standing::Open)).unwrap();
        }
        assert!(list.write(&folder.0.join("list")).is_err());
        assert_eq!(folder.names(), [""; 0]);
    }

    #[test]
    fn a_list_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = Folder::new("write");
        let path = folder.0.join("namespaces");
        let target = folder.0.join("target");
        fs::write(&target, "somebody's").unwrap();
        symlink(&target, folder.0.join("namespaces.new")).unwrap();
        let mut list = List::new();
        list.write(&path).unwrap();
        let before = fs::File::open(&path).unwrap();
        list.set(Some("shop"), Some(Standing::Enrolled)).unwrap();
        list.write(&path).unwrap();
        assert_eq!(List::read(&path).unwrap(), list);
        assert_eq!(io::read_to_string(before).unwrap(), "tencrypt-namespaces-v1\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_to_string(target).unwrap(), "somebody's");
        assert_eq!(folder.names(), ["namespaces", "target"]);
    }

    #[test]
    fn others_may_read_a_list_whatever_the_umask_is() {
        const PATH: &str = "TENCRYPT_CNI_LIST";
        if let Some(path) = std::env::var_os(PATH) {
            // Of a process of its own: other tests make files.
            rustix::process::umask(Mode::RWXG | Mode::RWXO);
            return List::new().write(Path::new(&path)).unwrap();
        }
        let folder = Folder::new("umask");
        let path = folder.0.join("list");
        let mut writer = std::process::Command::new("/proc/self/exe");
        writer
            .args(["list::tests::others_may_read_a_list_whatever_the_umask_is", "--exact"])
            .env(PATH, &path);
        assert!(writer.output().unwrap().status.success());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let folder = Folder::new("unwritten");
        fs::create_dir(folder.0.join("taken")).unwrap();
        fs::write(folder.0.join("taken/file"), "").unwrap();
        assert!(List::new().write(&folder.0.join("taken")).is_err());
        assert_eq!(folder.names(), ["taken"]);
        assert!(List::new().write(&folder.0.join("absent/list")).is_err());
        assert!(List::new().write(Path::new("/")).is_err());
    }

    #[test]
    fn files_that_are_none_and_files_of_others_are_refused() {
        let folder = Folder::new("read");
        let path = folder.0.join("list");
        assert!(matches!(List::read(&path), Err(ListError::Io(_))));
        assert!(matches!(List::read(&folder.0), Err(ListError::Kind)));
        assert!(matches!(List::read(Path::new("/dev/null")), Err(ListError::Kind)));
        fs::write(&path, TEXT).unwrap();
        for (mode, is_taken) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = List::read(&path);
            assert!(
                if is_taken { read.is_ok() } else { matches!(read, Err(ListError::Writable)) },
                "{mode:o}: {read:?}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&path, vec![b'\n'; LIMIT + 1]).unwrap();
        assert!(matches!(List::read(&path), Err(ListError::TooLong)));
    }
}
