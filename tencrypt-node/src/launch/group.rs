//! The name of a pod's control group, and its limits.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Bytes that a part of a group's name may have: NAME_MAX of limits.h is 255, and `cgroup.` and the like need none of it.
const LONGEST: usize = 128;

/// The name of a pod's control group: a folder for all pods of an agent, and one for the pod in it.
///
/// As text it is `BASE/POD`. Both are 1 to 128 letters, digits, `-` and `_` of ASCII, and the first is a letter or a digit. So neither
/// can leave its folder, nor be one of the kernel's files there: these have a dot, or stand beside no folder that is made here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Group {
    base: String,
    pod: String,
}

/// The limits of a pod's control group. What is `None` is not touched: a new group has no limit then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Limits {
    /// The most memory, in bytes, and no swap with it where the hierarchy is of version 2. The kernel rounds it to pages.
    pub(crate) memory: Option<u64>,
    /// The most processor time, in thousandths of a core: from 10 on, for the kernel takes no quota under a millisecond of a period of
    /// 100 (min_cfs_quota_period, kernel/sched/core.c).
    pub(crate) cpu: Option<u32>,
    /// The most processes and threads.
    pub(crate) pids: Option<u32>,
}

/// The period over which processor time is counted, in microseconds: the kernel's default (Documentation/scheduler/sched-bwc.rst).
pub(crate) const CPU_PERIOD: u64 = 100_000;

/// The reason why a text names no group.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum GroupNameError {
    /// There is not exactly one slash.
    #[error("group: no text of the form BASE/POD")]
    Form,
    /// A part has another length.
    #[error("group: each part has 1 to 128 characters")]
    Length,
    /// A part has another character.
    #[error("group: the parts have letters, digits, - and _ alone, and begin with a letter or a digit")]
    Character,
}

impl Group {
    /// The group of `pod` below `base`.
    ///
    /// # Errors
    /// One of them is no such name.
    pub(crate) fn new(base: &str, pod: &str) -> Result<Self, GroupNameError> {
        for part in [base, pod] {
            if part.is_empty() || part.len() > LONGEST {
                return Err(GroupNameError::Length);
            }
            let may_follow = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if !part.bytes().all(may_follow) || !part.starts_with(|first: char| first.is_ascii_alphanumeric())
            {
                return Err(GroupNameError::Character);
            }
        }
        Ok(Self { base: base.to_owned(), pod: pod.to_owned() })
    }

    /// The name of the folder of all pods.
    pub(crate) fn base_name(&self) -> &str {
        &self.base
    }

    /// The name of the pod's folder in it.
    pub(crate) fn pod_name(&self) -> &str {
        &self.pod
    }

    /// The folder of all pods in the hierarchy at `root`.
    pub(crate) fn base(&self, root: &Path) -> PathBuf {
        root.join(&self.base)
    }

    /// The folder of the pod in the hierarchy at `root`.
    pub(crate) fn pod(&self, root: &Path) -> PathBuf {
        self.base(root).join(&self.pod)
    }
}

impl FromStr for Group {
    type Err = GroupNameError;

    fn from_str(text: &str) -> Result<Self, GroupNameError> {
        let (base, pod) = text.split_once('/').ok_or(GroupNameError::Form)?;
        if pod.contains('/') { Err(GroupNameError::Form) } else { Self::new(base, pod) }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}", self.base, self.pod)
    }
}

impl Limits {
    /// The processor time of a period, in microseconds.
    pub(crate) fn cpu_quota(&self) -> Option<u64> {
        self.cpu.map(|thousandths| u64::from(thousandths) * CPU_PERIOD / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_parts_and_is_written_as_it_was_read() {
        let group: Group = "tencrypt/4-4026532211".parse().unwrap();
        assert_eq!(group, Group::new("tencrypt", "4-4026532211").unwrap());
        assert_eq!(group.to_string(), "tencrypt/4-4026532211");
        assert_eq!(group.pod(Path::new("/sys/fs/cgroup")), Path::new("/sys/fs/cgroup/tencrypt/4-4026532211"));
        assert!(Group::new(&"b".repeat(128), &"p".repeat(128)).is_ok());
    }

    #[test]
    fn a_name_cannot_leave_its_folder_or_be_an_interface_file() {
        for text in ["", "tencrypt", "a/b/c", "a//b"] {
            assert_eq!(text.parse::<Group>(), Err(GroupNameError::Form), "{text}");
        }
        for text in ["/a", "a/", "/"] {
            assert_eq!(text.parse::<Group>(), Err(GroupNameError::Length), "{text}");
        }
        for text in ["a/..", "../a", "./a", "a/memory.max", "a/-b", "_/a", "a/b c", "a/b\n", "a/ä"] {
            assert_eq!(text.parse::<Group>(), Err(GroupNameError::Character), "{text}");
        }
        assert_eq!(Group::new("a", &"p".repeat(129)), Err(GroupNameError::Length));
    }

    #[test]
    fn processor_time_is_given_in_thousandths_of_a_core() {
        let quota = |cpu| Limits { cpu: Some(cpu), ..Limits::default() }.cpu_quota();
        assert_eq!(quota(10), Some(1_000));
        assert_eq!(quota(1_500), Some(150_000));
        assert_eq!(quota(u32::MAX), Some(429_496_729_500));
        assert_eq!(Limits::default().cpu_quota(), None);
    }
}
