//! A stand-in for kubectl, and a cluster of files that it answers from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tencrypt-node");

/// Answers `get --raw PATH` and `exec .. AGENT .. -- tencrypt-node WORD ..` by files of the folder that `--context` names. One with the
/// ending `.sh` is run. Every call is noted.
const SCRIPT: &str = r#"#!/bin/sh
folder=
while :; do
    case "$1" in
        --context=*) folder=${1#--context=} ;;
        --kubeconfig=*) ;;
        *) break ;;
    esac
    shift
done
printf '%s\n' "$*" >>"$folder/calls"
if [ "$1" = get ]; then
    name=$(printf %s "$3" | tr / _)
else
    while [ "$1" != -c ]; do agent=$1; shift; done
    name=exec_${agent}_$5
fi
if [ -e "$folder/$name.sh" ]; then . "$folder/$name.sh"; exit; fi
if [ -e "$folder/$name" ]; then exec cat "$folder/$name"; fi
echo "Error from server (NotFound): the server could not find the requested resource" >&2
exit 1
"#;

/// The script, which is written before any process is started: one that is forked meanwhile would hold it open for writing, and it
/// could not be run (ETXTBSY).
static KUBECTL: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubectl-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let path = folder.join("kubectl");
    fs::write(&path, SCRIPT).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
});

pub(crate) const NAMESPACES: &str = "/api/v1/namespaces?limit=500&labelSelector=tencrypt.io%2Ftenant";
pub(crate) const NODES: &str = "/api/v1/nodes?limit=500";
pub(crate) const PODS: &str = "/api/v1/namespaces/shop/pods?limit=500";
pub(crate) const NAMESPACE: &str = "/api/v1/namespaces/shop";
pub(crate) const TENANTS: &str = "/api/v1/namespaces/tencrypt/configmaps/tencrypt-tenants";
const AGENTS: &str =
    "/api/v1/namespaces/tencrypt/pods?limit=500&labelSelector=app.kubernetes.io%2Fname%3Dtencrypt-node";
pub(crate) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases?limit=500";

/// A cluster of files: nodes `node1` and `node2`, tenant `shop` with namespace `shop`, and in it `web-0` and `web-1`, protected.
pub(crate) struct Cluster(PathBuf);

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = KUBECTL.with_file_name(format!("cluster-{number}"));
        fs::create_dir(&folder).unwrap();
        let cluster = Self(folder);
        let labels = json!({"tencrypt.io/tenant": "shop"});
        cluster.list(NAMESPACES, "Namespace", json!([{"metadata": {"name": "shop", "labels": labels}}]));
        cluster.set(NAMESPACE, &json!({"metadata": {"name": "shop", "labels": labels}}));
        cluster.list(
            NODES,
            "Node",
            json!([{"metadata": {"name": "node1"}}, {"metadata": {"name": "node2"}}]),
        );
        cluster.list(PODS, "Pod", json!([pod("web-0", "node1", 7), pod("web-1", "node2", 8)]));
        cluster.set(TENANTS, &json!({"data": {"shop.toml": "namespaces = [\"shop\"]\n"}}));
        let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let agent = |node: &str| json!({"metadata": {"name": format!("agent-{node}")}, "spec": {"nodeName": node}, "status": ready});
        cluster.list(AGENTS, "Pod", json!([agent("node1"), agent("node2")]));
        let keys = r#"{"shop":{"pods":1,"send":[1],"accept":[1,2]}}"#;
        let lease =
            |node: &str| json!({"metadata": {"name": node, "annotations": {"tencrypt.io/keys": keys}}});
        cluster.list(LEASES, "Lease", json!([lease("node1"), lease("node2")]));
        for (node, pod, number) in [("node1", "web-0", 7), ("node2", "web-1", 8)] {
            cluster.set(&format!("exec_agent-{node}_status"), &agent_status());
            cluster.set(&format!("exec_agent-{node}_pods"), &agent_pods(&[(pod, "protected", number)]));
        }
        cluster
    }

    /// Makes a list.
    pub(crate) fn list(&self, path: &str, kind: &str, items: Value) {
        self.set(path, &json!({"kind": format!("{kind}List"), "metadata": {}, "items": items}));
    }

    /// Makes an answer.
    pub(crate) fn set(&self, path: &str, answer: &Value) {
        self.say(path, &answer.to_string());
    }

    /// Makes an answer of any text.
    pub(crate) fn say(&self, path: &str, text: &str) {
        fs::write(self.file(path), text).unwrap();
    }

    /// Has a script run in place of an answer.
    pub(crate) fn run(&self, path: &str, script: &str) {
        fs::write(self.file(&format!("{path}.sh")), script).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.file(path)).unwrap();
    }

    fn file(&self, path: &str) -> PathBuf {
        self.0.join(path.replace('/', "_"))
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        fs::read_to_string(self.0.join("calls")).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// Runs `tencrypt-node kube` with these words.
    pub(crate) fn kube(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("kube");
        self.reach(&mut command, words)
    }

    /// Runs the program `command` with these words, and what leads to this cluster.
    pub(crate) fn reach(&self, command: &mut Command, words: &[&str]) -> Output {
        command.args(words).arg("--kubectl").arg(&*KUBECTL);
        command.arg("--context").arg(&self.0).args(["--kubeconfig", "a file"]).output().unwrap()
    }

    /// The document of `kube status`, with the exit code.
    pub(crate) fn status(&self) -> (Option<i32>, Value) {
        let output = self.kube(&["status", "--json"]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (output.status.code(), document["cluster"].clone())
    }
}

/// The line of standard error of what has failed with exit code 1.
pub(crate) fn failure(output: &Output) -> String {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty() && line.lines().count() == 1, "{output:?}");
    line
}

/// A pod of the namespace `shop` that runs.
pub(crate) fn pod(name: &str, node: &str, number: u8) -> Value {
    let ips = addresses(number).map(|ip| json!({"ip": ip}));
    json!({
        "metadata": {"name": name, "namespace": "shop"}, "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips},
    })
}

fn addresses(number: u8) -> [String; 2] {
    [format!("10.244.1.{number}"), format!("fd00::{number}")]
}

fn agent_status() -> Value {
    let counts = [
        "started",
        "adopted",
        "restarted",
        "replaced",
        "rolled_back",
        "failed",
        "added",
        "open",
        "refused",
        "malformed",
        "put_back",
        "found_unprotected",
        "clones",
    ];
    let counts: serde_json::Map<String, Value> =
        counts.iter().map(|&name| (name.to_owned(), json!(0))).collect();
    json!({"version": 1, "node": {
        "version": "0.1.0", "pid": 7, "uptime_s": 90, "ready": true, "program": "/tencrypt", "program_id": "61",
        "problems": [], "unprotected": [], "outside": [], "clone_signs": [], "pods": {}, "plugin": null, "counts": counts,
        "tenants": [{"name": "shop", "namespaces": ["shop"], "pods": 1, "problem": null, "replacing": false,
            "replacement_problem": null}],
    }})
}

/// The agent's document of these pods of the namespace `shop`, each with its state and the last part of its addresses.
pub(crate) fn agent_pods(pods: &[(&str, &str, u8)]) -> Value {
    let pods: Vec<Value> = pods
        .iter()
        .map(|(name, state, number)| {
            let problem = (*state != "protected").then_some("no key");
            json!({
                "id": format!("4-40265322{number}"), "name": format!("shop/{name}"), "tenant": "shop",
                "source": "plugin", "state": state, "pid": 4711, "program": "0.1.0", "current": true,
                "public_key": "00ff", "restarts": 0, "problem": problem, "peers": 1,
                "addresses": addresses(*number), "status": pod_status(),
            })
        })
        .collect();
    json!({"version": 1, "pods": pods})
}

fn pod_status() -> Value {
    json!({
        "project": "shop", "mtu": 1440, "lanes": 1, "unknown": "drop", "enforce": true, "peers": [], "drops": {},
        "packets": {"encrypted": 1, "decrypted": 1, "bypassed": 0, "held": 0, "dropped": 0, "opportunistic": 0},
    })
}

/// Makes a link to the program under another name.
pub(crate) fn called(name: &str) -> PathBuf {
    let path = KUBECTL.with_file_name(name);
    if !path.exists() {
        // Somebody else may have made it meanwhile.
        let _ = std::os::unix::fs::symlink(PROGRAM, &path);
    }
    assert!(Path::new(&path).exists());
    path
}
