//! The problems of a pod, in words.

use super::{StatusReport, filtered::FilteredReport};

impl StatusReport {
    /// Returns everything that is not as it ought to be, a sentence each, the worst first.
    pub fn problems(&self) -> Vec<String> {
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
