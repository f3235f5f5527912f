//! What a Tunnel is told once, at its start.

use ipnet::IpNet;

use crate::{crypto::CipherSuite, nat::DnsHairpin};

/// The UDP port of tenant traffic: the first port of lane 0, and where every INIT goes.
pub const DEFAULT_PORT: u16 = 8362;

/// Configuration of a [`Tunnel`](crate::Tunnel), shared by all lanes. Start from [`TunnelConfig::new`] and set what
/// differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TunnelConfig {
    /// The suite of every session. There is no negotiation: both ends must be told the same.
    pub suite: CipherSuite,
    /// The UDP port every member of the tenant listens on. Default: 8362.
    pub port: u16,
    /// The pod and service ranges of the cluster. Nothing to an address in them leaves in plain unless a fact says so.
    pub protected: Vec<IpNet>,
    /// What happens to an address in the protected ranges that does not answer INIT. Default: drop.
    pub unknown: Unknown,
    /// Whether DNS may say that a protected address is external. Default: it may.
    pub external: External,
    /// Redirects the pod's DNS queries to the proxy; `None` leaves port 53 alone.
    pub dns: Option<DnsHairpin>,
    /// Whether this side's device takes packets whose TCP or UDP checksum is unfinished. Told to peers.
    pub vnet: bool,
}

impl TunnelConfig {
    /// The defaults, with these protected ranges.
    pub fn new(protected: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            suite: CipherSuite::default(),
            port: DEFAULT_PORT,
            protected: protected.into_iter().map(|range| range.trunc()).collect(),
            unknown: Unknown::Drop,
            external: External::Dns,
            dns: None,
            vnet: true,
        }
    }
}

/// What happens to a protected address that does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "a policy with two values")]
pub enum Unknown {
    /// Its packets are dropped.
    #[default]
    Drop,
    /// Its packets leave in plain, counted as opportunistic. Never for an address once seen internal.
    Plain,
}

/// Who may call a protected address external.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "a policy with two values")]
pub enum External {
    /// DNS too. The address is asked in the background all the same, and an answer makes it internal.
    #[default]
    Dns,
    /// The directory's authoritative sources only.
    Directory,
}
