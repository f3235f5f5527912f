//! The hierarchy of version 2 (Documentation/admin-guide/cgroup-v2.rst).

use std::{io, path::Path};

use crate::launch::group::{CPU_PERIOD, Group, Limits};

use super::files::{GroupError, check, make, read, write};

/// The controllers that a pod's group has if there are any.
const WANTED: [&str; 3] = ["memory", "cpu", "pids"];

/// The file that lists what a group may pass on to the groups in it.
const AVAILABLE: &str = "cgroup.controllers";

/// The file that lists what a group passes on, and takes what it is to pass on.
const PASSED_ON: &str = "cgroup.subtree_control";

/// The group of a pod, with the controllers that it has.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The controllers.
    pub(super) controllers: Vec<&'static str>,
    /// The errors with which the kernel refused others, each with the controller.
    pub(super) refused: Vec<(&'static str, GroupError)>,
}

/// Makes the groups of `group` in the hierarchy at `root`, with the controllers that there are, and calls `made` with each folder that
/// was not there before.
///
/// Groups at the root that systemd has not made are against its rules (CGROUP_DELEGATION.md); it leaves them alone, and cannot take a
/// controller away that a group in them passes on (cgroup_subtree_control_write, kernel/cgroup/cgroup.c).
///
/// # Errors
/// A folder cannot be made, or a file read. A controller that is refused is none: that is said in what is returned.
pub(super) fn prepare(
    root: &Path,
    group: &Group,
    mut made: impl FnMut(&Path),
) -> Result<Prepared, GroupError> {
    let (base, pod) = (group.base(root), group.pod(root));
    let mut refused = Vec::new();
    pass_on(root, &mut refused)?;
    for folder in [&base, &pod] {
        if make(folder)? {
            made(folder);
        }
        if *folder == base {
            pass_on(&base, &mut refused)?;
        }
    }
    Ok(Prepared { controllers: listed(&pod.join(AVAILABLE))?, refused })
}

/// Makes the group at `folder` pass on what it has of the controllers that are wanted.
fn pass_on(folder: &Path, refused: &mut Vec<(&'static str, GroupError)>) -> Result<(), GroupError> {
    let file = folder.join(PASSED_ON);
    let already = listed(&file)?;
    for controller in listed(&folder.join(AVAILABLE))? {
        // One after the other: of several in one text all are refused with the one.
        if !already.contains(&controller)
            && let Err(error) = write(&file, &format!("+{controller}"))
        {
            refused.push((controller, error));
        }
    }
    Ok(())
}

/// Those of the wanted controllers that a file lists.
fn listed(file: &Path) -> Result<Vec<&'static str>, GroupError> {
    let text = read(file)?;
    let text = String::from_utf8_lossy(&text);
    let is_listed = |wanted: &&str| text.split_ascii_whitespace().any(|controller| controller == *wanted);
    Ok(WANTED.into_iter().filter(is_listed).collect())
}

/// Sets those of the limits whose controllers the group at `folder` has.
///
/// # Errors
/// The kernel does not take one.
pub(super) fn set_limits(folder: &Path, controllers: &[&str], limits: &Limits) -> Result<(), GroupError> {
    for (controller, file, text) in texts(limits) {
        if controllers.contains(&controller) {
            match write(&folder.join(file), &text) {
                // A kernel without swap, or one that does not account it, has no such file.
                Err(GroupError::Write { source, .. })
                    if file == SWAP && source.kind() == io::ErrorKind::NotFound => {}
                written => written?,
            }
        }
    }
    Ok(())
}

/// The controllers of the group at `folder`, whose limits are checked to be set.
///
/// # Errors
/// One is not, or cannot be read.
pub(super) fn check_limits(folder: &Path, limits: &Limits) -> Result<Vec<&'static str>, GroupError> {
    let controllers = listed(&folder.join(AVAILABLE))?;
    for (controller, file, text) in texts(limits) {
        if controllers.contains(&controller) && file != SWAP {
            check(&folder.join(file), &text)?;
        }
    }
    Ok(controllers)
}

/// The file with the most swap.
const SWAP: &str = "memory.swap.max";

/// The controller, file and text of each limit.
fn texts(limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut texts = Vec::new();
    if let Some(bytes) = limits.memory {
        texts.push(("memory", "memory.max", bytes.to_string()));
        texts.push(("memory", SWAP, "0".to_owned()));
    }
    if let Some(quota) = limits.cpu_quota() {
        texts.push(("cpu", "cpu.max", format!("{quota} {CPU_PERIOD}")));
    }
    if let Some(count) = limits.pids {
        texts.push(("pids", "pids.max", count.to_string()));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_version_2_has_them() {
        let all = Limits { memory: Some(64 << 20), cpu: Some(500), pids: Some(32) };
        let expected = [
            ("memory", "memory.max", "67108864"),
            ("memory", "memory.swap.max", "0"),
            ("cpu", "cpu.max", "50000 100000"),
            ("pids", "pids.max", "32"),
        ];
        assert_eq!(texts(&all), expected.map(|(controller, file, text)| (controller, file, text.to_owned())));
        assert_eq!(texts(&Limits::default()), []);
    }
}
