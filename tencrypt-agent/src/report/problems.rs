//! The problems of a pod, in words.

use serde::{Deserialize, Serialize};

use super::StatusReport;

/// A kind of packets that a firewall of the pod's own drops, in `status --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilteredReport {
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
    pub(crate) fn problem(&self) -> String {
        let Self { count, last_s, what, cure, .. } = self;
        format!("NOT let in by a firewall of the pod's own: {count} {what}, the last {last_s} s ago; {cure}")
    }
}

impl StatusReport {
    /// Returns everything that is not as it ought to be, a sentence each, the worst first.
    pub(crate) fn problems(&self) -> Vec<String> {
        let unprotected = self.network.unprotected.iter();
        let unprotected = unprotected
            .map(|address| format!("NOT protected: {address} (no range of network.protected holds it)"));
        let suite = self.suite_problem.as_ref().map(|problem| format!("NO SESSIONS: {problem}"));
        let certificate = self.identity.problem.as_ref().map(|problem| format!("certificate: {problem}"));
        let revocation = self.identity.revocation_problem.as_ref();
        let revocation =
            revocation.map(|problem| format!("revocation: {problem}; the one before is in force"));
        let bound = self.network.bound_servers.iter();
        let bound = bound.map(|server| {
            let (protocol, address) = (&server.protocol, server.address);
            format!("NOT reached through the tunnel: the {protocol} server at {address}, which is bound to the interface")
        });
        let filtered = self.network.filtered.iter().map(FilteredReport::problem);
        let ill = [suite, certificate, revocation].into_iter().flatten();
        unprotected.chain(ill).chain(filtered).chain(bound).collect()
    }
}
