//! The configuration file: TOML, every key known, every mistake named by file, line and field.
//!
//! [`Config::parse`] is pure; [`Config::read`] adds the file.

mod document;
mod error;
pub mod offload;
mod project;
mod sections;

use std::{
    net::SocketAddr,
    num::NonZeroU8,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tencrypt::{CipherSuite, ExternalAuthority, UnansweredPolicy, directory::Fact};
use tencrypt_dns::Name;

pub use self::error::ConfigError;
use self::offload::Offload;
use crate::os::files::{self, Access};

/// Longest configuration file in bytes: some 10,000 facts.
pub const MAX_FILE_LEN: u64 = 1 << 20;

/// A whole configuration.
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
    /// The key file; relative paths start at the configuration file.
    pub key_file: PathBuf,
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
    /// The ranges of pods and services; none overlaps another.
    pub protected: Vec<IpNet>,
    /// Addresses in them that are left alone.
    pub exempt: Vec<IpNet>,
    /// The share of work that is left to the kernel.
    pub offload: Offload,
}

/// Proof of who a pod is. Relative paths start at the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The authority's public key; `None`: the tenant's key is all that is asked for.
    pub ca: Option<PathBuf>,
    /// This pod's certificate, which may come later.
    pub certificate: Option<PathBuf>,
    /// The revocation.
    pub revoked: Option<PathBuf>,
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
}

/// Interception of DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The pod's queries pass through the proxy.
    pub capture: bool,
    /// Servers that queries go to; empty: the nameservers of resolv.conf.
    pub upstream: Vec<SocketAddr>,
    /// The pod's resolv.conf; `None`: looked for. Relative paths start at the configuration file.
    pub resolv_conf: Option<PathBuf>,
    /// Most queries a second that the proxy takes, with bursts of as many; at least 1.
    pub rate: u32,
}

impl Config {
    /// Reads the configuration in `text`. `path` is its file: messages name it, relative paths start beside it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        sections::config(text, path)
    }

    /// Reads the configuration file at `path`.
    ///
    /// # Errors
    /// It is absent, no regular file, longer than [`MAX_FILE_LEN`], not UTF-8, or [`parse`](Self::parse) refuses it.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = files::read_regular(path, MAX_FILE_LEN, Access::Anyone)
            .map_err(|error| ConfigError::of_file(path, error))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                Err(ConfigError::new(path, error::line_after(before), "", "is not UTF-8"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
