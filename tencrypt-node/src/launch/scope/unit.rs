//! The names of a pod's units, and their limits as systemd has them.

use std::fmt;

use crate::launch::group::{Group, Limits};

use super::marshal::Value;

/// The most bytes of a unit's name (UNIT_NAME_MAX, src/basic/unit-name.h).
const LONGEST: usize = 255;

/// The names of a pod's units: those of the group `BASE/POD` are `BASE.slice` and `BASE-POD.scope`.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::launch) struct Unit {
    /// The slice of all pods.
    pub(super) slice: String,
    /// The scope of the pod.
    pub(super) scope: String,
    /// The pod, for people.
    pub(super) pod: String,
}

/// The reason why there is no unit for a group.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("group {0}: too long for the name of a unit")]
pub(in crate::launch) struct UnitNameError(String);

impl Unit {
    /// The units of a group.
    ///
    /// # Errors
    /// Their names are too long.
    pub(super) fn of(group: &Group) -> Result<Self, UnitNameError> {
        // A dash in a slice's name stands for another slice around it (systemd.slice(5)), and the first one of the scope's has to end the
        // slice's. It is written as systemd-escape(1) does.
        let base = group.base_name().replace('-', "\\x2d");
        let pod = group.pod_name();
        let (slice, scope) = (format!("{base}.slice"), format!("{base}-{pod}.scope"));
        if scope.len() > LONGEST {
            return Err(UnitNameError(group.to_string()));
        }
        Ok(Self { slice, scope, pod: pod.to_owned() })
    }

    /// Tells if the process whose `/proc/PID/cgroup` this is, is in the scope: in the hierarchies in which systemd keeps its units, that
    /// of version 2 and `name=systemd`.
    pub(super) fn is_in(&self, groups: &str) -> bool {
        groups.lines().any(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next(), parts.next().unwrap_or_default());
            matches!(controllers, Some("" | "name=systemd")) && path.rsplit('/').next() == Some(&self.scope)
        })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}", self.slice, self.scope)
    }
}

/// Microseconds of a second in a hundredth of a core: systemd keeps processor time in whole ones when it reads its units anew
/// (`CPUQuota`, bus_cgroup_set_property, src/core/dbus-cgroup.c).
const HUNDREDTH: u64 = 10_000;

/// The limits as properties of a scope. Processor time is rounded up to hundredths of a core, as runc does.
pub(super) fn properties(limits: &Limits) -> Vec<(&'static str, Value<'static>)> {
    let mut properties = Vec::new();
    if let Some(bytes) = limits.memory {
        properties.push(("MemoryMax", Value::Number(bytes)));
        properties.push(("MemorySwapMax", Value::Number(0)));
    }
    if let Some(thousandths) = limits.cpu {
        let microseconds = u64::from(thousandths) * 1_000;
        let rounded = microseconds.next_multiple_of(HUNDREDTH);
        properties.push(("CPUQuotaPerSecUSec", Value::Number(rounded)));
    }
    if let Some(count) = limits.pids {
        properties.push(("TasksMax", Value::Number(count.into())));
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(base: &str, pod: &str) -> Unit {
        Unit::of(&Group::new(base, pod).unwrap()).unwrap()
    }

    #[test]
    fn a_scope_is_named_after_its_pod_and_lies_in_the_slice_of_all() {
        let unit = unit("tencrypt", "4-4026532211");
        assert_eq!(unit.to_string(), "tencrypt.slice/tencrypt-4-4026532211.scope");
    }

    #[test]
    fn no_two_groups_have_the_same_units_and_no_slice_lies_in_another() {
        assert_eq!(unit("a-b", "c").to_string(), "a\\x2db.slice/a\\x2db-c.scope");
        assert_eq!(unit("a", "b-c").to_string(), "a.slice/a-b-c.scope");
    }

    #[test]
    fn a_name_that_systemd_would_not_take_is_refused() {
        let of = |base: usize, pod: usize| {
            Unit::of(&Group::new(&"b".repeat(base), &"p".repeat(pod)).unwrap()).map(|unit| unit.scope.len())
        };
        assert_eq!(of(120, 128), Ok(255));
        let error = of(121, 128).unwrap_err().to_string();
        assert!(
            error.starts_with("group bbb") && error.ends_with(": too long for the name of a unit"),
            "{error}"
        );
    }

    #[test]
    fn a_process_is_in_a_scope_by_what_systemd_keeps_its_units_in() {
        let unit = unit("tencrypt", "4-17");
        assert!(unit.is_in("0::/tencrypt.slice/tencrypt-4-17.scope\n"));
        assert!(unit.is_in("3:memory:/\n1:name=systemd:/tencrypt.slice/tencrypt-4-17.scope\n0::/\n"));
        // Seen from a container's own namespace of groups.
        assert!(unit.is_in("0::/../../tencrypt.slice/tencrypt-4-17.scope\n"));
        for elsewhere in [
            "",
            "0::/\n",
            "0::/tencrypt.slice\n",
            "0::/tencrypt.slice/tencrypt-4-17.scope/payload\n",
            "0::/tencrypt.slice/tencrypt-4-17.scope.d\n",
            "0::/tencrypt.slice/xtencrypt-4-17.scope\n",
            "3:memory:/tencrypt.slice/tencrypt-4-17.scope\n0::/\n",
        ] {
            assert!(!unit.is_in(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn limits_are_what_systemd_has_and_survive_its_reload() {
        let all = Limits { memory: Some(64 << 20), cpu: Some(500), pids: Some(32) };
        let expected = [
            ("MemoryMax", Value::Number(64 << 20)),
            ("MemorySwapMax", Value::Number(0)),
            ("CPUQuotaPerSecUSec", Value::Number(500_000)),
            ("TasksMax", Value::Number(32)),
        ];
        assert_eq!(properties(&all), expected);
        let cpu = |cpu| properties(&Limits { cpu: Some(cpu), ..Limits::default() });
        assert_eq!(cpu(11), [("CPUQuotaPerSecUSec", Value::Number(20_000))]);
        assert_eq!(cpu(u32::MAX), [("CPUQuotaPerSecUSec", Value::Number(4_294_967_300_000))]);
        assert_eq!(properties(&Limits::default()), []);
    }
}
