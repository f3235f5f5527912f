//! The reports that the agent makes of itself and its pods: what `tencrypt-node pods --json` and `status --json` print, and what
//! metrics are made of.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use tencrypt_agent::report::StatusReport;

/// `tencrypt-node status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Version of the agent.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// Seconds since its start.
    pub(crate) uptime_s: u64,
    /// True once everything that ran was adopted and every source was read.
    pub(crate) ready: bool,
    /// The program that pods are given now.
    pub(crate) program: String,
    /// The first digits of its SHA-256.
    pub(crate) program_id: String,
    /// The faults of files and sources that stand now, a line each.
    pub(crate) problems: Vec<String>,
    /// The signs of a clone that are looked for.
    pub(crate) clone_signs: Vec<String>,
    /// Tenants by name.
    pub(crate) tenants: Vec<TenantReport>,
    /// Pods by their state's name.
    pub(crate) pods: BTreeMap<String, u64>,
    /// The plugin's place in the network configuration; absent: the agent does not install it.
    pub(crate) plugin: Option<PluginReport>,
    /// Pods of enrolled namespaces that run without protection, as the cluster has them.
    #[serde(default)]
    pub(crate) unprotected: Vec<StrayReport>,
    /// Pods of enrolled namespaces that are not to be protected.
    #[serde(default)]
    pub(crate) outside: Vec<StrayReport>,
    /// Events since the agent's start.
    pub(crate) counts: Counts,
}

/// A pod that is outside of the tunnel, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StrayReport {
    /// Its name, `NAMESPACE/POD`.
    pub(crate) name: String,
    /// The reason.
    pub(crate) reason: String,
}

impl StrayReport {
    /// A pod of this name, with the reason.
    pub(crate) fn of(name: &str, reason: &str) -> Self {
        Self { name: name.to_owned(), reason: reason.to_owned() }
    }
}

/// A tenant, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TenantReport {
    /// Its name.
    pub(crate) name: String,
    /// The namespaces whose pods are of it.
    pub(crate) namespaces: Vec<String>,
    /// Its pods on this node.
    pub(crate) pods: u64,
    /// The reason why its files, as they are now, are not in force.
    pub(crate) problem: Option<String>,
    /// True while its pods are being given another program or other settings, one after the other.
    pub(crate) replacing: bool,
    /// The reason why that was given up: the pod that did not become ready went back to what it had.
    pub(crate) replacement_problem: Option<String>,
}

/// The plugin's place in the network configuration, in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PluginReport {
    /// The plugin's file.
    pub(crate) file: String,
    /// The configuration that it stands in.
    pub(crate) network: Option<String>,
    /// The reason why it does not stand where it should.
    pub(crate) problem: Option<String>,
}

/// Events since the agent's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Data paths that were started for a pod that had none.
    pub(crate) started: u64,
    /// Running data paths that were taken over at the agent's start.
    pub(crate) adopted: u64,
    /// Data paths that died and were started again.
    pub(crate) restarted: u64,
    /// Data paths that were replaced by another program or other settings.
    pub(crate) replaced: u64,
    /// Replacements that did not become ready, and were taken back.
    pub(crate) rolled_back: u64,
    /// Starts that failed.
    pub(crate) failed: u64,
    /// Requests of the plugin that were answered with `protected`.
    pub(crate) added: u64,
    /// Requests of the plugin that were answered with `open`.
    pub(crate) open: u64,
    /// Requests of the plugin that were refused.
    pub(crate) refused: u64,
    /// Requests on the sockets that made no sense.
    pub(crate) malformed: u64,
    /// Times that the plugin was put back into a network configuration.
    pub(crate) put_back: u64,
    /// Pods that were found without protection.
    pub(crate) found_unprotected: u64,
    /// Times that all pods were told to make their keys anew.
    pub(crate) clones: u64,
}

/// One pod, in `tencrypt-node pods --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodReport {
    /// The id of its network namespace, as `tencrypt list` prints it.
    pub(crate) id: String,
    /// Its name: a namespace's and a pod's with a slash between them, or of a file.
    pub(crate) name: String,
    /// Its tenant.
    pub(crate) tenant: String,
    /// The source that named it: `directory`, `plugin` or `found`.
    pub(crate) source: String,
    /// Its state.
    pub(crate) state: PodState,
    /// The process of its data path.
    pub(crate) pid: Option<u32>,
    /// Version of its program.
    pub(crate) program: Option<String>,
    /// True if program and settings are the ones that pods are given now.
    pub(crate) current: bool,
    /// The static public key in hex.
    pub(crate) public_key: Option<String>,
    /// Times that it died and was started again.
    pub(crate) restarts: u64,
    /// The last reason why a start failed, or why something that it was given was refused.
    pub(crate) problem: Option<String>,
    /// Peers with which there is a session.
    pub(crate) peers: u64,
    /// The pod's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its status, as `tencrypt status --json` has it, as it was said last.
    pub(crate) status: Option<Box<StatusReport>>,
}

/// The state of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodState {
    /// A data path is on its way; nothing leaves in plain if there was one before.
    Starting,
    /// A data path runs.
    Protected,
    /// It has none, and is tried again: what there was stays closed.
    Waiting,
    /// It ends.
    Ending,
}

impl PodState {
    /// Returns its name, as JSON and metrics have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Protected => "protected",
            Self::Waiting => "waiting",
            Self::Ending => "ending",
        }
    }
}
