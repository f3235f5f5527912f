//! Packets that a firewall of the pod's own drops.

use serde::{Deserialize, Serialize};

/// A kind of packets that a firewall of the pod's own drops, in `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilteredReport {
    /// `datagrams`: of other pods to the tunnel's ports; `names`: of captured DNS; `packets`: others out of the device.
    pub kind: String,
    /// Packets of the kind that were dropped since the start.
    pub count: u64,
    /// Seconds since the last one.
    pub last_s: u64,
    /// The packets, in words.
    pub what: String,
    /// The rule that is missing, in words.
    pub cure: String,
}

impl FilteredReport {
    /// Returns it as a sentence.
    pub fn problem(&self) -> String {
        let Self { count, last_s, what, cure, .. } = self;
        format!("NOT let in by a firewall of the pod's own: {count} {what}, the last {last_s} s ago; {cure}")
    }
}
