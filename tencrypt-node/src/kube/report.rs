//! The reports of `kube status` and `kube verify`.

use std::{fmt, net::IpAddr};

use serde::Serialize;

use crate::{
    kubernetes::names::KeysByTenant,
    probe::{Counted, Protocol},
};

/// `kube status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ClusterReport {
    /// True if every pod of an enrolled namespace that can be protected is.
    pub(crate) protected: bool,
    /// The reasons why not all is known, a line each.
    pub(crate) problems: Vec<String>,
    /// Tenants by name.
    pub(crate) tenants: Vec<TenantEntry>,
    /// Nodes by name.
    pub(crate) nodes: Vec<NodeEntry>,
    /// Pods of enrolled namespaces, by namespace and name.
    pub(crate) pods: Vec<PodEntry>,
}

/// A tenant of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TenantEntry {
    /// Its name.
    pub(crate) name: String,
    /// Namespaces with its label that it admits.
    pub(crate) namespaces: Vec<String>,
    /// Namespaces with its label that it does not admit.
    pub(crate) refused: Vec<String>,
    /// Namespaces that it admits and that have not its label.
    pub(crate) unlabelled: Vec<String>,
    /// The reason why nobody knows which it admits.
    pub(crate) problem: Option<String>,
}

/// A node of the cluster, and its agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NodeEntry {
    /// Its name.
    pub(crate) name: String,
    /// The agent's pod.
    pub(crate) agent: Option<String>,
    /// The kubelet has found the agent ready, and it says so itself.
    pub(crate) ready: bool,
    /// The agent's version.
    pub(crate) version: Option<String>,
    /// Keys that the node's pods take, by tenant.
    pub(crate) keys: KeysByTenant,
    /// Everything that is wrong with it, as far as it is said.
    pub(crate) problem: Option<String>,
}

/// A pod of an enrolled namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PodEntry {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// The tenant that the label of its namespace names.
    pub(crate) tenant: String,
    /// Its node.
    pub(crate) node: Option<String>,
    /// Its state.
    pub(crate) state: State,
    /// The reason for that, or what is not as it ought to be.
    pub(crate) reason: Option<String>,
}

/// The state of a pod of an enrolled namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// A data path runs, for all of its addresses.
    Protected,
    /// It runs without protection, or with some of its addresses.
    Open,
    /// A data path is on its way.
    Starting,
    /// It has none, and is tried again, or the pod waits for one.
    Waiting,
    /// It ends.
    Ending,
    /// The agent of its node does not answer, or there is none.
    Unknown,
    /// It has the node's own network: it cannot be protected.
    Outside,
    /// It is on no node yet: there is nothing to protect.
    Unscheduled,
}

impl State {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 8] = [
        Self::Protected,
        Self::Open,
        Self::Starting,
        Self::Waiting,
        Self::Ending,
        Self::Unknown,
        Self::Outside,
        Self::Unscheduled,
    ];

    /// Returns its name, as JSON has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Protected => "protected",
            Self::Open => "open",
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::Ending => "ending",
            Self::Unknown => "unknown",
            Self::Outside => "outside",
            Self::Unscheduled => "unscheduled",
        }
    }

    /// Tells if nothing is left to be done: it is protected, or cannot be.
    pub(crate) fn is_fine(self) -> bool {
        matches!(self, Self::Protected | Self::Outside | Self::Unscheduled)
    }
}

/// `kube verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VerifyReport {
    /// True if each check was found encrypted.
    pub(crate) encrypted: bool,
    /// The namespace.
    pub(crate) namespace: String,
    /// The pod that sends.
    pub(crate) from: End,
    /// The pod that answers.
    pub(crate) to: End,
    /// A check for each family that both have, and each protocol.
    pub(crate) checks: Vec<Check>,
}

/// A pod of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct End {
    /// Its name.
    pub(crate) pod: String,
    /// Its node.
    pub(crate) node: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A check of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// The addresses' family.
    pub(crate) family: Family,
    /// The protocol.
    pub(crate) protocol: Protocol,
    /// The result.
    pub(crate) verdict: Verdict,
    /// The answer that proves that what was sent has arrived.
    pub(crate) answer: Option<String>,
    /// Frames at the pod that sends.
    pub(crate) source: Option<Counted>,
    /// Frames at the pod that answers.
    pub(crate) destination: Option<Counted>,
    /// The reason, where it was not found encrypted.
    pub(crate) problem: Option<String>,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl fmt::Display for Family {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It was answered, there were records both ways at both pods, and nothing else.
    Encrypted,
    /// Something was seen in plain.
    Plain,
    /// There was no answer.
    Unanswered,
    /// It was answered, and not all was seen that there must have been: nothing is proven.
    Unproven,
    /// It could not be done.
    Failed,
}

impl Verdict {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 5] =
        [Self::Encrypted, Self::Plain, Self::Unanswered, Self::Unproven, Self::Failed];

    /// Returns its name, as JSON has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Plain => "plain",
            Self::Unanswered => "unanswered",
            Self::Unproven => "unproven",
            Self::Failed => "failed",
        }
    }
}
