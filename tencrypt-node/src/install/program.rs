//! A program's file on the node.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{self, BufReader, Read},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::file::{self, sync_folder};

/// Everybody may read and start it, only its owner may change it.
const MODE: u32 = 0o755;

/// The end of the name of a file that is not whole yet. libcni starts no program of such a name: it begins with a dot, and no
/// network configuration has its name as a type.
const UNFINISHED: &str = ".tencrypt-new";

/// The reason why a program is not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// The name or the version is none.
    #[error("`{0}` is no name of a program with its version")]
    Name(String),
    /// The source is no regular file.
    #[error("{}: no regular file", .0.display())]
    Kind(PathBuf),
    /// The kernel's answer.
    #[error("{}: {reason}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The answer.
        reason: io::Error,
    },
}

/// Copies the program at `source` to `folder/NAME-VERSION`, mode 0755, and returns that path. If the same program stands there,
/// nothing is written. Whoever reads the path finds the whole program or what was there before, after a crash too; a program that
/// runs goes on with the file that it was started from. What earlier crashes have left of any version is removed: one caller at a
/// time.
///
/// # Errors
/// See [`ProgramError`]. What stood at the path stays there.
pub(crate) fn install(
    source: &Path,
    folder: &Path,
    name: &str,
    version: &str,
) -> Result<PathBuf, ProgramError> {
    let file = format!("{name}-{version}");
    if !is_word(name) || !is_word(version) || file.len() + UNFINISHED.len() >= NAME_MAX {
        return Err(ProgramError::Name(file));
    }
    let path = folder.join(&file);
    let program = open(source)?;
    remove_unfinished(folder, name).map_err(|reason| ProgramError::Io { path: folder.into(), reason })?;
    let failed = |reason| ProgramError::Io { path: path.clone(), reason };
    if is_there(&program, &path).map_err(failed)? {
        return Ok(path);
    }
    let new = folder.join(format!(".{file}{UNFINISHED}"));
    let written = write(program, &new, &path);
    if written.is_err() {
        // It may be gone already, or was never there.
        let _ = fs::remove_file(&new);
    }
    written.map_err(failed)?;
    Ok(path)
}

/// Longest name of a file in bytes (include/uapi/linux/limits.h).
const NAME_MAX: usize = 255;

/// Tells if `word` can be a part of a file's name anywhere: a letter or digit of ASCII, then these and `.+_-`.
fn is_word(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphanumeric())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+_-".contains(&byte))
}

/// Opens a regular file.
fn open(source: &Path) -> Result<File, ProgramError> {
    let failed = |reason: io::Error| ProgramError::Io { path: source.into(), reason };
    let file = file::open(source, OFlags::empty()).map_err(failed)?;
    let is_file = file.metadata().map_err(failed)?.is_file();
    if is_file { Ok(file) } else { Err(ProgramError::Kind(source.into())) }
}

/// Tells if the program stands at `path` already, and sees to its mode then. A link there is none.
fn is_there(program: &File, path: &Path) -> io::Result<bool> {
    let Ok(there) = file::open(path, OFlags::NOFOLLOW) else { return Ok(false) };
    let metadata = there.metadata()?;
    if !metadata.is_file() || metadata.len() != program.metadata()?.len() {
        return Ok(false);
    }
    if !is_same(program, &there)? {
        return Ok(false);
    }
    if metadata.permissions().mode() & 0o7777 != MODE {
        there.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(true)
}

/// Compares two files, and leaves both at their beginning.
fn is_same(mut first: &File, mut second: &File) -> io::Result<bool> {
    use std::io::Seek as _;
    let same = {
        let (mut first, mut second) = (BufReader::new(first), BufReader::new(second));
        let (mut left, mut right) = ([0; 4_096], [0; 4_096]);
        loop {
            let count = first.read(&mut left)?;
            if count == 0 {
                break second.read(&mut right)? == 0;
            }
            // One that ends before the other is another.
            match second.read_exact(&mut right[..count]) {
                Ok(()) if left[..count] == right[..count] => {}
                Ok(()) => break false,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break false,
                Err(error) => return Err(error),
            }
        }
    };
    first.rewind()?;
    second.rewind()?;
    Ok(same)
}

fn write(mut program: File, new: &Path, path: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(new, flags, Mode::from_raw_mode(0o700))?);
    io::copy(&mut program, &mut file)?;
    // Whatever the umask has taken away.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.sync_all()?;
    // A program cannot be started while somebody may write to its file (ETXTBSY, execve(2)).
    drop(file);
    fs::rename(new, path)?;
    sync_folder(path)
}

/// Removes what was being written of any version of the program.
fn remove_unfinished(folder: &Path, name: &str) -> io::Result<()> {
    let start = format!(".{name}-");
    let is_unfinished = |file: &OsStr| {
        file.as_bytes().starts_with(start.as_bytes()) && file.as_bytes().ends_with(UNFINISHED.as_bytes())
    };
    for file in fs::read_dir(folder)? {
        let file = file?;
        if is_unfinished(&file.file_name()) {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, process::Command};

    use super::{super::testing::Folder, *};

    const NAME: &str = "tencrypt-cni";

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_program_is_copied_once_and_stays_while_it_is_the_same() {
        let folder = Folder::new("program");
        fs::create_dir(folder.join("bin")).unwrap();
        let source = folder.write("source", vec![7; 100_001]);
        let install = |version| install(&source, &folder.join("bin"), NAME, version).unwrap();
        let path = install("0.1.0");
        assert_eq!(path, folder.join("bin/tencrypt-cni-0.1.0"));
        assert_eq!((fs::read(&path).unwrap().len(), mode(&path)), (100_001, 0o755));
        let first = fs::metadata(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        install("0.1.0");
        let second = fs::metadata(&path).unwrap();
        assert_eq!((first.ino(), first.mtime_nsec()), (second.ino(), second.mtime_nsec()), "not written");
        assert_eq!(mode(&path), 0o755, "its mode is");
        install("0.2.0-rc.1+b_1");
        let mut names: Vec<_> =
            fs::read_dir(folder.join("bin")).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["tencrypt-cni-0.1.0", "tencrypt-cni-0.2.0-rc.1+b_1"]);
    }

    #[test]
    fn a_program_that_runs_goes_on_when_another_takes_its_place() {
        let folder = Folder::new("program");
        let path = install(Path::new("/bin/sleep"), folder.path(), NAME, "1").unwrap();
        let mut running = Command::new(&path).arg("600").spawn().unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        for content in ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nexit 4\n"] {
            let source = folder.write("source", content);
            assert_eq!(install(&source, folder.path(), NAME, "1").unwrap(), path);
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        assert_eq!(running.try_wait().unwrap(), None, "it runs");
        assert_eq!(fs::metadata(format!("/proc/{}/exe", running.id())).unwrap().ino(), before);
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(Command::new(&path).status().unwrap().code(), Some(4), "and so does the new one");
    }

    #[test]
    fn what_a_crash_has_left_is_removed_and_others_files_are_not() {
        let folder = Folder::new("program");
        let source = folder.write("source", "new");
        for name in [".tencrypt-cni-0.1.0.tencrypt-new", ".tencrypt-cni-0.0.9.tencrypt-new"] {
            folder.write(name, "ha");
        }
        let others = ["bridge", ".bridge-1.tencrypt-new", "tencrypt-cni-0.0.9", ".tencrypt-cni-0.1.0"];
        for name in others {
            folder.write(name, "other");
        }
        install(&source, folder.path(), NAME, "0.1.0").unwrap();
        let mut expected = [&others[..], &["source", "tencrypt-cni-0.1.0"]].concat();
        expected.sort_unstable();
        assert_eq!(folder.names(), expected);
    }

    #[test]
    fn a_link_at_the_path_is_replaced_and_not_followed() {
        let folder = Folder::new("program");
        let (source, other) = (folder.write("source", "same"), folder.write("other", "same"));
        std::os::unix::fs::symlink(&other, folder.join("tencrypt-cni-1")).unwrap();
        let path = install(&source, folder.path(), NAME, "1").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(folder.read("other"), "same");
    }

    #[test]
    fn what_is_no_program_is_refused_and_nothing_is_left() {
        let folder = Folder::new("program");
        let source = folder.write("source", "a");
        let said = |source: &Path, folder: &Path, name: &str, version: &str| {
            install(source, folder, name, version).unwrap_err().to_string()
        };
        let pipe = folder.join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
        for no_file in [folder.path(), &pipe] {
            assert!(said(no_file, folder.path(), NAME, "1").ends_with("no regular file"));
        }
        assert!(said(&folder.join("absent"), folder.path(), NAME, "1").contains("absent: No such file"));
        assert!(said(&source, &folder.join("absent"), NAME, "1").contains("absent: No such file"));
        let long = "1".repeat(250);
        for (name, version) in
            [("", "1"), (NAME, ""), ("../a", "1"), (NAME, "1/2"), (".a", "1"), (NAME, "-"), (NAME, &long)]
        {
            assert!(said(&source, folder.path(), name, version).contains("no name"), "{name} {version}");
        }
        fs::create_dir(folder.join("tencrypt-cni-1")).unwrap();
        assert!(said(&source, folder.path(), NAME, "1").contains("tencrypt-cni-1: Is a directory"));
        assert_eq!(folder.names(), ["pipe", "source", "tencrypt-cni-1"]);
    }
}
