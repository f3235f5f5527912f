//! Hierarchies of control groups among the mounts of a process.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf};

/// A hierarchy of control groups that is mounted as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hierarchy {
    /// Its root.
    pub(super) folder: PathBuf,
    /// Its version, and what it accounts.
    pub(super) kind: Kind,
}

/// The version of a hierarchy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Version 1.
    V1 {
        /// Its controllers, and its name as `name=NAME` if it has one. Words that are neither may be among them.
        controllers: Vec<String>,
    },
    /// Version 2, of which a machine has one. Files in it say what it accounts.
    V2,
}

/// The reason why a text is no table of mounts.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} has no {field}")]
pub(in crate::launch) struct MountsError {
    /// The line, counted from 1.
    line: usize,
    /// The field that is missing.
    field: &'static str,
}

/// The hierarchies in `mountinfo`, the text of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)), in its order.
///
/// A hierarchy that is mounted at several places is taken once, at the first. A mount that shows a part of its hierarchy counts for
/// nothing: that a container of version 1 sees of itself alone, and one in a namespace of groups of its own of the groups outside.
///
/// # Errors
/// A line has too few fields.
pub(super) fn hierarchies(mountinfo: &[u8]) -> Result<Vec<Hierarchy>, MountsError> {
    let mut found: Vec<(&[u8], Hierarchy)> = Vec::new();
    let lines = mountinfo.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    for (number, line) in lines {
        let missing = |field| MountsError { line: number + 1, field };
        let mut fields = line.split(|&byte| byte == b' ');
        // The first two are the numbers of the mount and of its parent.
        let device = fields.nth(2).ok_or(missing("device"))?;
        let root = fields.next().ok_or(missing("root"))?;
        let folder = fields.next().ok_or(missing("mount point"))?;
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = fields.next().ok_or(missing("type"))?;
        let options = fields.nth(1).ok_or(missing("options of the file system"))?;
        let kind = match kind {
            b"cgroup2" => Kind::V2,
            b"cgroup" => Kind::V1 {
                controllers: options
                    .split(|&byte| byte == b',')
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect(),
            },
            _ => continue,
        };
        if root == b"/" && found.iter().all(|(other, _)| *other != device) {
            found.push((device, Hierarchy { folder: unescaped(folder), kind }));
        }
    }
    Ok(found.into_iter().map(|(_, hierarchy)| hierarchy).collect())
}

/// The path that a field stands for: space, tab, line feed and backslash are written as `\` and three octal digits there (mangle_path,
/// fs/seq_file.c).
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                path.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => path.push(*first),
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mountinfo: &str) -> Vec<(String, String)> {
        let words = |kind| match kind {
            Kind::V1 { controllers } => controllers.join(","),
            Kind::V2 => "2".to_owned(),
        };
        let one = |it: Hierarchy| (it.folder.to_str().unwrap().to_owned(), words(it.kind));
        hierarchies(mountinfo.as_bytes()).unwrap().into_iter().map(one).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(folder, words)| ((*folder).to_owned(), (*words).to_owned())).collect()
    }

    /// Debian 12 with systemd, version 2 alone.
    const SECOND: &str = "\
22 28 0:20 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
25 28 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
26 22 0:6 / /sys/kernel/security rw,nosuid,nodev,noexec,relatime shared:8 - securityfs securityfs rw
29 22 0:25 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

    /// RHEL 8 with systemd, version 1, and a hierarchy without controllers for systemd.
    const FIRST: &str = "\
23 97 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:2 - sysfs sysfs rw
28 23 0:25 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:4 - tmpfs tmpfs ro,mode=755
29 28 0:26 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:5 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
34 28 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,cpu,cpuacct
36 28 0:32 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:13 - cgroup cgroup rw,memory
";

    /// This machine's kind: version 1, and version 2 without these controllers beside it.
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    /// A container of version 1, in the namespace of groups of its node.
    const CONTAINER: &str = "\
1013 1012 0:29 /kubepods/burstable/pod4b1e/7f /sys/fs/cgroup/systemd ro,nosuid,nodev,noexec,relatime master:11 - cgroup cgroup rw,xattr,name=systemd
1014 1012 0:32 /kubepods/burstable/pod4b1e/7f /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:15 - cgroup cgroup rw,memory
";

    #[test]
    fn version_2_alone_is_found() {
        assert_eq!(found(SECOND), pairs(&[("/sys/fs/cgroup", "2")]));
    }

    #[test]
    fn version_1_is_found_with_its_controllers_and_names() {
        let systemd = "rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd";
        assert_eq!(
            found(FIRST),
            pairs(&[
                ("/sys/fs/cgroup/systemd", systemd),
                ("/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
                ("/sys/fs/cgroup/memory", "rw,memory"),
            ])
        );
    }

    #[test]
    fn both_versions_are_found_beside_each_other() {
        assert_eq!(
            found(HYBRID),
            pairs(&[
                ("/sys/fs/cgroup/cpu", "rw,cpu"),
                ("/sys/fs/cgroup/memory", "rw,memory"),
                ("/sys/fs/cgroup/systemd", "rw,name=systemd"),
                ("/sys/fs/cgroup/unified", "2"),
            ])
        );
    }

    #[test]
    fn a_mount_of_a_part_of_a_hierarchy_is_none() {
        assert_eq!(found(CONTAINER), pairs(&[]));
        let outside = "9 8 0:25 /../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup rw\n9 8 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(found(outside), pairs(&[("/sys/fs/cgroup", "2")]));
    }

    #[test]
    fn a_hierarchy_that_is_mounted_twice_counts_once() {
        let again = format!("{SECOND}90 25 0:25 / /mnt/c rw,relatime shared:9 - cgroup2 cgroup2 rw\n");
        assert_eq!(found(&again), pairs(&[("/sys/fs/cgroup", "2")]));
    }

    #[test]
    fn paths_are_unescaped() {
        let line = r"9 8 0:25 / /mnt/a\040b\134c\011d\0 rw master:1 propagate_from:2 - cgroup2 cgroup2 rw";
        assert_eq!(found(line), pairs(&[("/mnt/a b\\c\td\\0", "2")]));
    }

    #[test]
    fn a_line_that_ends_early_is_refused_with_its_number() {
        for (line, field) in [
            ("29 22", "device"),
            ("29 22 0:25", "root"),
            ("29 22 0:25 /", "mount point"),
            ("29 22 0:25 / /sys/fs/cgroup rw shared:9", "type"),
            ("29 22 0:25 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2", "options of the file system"),
        ] {
            let text = format!("{SECOND}{line}");
            assert_eq!(hierarchies(text.as_bytes()), Err(MountsError { line: 5, field }), "{line}");
        }
    }
}
