//! Configuration of a tunnel: what it is told once, at its start, and the policies that all crates share.

use std::{fmt, str::FromStr};

use ipnet::IpNet;

use crate::{
    crypto::CipherSuite,
    nat::DnsHairpin,
    record::{DATA_OVERHEAD, suite::NameError},
};

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
    /// Policy for addresses in the protected ranges that do not answer INIT. Default: drop.
    pub unknown: UnansweredPolicy,
    /// Least authority that may call a protected address external. Default: DNS.
    pub external: ExternalAuthority,
    /// Redirects the pod's DNS queries to the proxy; `None` leaves port 53 alone.
    pub dns: Option<DnsHairpin>,
    /// Bytes of the longest datagram that the transport carries, UDP and IP headers not counted. The suite's handshake
    /// has to fit it, else no Tunnel is made; packets whose record does not fit are dropped and counted as
    /// [`TooBig`](crate::DropReason::TooBig). Default: 65,535, no limit of its own.
    pub max_datagram: u16,
    /// Most peers at a time, each lane of one counted: about 4 KB each (docs/performance.md). Beyond that the one of the
    /// least use loses its sessions. One source, an IPv4 address or an IPv6 network of 64 bits, has a quarter of them at
    /// most. Default: 1,024.
    pub max_peers: u16,
    /// This side's device takes packets whose TCP or UDP checksum is unfinished. Told to peers. Default: true.
    pub vnet: bool,
}

impl TunnelConfig {
    /// The UDP port of tenant traffic: the first port of lane 0, and where every INIT goes.
    pub const DEFAULT_PORT: u16 = 8362;

    /// Most peers at a time, if nothing else is said.
    pub const DEFAULT_MAX_PEERS: u16 = 1_024;

    /// The defaults, with these protected ranges.
    pub fn new(protected: impl IntoIterator<Item = IpNet>) -> Self {
        Self {
            suite: CipherSuite::default(),
            port: Self::DEFAULT_PORT,
            protected: protected.into_iter().map(|range| range.trunc()).collect(),
            unknown: UnansweredPolicy::Drop,
            external: ExternalAuthority::Dns,
            dns: None,
            max_datagram: u16::MAX,
            max_peers: Self::DEFAULT_MAX_PEERS,
            vnet: true,
        }
    }

    /// Returns the MTU in bytes that the device above the tunnel may have, IP header included: the longest packet whose
    /// record fits [`max_datagram`](Self::max_datagram). IPv6 asks for 1,280 at least (RFC 8200 section 5).
    #[must_use]
    pub fn inner_mtu(&self) -> u16 {
        self.max_datagram.saturating_sub(DATA_OVERHEAD as u16)
    }
}

/// Policy for protected addresses that nobody has classified and that do not answer a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(clippy::exhaustive_enums, reason = "a policy with two values")]
pub enum UnansweredPolicy {
    /// Packets to and from them are dropped.
    #[default]
    Drop,
    /// Packets leave in plain, counted as opportunistic, and plaintext from there is let in. Never for an address once
    /// seen internal.
    Plain,
}

impl UnansweredPolicy {
    /// Both values.
    pub const ALL: [Self; 2] = [Self::Drop, Self::Plain];

    /// Name in configuration and reports: `drop` or `plain`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Plain => "plain",
        }
    }
}

/// Least authority that may call a protected address external.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(clippy::exhaustive_enums, reason = "a policy with two values")]
pub enum ExternalAuthority {
    /// DNS too. The address is asked in the background all the same, and an answer makes it internal.
    #[default]
    Dns,
    /// The directory's authoritative sources only.
    Directory,
}

impl ExternalAuthority {
    /// Both values.
    pub const ALL: [Self; 2] = [Self::Dns, Self::Directory];

    /// Name in configuration: `dns` or `directory`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Directory => "directory",
        }
    }
}

impl fmt::Display for UnansweredPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for UnansweredPolicy {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let expected = "drop or plain";
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or(NameError::new("not a policy", expected))
    }
}

impl fmt::Display for ExternalAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ExternalAuthority {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let expected = "dns or directory";
        Self::ALL
            .into_iter()
            .find(|authority| authority.name() == name)
            .ok_or(NameError::new("not a policy", expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_policies_lead_back_to_them() {
        for policy in UnansweredPolicy::ALL {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for authority in ExternalAuthority::ALL {
            assert_eq!(authority.to_string().parse(), Ok(authority));
        }
    }

    #[test]
    fn other_words_name_no_policy() {
        for word in ["", "DROP", "drop ", "allow", "true"] {
            let error = word.parse::<UnansweredPolicy>().expect_err(word);
            assert_eq!(error.to_string(), "not a policy: expected drop or plain");
            let error = word.parse::<ExternalAuthority>().expect_err(word);
            assert_eq!(error.to_string(), "not a policy: expected dns or directory");
        }
    }

    #[test]
    fn defaults_are_the_cautious_ones_of_the_documentation() {
        let config = TunnelConfig::new([]);
        assert_eq!(config.unknown, UnansweredPolicy::default());
        assert_eq!(config.external, ExternalAuthority::default());
        assert_eq!((config.unknown.name(), config.external.name()), ("drop", "dns"));
    }
}
