//! Hierarchies of version 1 (Documentation/admin-guide/cgroup-v1).

use std::path::Path;

use crate::launch::group::{CPU_PERIOD, Limits};

use super::files::{GroupError, check, write};

/// The controllers and names that give a pod a group of its own in a hierarchy: what limits or accounts it, the freezer, and the hierarchy by which
/// systemd knows what belongs to which unit.
const OWN: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "name=systemd"];

/// Tells if a pod has a group of its own in a hierarchy with these controllers. In all others its process goes to the root: kubelet
/// kills what it finds below a pod's group in any hierarchy (tryKillingCgroupProcesses, pkg/kubelet/cm), and runc what is in its
/// container's group of `devices`. A new group of `cpuset` would take no process before it has processors (cpusets.rst, 1.6).
pub(super) fn is_own(controllers: &[String]) -> bool {
    controllers.iter().any(|controller| OWN.contains(&controller.as_str()))
}

/// The controllers and the name by which systemd makes groups (CGroupController and CGROUP_MASK_V1, src/basic/cgroup-util.h).
const SYSTEMDS: [&str; 7] = ["cpu", "cpuacct", "blkio", "memory", "devices", "pids", "name=systemd"];

/// Tells if systemd moves a unit's processes in a hierarchy with these controllers.
pub(super) fn is_systemds(controllers: &[String]) -> bool {
    controllers.iter().any(|controller| SYSTEMDS.contains(&controller.as_str()))
}

/// The words of `controllers` that people know a hierarchy by.
pub(super) fn names(controllers: &[String]) -> Vec<&str> {
    controllers.iter().map(String::as_str).filter(|word| OWN.contains(word)).collect()
}

/// Sets those of the limits that a hierarchy with these controllers keeps to, in the group whose folder is `group`.
///
/// # Errors
/// The kernel does not take one.
pub(super) fn set_limits(group: &Path, controllers: &[String], limits: &Limits) -> Result<(), GroupError> {
    for (controller, file, text) in texts(limits) {
        if controllers.iter().any(|own| own == controller) {
            write(&group.join(file), &text)?;
        }
    }
    Ok(())
}

/// Checks that those of the limits that a hierarchy with these controllers keeps to are set in the group whose folder is `group`.
///
/// # Errors
/// One is not, or cannot be read.
pub(super) fn check_limits(group: &Path, controllers: &[String], limits: &Limits) -> Result<(), GroupError> {
    for (controller, file, text) in texts(limits) {
        if controllers.iter().any(|own| own == controller) {
            check(&group.join(file), &text)?;
        }
    }
    Ok(())
}

/// The controller, file and text of each limit, in the order in which the kernel takes them (memory.rst 4, sched-bwc.rst, pids.rst).
fn texts(limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut texts = Vec::new();
    if let Some(bytes) = limits.memory {
        texts.push(("memory", "memory.limit_in_bytes", bytes.to_string()));
    }
    if let Some(quota) = limits.cpu_quota() {
        texts.push(("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string()));
        texts.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
    }
    if let Some(count) = limits.pids {
        texts.push(("pids", "pids.max", count.to_string()));
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn a_pod_has_its_own_group_where_it_is_accounted_and_where_systemd_looks() {
        for text in ["rw,memory", "rw,cpu,cpuacct", "rw,pids", "rw,freezer", "rw,xattr,name=systemd"] {
            assert!(is_own(&words(text)), "{text}");
        }
        for text in ["rw,cpuset", "rw,devices", "rw,net_cls,net_prio", "rw,blkio", "rw,name=elogind"] {
            assert!(!is_own(&words(text)), "{text}");
        }
        assert_eq!(names(&words("rw,xattr,cpu,cpuacct")), ["cpu", "cpuacct"]);
    }

    #[test]
    fn systemd_moves_what_it_accounts_and_nothing_else() {
        for text in
            ["rw,memory", "rw,cpu,cpuacct", "rw,pids", "rw,devices", "rw,blkio", "rw,xattr,name=systemd"]
        {
            assert!(is_systemds(&words(text)), "{text}");
        }
        for text in ["rw,cpuset", "rw,freezer", "rw,net_cls,net_prio", "rw,perf_event", "rw,name=elogind"] {
            assert!(!is_systemds(&words(text)), "{text}");
        }
    }

    #[test]
    fn limits_are_written_as_version_1_has_them() {
        let all = Limits { memory: Some(64 << 20), cpu: Some(500), pids: Some(32) };
        let expected = [
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("cpu", "cpu.cfs_period_us", "100000"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("pids", "pids.max", "32"),
        ];
        assert_eq!(texts(&all), expected.map(|(controller, file, text)| (controller, file, text.to_owned())));
        assert_eq!(texts(&Limits::default()), []);
    }
}
