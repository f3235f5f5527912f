//! A configuration, section by section.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    path::PathBuf,
};

use ipnet::IpNet;
use tencrypt::{CipherSuite, ExternalAuthority, UnansweredPolicy, directory::Fact};
use tencrypt_dns::Name;

use super::offload::Offload;

/// A configuration file: the settings, and the files that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// The settings.
    pub config: Config,
    /// The files. Relative paths start at the configuration file.
    pub files: Files,
}

/// The files that a configuration file names; all of them are followed while the program runs, but for the authority's key and
/// resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The tenant's key file.
    pub keys: PathBuf,
    /// The authority's public key; `None`: the tenant's key is all that is asked for.
    pub ca: Option<PathBuf>,
    /// This pod's certificate, which may come later.
    pub certificate: Option<PathBuf>,
    /// The revocation.
    pub revoked: Option<PathBuf>,
    /// The pod's resolv.conf; `None`: looked for.
    pub resolv_conf: Option<PathBuf>,
}

/// The settings of a pod, whoever gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[tenant]`
    pub tenant: Tenant,
    /// `[network]`
    pub network: Network,
    /// `[identity]`
    pub identity: Identity,
    /// `[policy]`
    pub policy: Policy,
    /// `[dns]`
    pub dns: Dns,
    /// `[[fact]]`: the static facts, in the order of the file.
    pub facts: Vec<Fact>,
}

/// The tenant of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The project's name; `None`: the pod's resolv.conf says.
    pub project: Option<String>,
    /// The cluster domain; `None`: the pod's resolv.conf says.
    pub cluster_domain: Option<Name>,
    /// The cipher of every session; the same in all pods of the tenant.
    pub suite: CipherSuite,
}

/// The traffic that is captured, and the interface it passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The pod's interface.
    pub interface: String,
    /// The name of the TUN device.
    pub tun: String,
    /// The UDP port of the first lane; the others' follow it.
    pub port: u16,
    /// Lanes, 1 to 16.
    pub lanes: NonZeroU8,
    /// Most peers of a lane, each lane of one counted.
    pub max_peers: u16,
    /// The ranges of pods and services; none overlaps another.
    pub protected: Vec<IpNet>,
    /// Addresses in them that are left alone.
    pub exempt: Vec<IpNet>,
    /// The share of work that is left to the kernel.
    pub offload: Offload,
}

/// Proof of who a pod is, where certificates are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Ranges of services, whose addresses no certificate lists.
    pub services: Vec<IpNet>,
}

/// Treatment of destinations that nobody classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Destinations inside the protected ranges that do not answer.
    pub unknown: UnansweredPolicy,
    /// Authority to declare a protected address external.
    pub external: ExternalAuthority,
    /// nftables hold what routes alone do not.
    pub enforce: bool,
    /// The pod may have addresses that nothing in the configuration speaks of: what comes from there and goes there is plain.
    pub unprotected_addresses: bool,
}

impl Config {
    /// Returns those of a pod's own `addresses` of which the configuration says nothing: no protected and no exempt range holds
    /// them, and no fact is about them.
    #[must_use]
    pub fn unprotected(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let Self { network, facts, .. } = self;
        let ranges =
            || network.protected.iter().chain(&network.exempt).chain(facts.iter().map(|fact| &fact.prefix));
        addresses.iter().copied().filter(|address| !ranges().any(|range| range.contains(address))).collect()
    }
}

/// Returns why a pod with these `unprotected` addresses is refused: one line, with the ways out.
#[must_use]
pub(crate) fn unprotected_reason(unprotected: &[IpAddr]) -> String {
    let named: Vec<String> = unprotected.iter().map(ToString::to_string).collect();
    format!(
        "no range of network.protected holds the pod's own address {}: its traffic would be in plain; add the range of the \
         pods' addresses there, or set `unprotected_addresses = true` in [policy]",
        named.join(" and ")
    )
}

/// Interception of DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The pod's queries pass through the proxy.
    pub capture: bool,
    /// Servers that queries go to; empty: the nameservers of resolv.conf.
    pub upstream: Vec<SocketAddr>,
    /// Most queries a second that the proxy takes, with bursts of as many; at least 1.
    pub rate: u32,
    /// Names of the project's own may have addresses that are neither protected nor exempt.
    pub external_names: bool,
}
