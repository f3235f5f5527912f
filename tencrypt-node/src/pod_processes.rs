//! The network namespace of a pod that no runtime has noted, by its processes.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The file system of processes, of the node: the agent has its process ids.
pub(crate) const PROC: &str = "/proc";

/// Most processes that are looked at.
const MOST: usize = 100_000;

/// The namespaces of the processes whose control group is of the pod with the id `uid`, or of one of its `containers`, as paths below
/// `proc`. A process may be gone, or another's by the time its path is opened, and a pod's process may be in another namespace:
/// whoever opens one looks at what is in it.
pub(crate) fn namespaces(proc: &Path, uid: &str, containers: &[String]) -> impl Iterator<Item = PathBuf> {
    let forms = group_names(uid, containers);
    let entries = fs::read_dir(proc).into_iter().flatten().flatten().take(MOST).map(|entry| entry.path());
    entries.filter(move |process| is_of(process, &forms)).map(|process| process.join("ns/net"))
}

fn is_of(process: &Path, forms: &[String]) -> bool {
    let is_number = process
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    // Of version 1 of control groups there is a line for each hierarchy.
    is_number
        && fs::read_to_string(process.join("cgroup")).is_ok_and(|text| {
            text.split(['/', '\n']).any(|part| forms.iter().any(|form| is_group(part, form)))
        })
}

/// Tells if a part of a path has this name, or has it behind a dash.
fn is_group(part: &str, form: &str) -> bool {
    part.strip_suffix(form).is_some_and(|before| before.is_empty() || before.ends_with('-'))
}

/// The names of control groups: `podUID`, or with systemd `..-podUID.slice` with `_` for `-` (`GetPodCgroupNameSuffix` and `ToSystemd`,
/// pkg/kubelet/cm); below it, or without it where kubelet makes no groups of pods (`cgroupsPerQOS`), a container's id, with systemd
/// `..-ID.scope`. An id that is none has none.
fn group_names(uid: &str, containers: &[String]) -> Vec<String> {
    let is_id =
        |id: &str| id.len() >= 16 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let pod = is_id(uid).then(|| [format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_"))]);
    let containers = containers.iter().filter(|id| is_id(id));
    pod.into_iter().flatten().chain(containers.flat_map(|id| [id.clone(), format!("{id}.scope")])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processes_of_a_pod_are_those_in_its_control_group() {
        let proc = std::env::temp_dir().join(format!("tencrypt-node-{}-processes", std::process::id()));
        let uid = "0a1b2c3d-1111-2222-3333-444455556666";
        let groups = [
            ("10", "11:memory:/kubepods/besteffort/pod0a1b2c3d-1111-2222-3333-444455556666/abc\n0::/\n"),
            (
                "11",
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b2c3d_1111_2222_3333_444455556666.slice/cri-containerd-abc.scope\n",
            ),
            ("12", "0::/kubepods/pod0a1b2c3d-1111-2222-3333-444455556667/abc\n"),
            ("13", "0::/user.slice/0a1b2c3d-1111-2222-3333-444455556666\n"),
            ("14", "0::/kubepods/xpod0a1b2c3d-1111-2222-3333-444455556666/abc\n"),
            ("15", "9:name=systemd:/k8s.io/47927c48761c6d79651f54d19ea94cf9\n"),
            ("16", "0::/system.slice/crio-47927c48761c6d79651f54d19ea94cf9.scope\n"),
            ("17", "0::/k8s.io/x47927c48761c6d79651f54d19ea94cf9\n"),
            ("self", "0::/kubepods/pod0a1b2c3d-1111-2222-3333-444455556666/abc\n"),
        ];
        for (name, text) in groups {
            fs::create_dir_all(proc.join(name)).unwrap();
            fs::write(proc.join(name).join("cgroup"), text).unwrap();
        }
        let sorted = |uid: &str, containers: &[String]| {
            let mut found: Vec<PathBuf> = namespaces(&proc, uid, containers).collect();
            found.sort();
            found
        };
        let found = sorted(uid, &[]);
        let by_container = sorted("", &["47927c48761c6d79651f54d19ea94cf9".to_owned(), String::new()]);
        let none: Vec<PathBuf> = ["", "pod", "../../../../../../etc"]
            .iter()
            .flat_map(|uid| sorted(uid, &[(*uid).to_owned()]))
            .collect();
        fs::remove_dir_all(&proc).unwrap();
        assert_eq!(found, ["10", "11"].map(|name| proc.join(name).join("ns/net")));
        assert_eq!(by_container, ["15", "16"].map(|name| proc.join(name).join("ns/net")));
        assert!(none.is_empty(), "{none:?}");
    }
}
