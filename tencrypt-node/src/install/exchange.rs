//! A file of somebody else's, changed in one step and without losing what its owner writes meanwhile.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown},
    io::Errno,
};

use super::file::{Opened, ReadError, sync_folder};

/// Most rounds in which somebody else writes the file between its reading and its replacement.
const ROUNDS: usize = 16;

/// Beginning and end of the name of a file that is put aside. No runtime reads files of such an extension.
const BEFORE: &str = ".";
const BEHIND: &str = ".tencrypt-new";

/// The end of a rewriting.
#[derive(Debug)]
pub(crate) enum Rewritten {
    /// Nothing was to be changed.
    Stands,
    /// The file has the new text.
    Done {
        /// It.
        text: Vec<u8>,
        /// The file that it has taken the place of: who had that open before may still write to it.
        displaced: Box<Opened>,
    },
    /// The owner is at it. What he has written stands there.
    Busy,
}

/// Replaces the text of the file at `path`, of at most `limit` bytes, by what `make` makes of it; `None` leaves it as it is. Mode
/// and owner stay, and who opens the file finds the old text or the new one, after a crash too.
///
/// The new file is exchanged with the old one, and what was displaced is compared with what was read. If somebody has written
/// meanwhile, his text is put back, and all starts again.
///
/// # Errors
/// The kernel's answer, or a file that is none of text of this length. The owner's text stands there.
pub(crate) fn rewrite(
    path: &Path,
    limit: usize,
    make: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Rewritten, ReadError> {
    let aside = aside(path)?;
    for _ in 0..ROUNDS {
        let read = match Opened::read(path, limit) {
            Ok(read) => read,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Rewritten::Busy);
            }
            Err(error) => return Err(error),
        };
        let Some(text) = make(&read.bytes) else { return Ok(Rewritten::Stands) };
        if let Some(displaced) = replace(path, &aside, limit, read, &text)? {
            return Ok(Rewritten::Done { text, displaced: Box::new(displaced) });
        }
    }
    Ok(Rewritten::Busy)
}

/// Makes the file at `path`, or one in place of it, with mode and owner of another. Who reads the path finds the whole text or what was
/// there before, after a crash too.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn create(path: &Path, like: &Opened, text: &[u8]) -> io::Result<()> {
    let aside = aside(path)?;
    write(&aside, like, text)?;
    fs::rename(&aside, path)?;
    sync_folder(path)
}

/// The files that a crash has left aside in this folder, each with the name of the file that it was to replace, or has displaced.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn left_over(folder: &Path) -> io::Result<Vec<(PathBuf, OsString)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        let of = name.as_bytes().strip_prefix(BEFORE.as_bytes());
        let of = of.and_then(|name| name.strip_suffix(BEHIND.as_bytes()));
        if let Some(of) = of.filter(|of| !of.is_empty()) {
            found.push((file.path(), OsStr::from_bytes(of).to_owned()));
        }
    }
    Ok(found)
}

fn aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(BEFORE);
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(BEHIND);
    Ok(path.with_file_name(name))
}

/// Puts `text` in place of what was read. Returns what was displaced; `None`: somebody had written meanwhile.
fn replace(
    path: &Path,
    aside: &Path,
    limit: usize,
    read: Opened,
    text: &[u8],
) -> Result<Option<Opened>, ReadError> {
    let new = Side { file: write(aside, &read, text)?, bytes: text.to_vec() };
    let displaced = match swap(aside, path) {
        Ok(()) => {
            let displaced = displaced(path, aside, limit)?;
            if displaced.bytes != read.bytes {
                put_back(path, aside, limit, new, displaced)?;
                return Ok(None);
            }
            displaced
        }
        // File systems without it say so in these ways (renameat2(2)).
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if !rename_unless_written(path, aside, limit, &read)? {
                return Ok(None);
            }
            read
        }
        // The owner has taken the file away.
        Err(Errno::NOENT) => {
            discard(aside)?;
            return Ok(None);
        }
        Err(errno) => {
            discard(aside)?;
            return Err(io::Error::from(errno).into());
        }
    };
    discard(aside)?;
    sync_folder(path)?;
    Ok(Some(displaced))
}

/// Reads what was displaced. If that cannot be read it goes back, whatever it is: it is the owner's.
fn displaced(path: &Path, aside: &Path, limit: usize) -> Result<Opened, ReadError> {
    let read = Opened::read(aside, limit);
    if read.is_err() {
        swap(aside, path).map_err(io::Error::from)?;
        discard(aside)?;
    }
    read
}

/// Removes what is aside, if it is still there.
fn discard(aside: &Path) -> io::Result<()> {
    match fs::remove_file(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a new file aside, with mode and owner of another.
fn write(aside: &Path, like: &Opened, text: &[u8]) -> io::Result<File> {
    // A new file each time: what has been left there may be anything, a link too.
    discard(aside)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(aside, flags, Mode::from_raw_mode(0o600))?);
    let filled = fill(&file, like, text);
    if filled.is_err() {
        discard(aside)?;
    }
    filled.map(|()| file)
}

fn fill(mut file: &File, like: &Opened, text: &[u8]) -> io::Result<()> {
    let now = file.metadata()?;
    let (owner, group) = (like.metadata.uid(), like.metadata.gid());
    if (now.uid(), now.gid()) != (owner, group) {
        fchown(file.as_fd(), Some(Uid::from_raw(owner)), Some(Gid::from_raw(group)))?;
    }
    fchmod(file.as_fd(), Mode::from_raw_mode(like.metadata.mode() & 0o7777))?;
    file.write_all(text)?;
    file.sync_all()
}

fn swap(first: &Path, second: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE)
}

/// Renames where files cannot be exchanged, unless the file at `path` is another or has another text by now. What is written
/// between this look and the renaming is lost. Tells if it was renamed.
fn rename_unless_written(path: &Path, aside: &Path, limit: usize, read: &Opened) -> Result<bool, ReadError> {
    let is_read = match Opened::read(path, limit) {
        Ok(now) => is_one(&now.file, &read.file)? && now.bytes == read.bytes,
        Err(_) => false,
    };
    if is_read {
        fs::rename(aside, path)?;
    } else {
        discard(aside)?;
    }
    Ok(is_read)
}

/// A file that was put to one of the two names, and what it held then.
struct Side {
    file: File,
    bytes: Vec<u8>,
}

/// Puts `displaced`, the owner's newer text, back from `aside` to `path`, where `new` stands. If he has meanwhile written there
/// too, what comes out is newer still, and goes back in its turn.
fn put_back(path: &Path, aside: &Path, limit: usize, new: Side, displaced: Opened) -> Result<(), ReadError> {
    let (mut at_path, mut at_aside) = (new, Side { file: displaced.file, bytes: displaced.bytes });
    for _ in 0..ROUNDS {
        match swap(aside, path) {
            Ok(()) => {}
            // He has taken it away, which is the last that he has done.
            Err(Errno::NOENT) => break,
            // What is aside stays there, and is found by the next start.
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
        let out = self::displaced(path, aside, limit)?;
        if is_one(&out.file, &at_path.file)? && out.bytes == at_path.bytes {
            break;
        }
        (at_path, at_aside) = (at_aside, Side { file: out.file, bytes: out.bytes });
    }
    drop(at_aside);
    discard(aside)?;
    sync_folder(path)?;
    Ok(())
}

/// Tells if both are one file. Both are open, so that neither inode can be another's by now.
fn is_one(first: &File, second: &File) -> io::Result<bool> {
    let (first, second) = (first.metadata()?, second.metadata()?);
    Ok((first.dev(), first.ino()) == (second.dev(), second.ino()))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::unix::fs::PermissionsExt as _};

    use super::{super::testing::Folder, *};

    const LIMIT: usize = 1_000;

    fn with_dot(read: &[u8]) -> Option<Vec<u8>> {
        (!read.is_empty() && !read.ends_with(b".")).then(|| [read, b"."].concat())
    }

    fn rewritten(path: &Path) -> Rewritten {
        rewrite(path, LIMIT, with_dot).unwrap()
    }

    #[test]
    fn a_text_is_replaced_and_mode_and_owner_stay() {
        let folder = Folder::new("exchange");
        let path = folder.write("a.conf", "1");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(&path, Some(4_711), Some(4_712)).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        let Rewritten::Done { text, displaced } = rewritten(&path) else { panic!("it was to be changed") };
        assert_eq!((&*text, &*displaced.bytes), (&b"1."[..], &b"1"[..]));
        let after = fs::metadata(&path).unwrap();
        assert_eq!(folder.read("a.conf"), "1.");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert_eq!(is_root, after.uid() == 4_711);
        assert_ne!(after.ino(), before.ino());
        assert_eq!(displaced.metadata.ino(), before.ino());
        assert!(matches!(rewritten(&path), Rewritten::Stands));
        assert_eq!(fs::metadata(&path).unwrap().ino(), after.ino(), "nothing was written");
        assert_eq!(folder.names(), ["a.conf"]);
    }

    #[test]
    fn what_is_written_between_reading_and_replacing_is_the_text_that_counts() {
        type Write = fn(&Folder, &str);
        let by_rename: Write = |folder, text| {
            let new = folder.write("new", text);
            fs::rename(new, folder.join("a.conf")).unwrap();
        };
        let in_place: Write = |folder, text| drop(folder.write("a.conf", text));
        for write in [by_rename, in_place] {
            let folder = Folder::new("exchange");
            let path = folder.write("a.conf", "0");
            let count = Cell::new(0);
            let done = rewrite(&path, LIMIT, |read| {
                count.set(count.get() + 1);
                if count.get() < 5 {
                    write(&folder, &count.get().to_string());
                }
                with_dot(read)
            });
            assert!(matches!(done, Ok(Rewritten::Done { ref displaced, .. }) if displaced.bytes == b"4"));
            assert_eq!((folder.read("a.conf"), count.get()), ("4.".to_owned(), 5));
            assert_eq!(folder.names(), ["a.conf"]);
            let endless = rewrite(&path, LIMIT, |_| {
                count.set(count.get() + 1);
                write(&folder, &count.get().to_string());
                Some(b"new".to_vec())
            });
            assert!(matches!(endless, Ok(Rewritten::Busy)), "an owner without an end: {endless:?}");
            assert_eq!(folder.read("a.conf"), count.get().to_string());
            assert_eq!(folder.names(), ["a.conf"]);
        }
    }

    #[test]
    fn an_owner_in_the_middle_of_writing_keeps_his_file() {
        let folder = Folder::new("exchange");
        let path = folder.write("a.conf", "0");
        let owner = Cell::new(None);
        let done = rewrite(&path, LIMIT, |read| {
            if read == b"0" {
                let mut file = File::create(&path).unwrap();
                file.write_all(b"").unwrap();
                owner.set(Some(file));
            }
            with_dot(read)
        });
        assert!(matches!(done, Ok(Rewritten::Stands)), "an empty text cannot be changed: {done:?}");
        owner.take().unwrap().write_all(b"1").unwrap();
        assert_eq!(folder.read("a.conf"), "1");
        assert_eq!(folder.names(), ["a.conf"]);
    }

    #[test]
    fn a_file_that_its_owner_removes_meanwhile_stays_away() {
        let folder = Folder::new("exchange");
        let path = folder.write("a.conf", "0");
        let done = rewrite(&path, LIMIT, |read| {
            fs::remove_file(&path).unwrap();
            with_dot(read)
        });
        assert!(matches!(done, Ok(Rewritten::Busy)), "{done:?}");
        assert!(folder.names().is_empty());
    }

    #[test]
    fn what_cannot_be_read_once_it_is_displaced_goes_back() {
        let folder = Folder::new("exchange");
        let path = folder.write("a.conf", "0");
        let done = rewrite(&path, LIMIT, |read| {
            folder.write("a.conf", "x".repeat(LIMIT + 1));
            with_dot(read)
        });
        assert!(matches!(done, Err(ReadError::TooLong(LIMIT))), "{done:?}");
        assert_eq!(folder.read("a.conf").len(), LIMIT + 1);
        assert_eq!(folder.names(), ["a.conf"]);
    }

    #[test]
    fn of_several_texts_the_newest_is_put_back() {
        let side = |path: &Path| {
            let read = Opened::read(path, LIMIT).unwrap();
            Side { file: read.file, bytes: read.bytes }
        };
        type Owner = fn(&Folder);
        let nothing: Owner = |_| {};
        let renames: Owner = |folder| fs::rename(folder.write("b", "2"), folder.join("a.conf")).unwrap();
        let writes: Owner = |folder| drop(folder.write("a.conf", "2"));
        let removes: Owner = |folder| fs::remove_file(folder.join("a.conf")).unwrap();
        for (owner, expected) in
            [(nothing, Some("1")), (renames, Some("2")), (writes, Some("2")), (removes, None)]
        {
            let folder = Folder::new("exchange");
            let (path, aside) = (folder.write("a.conf", "new"), folder.write("aside", "1"));
            let (new, displaced) = (side(&path), Opened::read(&aside, LIMIT).unwrap());
            owner(&folder);
            put_back(&path, &aside, LIMIT, new, displaced).unwrap();
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), expected);
            assert!(!aside.exists());
        }
    }

    #[test]
    fn where_files_cannot_be_exchanged_one_that_was_written_is_left_alone() {
        let folder = Folder::new("exchange");
        let path = folder.write("a.conf", "0");
        let read = Opened::read(&path, LIMIT).unwrap();
        let aside = folder.write("aside", "new");
        folder.write("a.conf", "1");
        assert!(!rename_unless_written(&path, &aside, LIMIT, &read).unwrap());
        assert_eq!((folder.read("a.conf"), aside.exists()), ("1".to_owned(), false));
        folder.write("aside", "new");
        fs::rename(folder.write("b", "1"), &path).unwrap();
        assert!(!rename_unless_written(&path, &aside, LIMIT, &read).unwrap(), "another file");
        folder.write("aside", "new");
        let read = Opened::read(&path, LIMIT).unwrap();
        assert!(rename_unless_written(&path, &aside, LIMIT, &read).unwrap());
        assert_eq!(folder.read("a.conf"), "new");
        assert_eq!(folder.names(), ["a.conf"]);
    }
}
