//! Names and texts of tencrypt's own in objects of the API, which the agent and the administrator's commands both know.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The label of a namespace with the name of its tenant.
pub(crate) const LABEL: &str = "tencrypt.io/tenant";

/// The annotation of a node's Lease with the epochs that its data paths take.
pub(crate) const KEYS: &str = "tencrypt.io/keys";

/// The content of that annotation, JSON: by tenant.
pub(crate) type KeysByTenant = BTreeMap<String, KeysEntry>;

/// The epochs of a tenant's keys on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeysEntry {
    /// The tenant's pods on the node.
    pub(crate) pods: u64,
    /// The epochs that any of their data paths sends.
    pub(crate) send: BTreeSet<u8>,
    /// The epochs that all of them accept; none while one has not said what it accepts.
    pub(crate) accept: BTreeSet<u8>,
}
