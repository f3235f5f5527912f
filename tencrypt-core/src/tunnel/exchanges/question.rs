//! Questions: what an INIT is sent for.

use std::net::IpAddr;

/// A question: an INIT to an address, which a RESP answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) struct Question {
    /// Address that INIT goes to: there is one question for each.
    pub(in crate::tunnel) to: IpAddr,
    /// Address that INIT names: the same, or a VIP that whoever is there shall be reached under.
    pub(in crate::tunnel) named: IpAddr,
    pub(in crate::tunnel) purpose: Purpose,
    /// The address is known to be of the tenant: it is expected to come up, and never bypassed.
    pub(in crate::tunnel) internal: bool,
}

impl Question {
    /// A question that names the address that it goes to.
    pub(in crate::tunnel) fn new(to: IpAddr, purpose: Purpose, internal: bool) -> Self {
        Self { to, named: to, purpose, internal }
    }
}

/// Purpose of a question; the later one counts where there are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tunnel) enum Purpose {
    /// A peer says that the address is its own, and shall prove it. Nobody waits.
    Proof,
    /// Its traffic passes in plain on the word of DNS; an answer would end that.
    Background,
    /// Its session is to be replaced.
    Rekey,
    /// Packets wait for the answer, or would.
    Traffic,
}
