//! The files of a hierarchy, and what goes wrong with them.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::mounts::MountsError;

/// The reason why there is no group, or why it is still there.
#[derive(Debug, thiserror::Error)]
pub(in crate::launch) enum GroupError {
    /// The table of mounts makes no sense.
    #[error("/proc/self/mountinfo: {0}")]
    Mounts(#[from] MountsError),
    /// Nothing is mounted in which a group could be made.
    #[error("/proc/self/mountinfo: no hierarchy of control groups is mounted as a whole")]
    NoHierarchy,
    /// A limit was asked for that no hierarchy has.
    #[error("limit of {controller}: no hierarchy that is mounted has this controller{}", Because(.because))]
    NoController {
        /// The controller that would keep to it.
        controller: &'static str,
        /// The error with which version 2 refused to turn it on, if it did.
        because: Option<Box<Self>>,
    },
    /// A limit has no effect.
    #[error("{}: the limit was not set: {found:?} in place of {text:?}", .path.display())]
    Unlimited {
        /// The file.
        path: PathBuf,
        /// The text that it should have.
        text: String,
        /// The text that it has.
        found: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A folder cannot be made.
    #[error("cannot make {}: {source}", .path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file does not take a text.
    #[error("cannot write \"{text}\" to {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The text.
        text: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A folder cannot be removed.
    #[error("cannot remove {}: {source}", .path.display())]
    Remove {
        /// The folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The end of an error's line that has another error.
struct Because<'a>(&'a Option<Box<GroupError>>);

impl std::fmt::Display for Because<'_> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |error| write!(to, ": {error}"))
    }
}

/// The text of a file.
///
/// # Errors
/// [`GroupError::Read`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, GroupError> {
    fs::read(path).map_err(|source| GroupError::Read { path: path.to_owned(), source })
}

/// Makes a folder that everybody may read, and tells if it was not there.
///
/// # Errors
/// [`GroupError::Make`].
pub(super) fn make(path: &Path) -> Result<bool, GroupError> {
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => Ok(true),
        Err(_) if path.is_dir() => Ok(false),
        Err(source) => Err(GroupError::Make { path: path.to_owned(), source }),
    }
}

/// Writes `text` to a file of the kernel, in one piece. A file that is not there is not made.
///
/// # Errors
/// [`GroupError::Write`].
pub(super) fn write(path: &Path, text: &str) -> Result<(), GroupError> {
    let written =
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| GroupError::Write { path: path.to_owned(), text: text.to_owned(), source })
}

/// Checks that a file of the kernel, which has a limit, has `text` or another one than those that mean that there is none: systemd
/// and the kernel round limits.
///
/// # Errors
/// [`GroupError::Unlimited`], or it cannot be read.
pub(super) fn check(path: &Path, text: &str) -> Result<(), GroupError> {
    let found = String::from_utf8_lossy(&read(path)?).trim_end().to_owned();
    // In this order: version 2, `cpu` of version 1, and `memory` of version 1 (PAGE_COUNTER_MAX pages of 4 KiB).
    let is_none = |found: &str| found.starts_with("max") || found == "-1" || found == "9223372036854771712";
    if found != text && is_none(&found) {
        return Err(GroupError::Unlimited { path: path.to_owned(), text: text.to_owned(), found });
    }
    Ok(())
}

/// The file of a group that lists its processes, and takes those that move into it.
const PROCESSES: &str = "cgroup.procs";

/// Moves this process into the group whose folder is `group`. It is written as 0, which means the writer in whatever namespace of
/// processes it is (cgroup_procs_write_start, kernel/cgroup/cgroup.c).
///
/// # Errors
/// [`GroupError::Write`].
pub(super) fn join(group: &Path) -> Result<(), GroupError> {
    write(&group.join(PROCESSES), "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_not_set_is_told_from_one_that_was_rounded() {
        let path = std::env::temp_dir().join(format!("tencrypt-node-limit-{}", std::process::id()));
        let checked = |found: &str, text: &str| {
            fs::write(&path, found).unwrap();
            check(&path, text).map_err(|error| error.to_string())
        };
        for (found, text) in
            [("32\n", "32"), ("51000 100000\n", "50500 100000"), ("max\n", "max"), ("0\n", "0")]
        {
            assert_eq!(checked(found, text), Ok(()), "{found}");
        }
        for (found, text) in [
            ("max\n", "4294967295"),
            ("max 100000\n", "50000 100000"),
            ("-1\n", "50000"),
            ("9223372036854771712\n", "67108864"),
        ] {
            let said = checked(found, text).unwrap_err();
            assert!(said.contains("the limit was not set: \"") && said.contains(text), "{said}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(check(&path, "1"), Err(GroupError::Read { .. })));
    }
}
