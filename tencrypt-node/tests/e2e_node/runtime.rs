//! A node whose container runtime is the test.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Site, program, replace};
use serde_json::{Value, json};
use tencrypt_lab::Pod;

/// The network's configuration as its own agent writes it.
pub(crate) const NETWORK: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {\"type\": \"bridge\"}\n  ]\n}\n";

/// A node whose runtime is the test.
pub(crate) struct Runtime {
    /// The node.
    pub(crate) site: Site,
}

impl Runtime {
    pub(crate) fn new() -> Self {
        let runtime = Self::without_tenants();
        runtime.site.tenant("shop");
        runtime
    }

    /// A node without tenants.
    pub(crate) fn without_tenants() -> Self {
        let site = Site::new();
        for folder in ["bin", "net.d", "results"] {
            fs::create_dir(site.directory.join(folder)).unwrap();
        }
        fs::write(site.directory.join("net.d/10-pods.conflist"), NETWORK).unwrap();
        Self { site }
    }

    /// The agent's settings: it installs the plugin.
    pub(crate) fn settings(&self) -> String {
        let of = |name: &str| self.site.directory.join(name).display().to_string();
        let plugin = program("tencrypt-cni");
        format!(
            "[plugin]\nprogram = \"{}\"\nfolder = \"{}\"\nnetworks = \"{}\"\nresults = \"{}\"\n",
            plugin.display(),
            of("bin"),
            of("net.d"),
            of("results")
        )
    }

    /// The file of the network configuration.
    pub(crate) fn conflist(&self) -> PathBuf {
        self.site.directory.join("net.d/10-pods.conflist")
    }

    /// The plugin's entry in the network configuration.
    pub(crate) fn entry(&self) -> Option<Value> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.conflist()).ok()?).ok()?;
        let last = list["plugins"].as_array()?.last()?.clone();
        last["type"].as_str()?.starts_with("tencrypt-cni-").then_some(last)
    }

    /// Calls the plugin as a runtime does.
    pub(crate) fn call(&self, operation: &str, pod: &Pod, namespace: &str, container: &str) -> Output {
        self.call_named(operation, pod, (namespace, "web-0"), container)
    }

    /// [`call`](Self::call) for a pod of this name.
    pub(crate) fn call_named(
        &self,
        operation: &str,
        pod: &Pod,
        (namespace, name): (&str, &str),
        container: &str,
    ) -> Output {
        let mut config = self.entry().expect("the plugin stands in the network configuration");
        let interface = json!({"name": "eth0", "sandbox": pod.netns().path()});
        let addresses: Vec<Value> = pod
            .addresses()
            .iter()
            .map(|address| json!({"address": format!("{address}/24"), "interface": 0}))
            .collect();
        let added = json!({
            "cniVersion": "1.0.0", "name": "pods",
            "prevResult": {"cniVersion": "1.0.0", "interfaces": [interface], "ips": addresses},
        });
        config.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
        let file = self.site.directory.join("bin").join(config["type"].as_str().unwrap());
        let mut command = Command::new(file);
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID=0-1");
        command
            .env_clear()
            .env("CNI_COMMAND", operation)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", pod.netns().path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.site.directory.join("bin"))
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut plugin = command.spawn().unwrap();
        plugin.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        plugin.wait_with_output().unwrap()
    }
}

impl Runtime {
    /// Binds a pod's namespace to a file, as a runtime does.
    pub(crate) fn bind(&self, pod: &Pod) -> PathBuf {
        let bound = self.site.directory.join("netns");
        fs::write(&bound, "").unwrap();
        let mounted = Command::new("mount").arg("--bind").arg(pod.netns().path()).arg(&bound).status();
        assert!(mounted.unwrap().success());
        bound
    }

    /// Writes libcni's note of a pod of namespace `shop` whose namespace is at `bound`.
    pub(crate) fn note(&self, container: &str, name: &str, bound: &Path, address: &str) {
        let note = json!({
            "kind": "cniCacheV1", "containerId": container, "ifName": "eth0", "networkName": "pods", "netns": bound,
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", name]],
            "result": {
                "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": bound}],
                "ips": [{"address": format!("{address}/24"), "interface": 0}],
            },
        });
        let path = self.site.directory.join(format!("results/pods-{container}-eth0"));
        replace(&path, &note.to_string());
    }
}

/// The code of a refusal.
pub(crate) fn code(output: &Output) -> u64 {
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    answer["code"].as_u64().unwrap_or_else(|| panic!("{output:?}"))
}
