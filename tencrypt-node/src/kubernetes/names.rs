//! Names of tencrypt's own in objects of the API, which the agent and the administrator's commands both read.

/// The label of a namespace with the name of its tenant.
pub(crate) const LABEL: &str = "tencrypt.io/tenant";

/// The annotation of a node's Lease with the epochs that its data paths take.
pub(crate) const KEYS: &str = "tencrypt.io/keys";
