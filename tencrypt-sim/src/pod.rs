//! Pods, as tests ask for them.

use std::net::IpAddr;

use tencrypt::{CipherSuite, Event, Tunnel, UnansweredPolicy, directory::Fact};

use crate::tenant::Tenant;

/// A pod of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodId(pub(crate) usize);

/// A pod's own part of its configuration.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "tests build it")]
pub struct PodOptions {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Facts that it knows at start.
    pub facts: Vec<Fact>,
    /// Its policy for addresses that do not answer.
    pub unknown: UnansweredPolicy,
    /// Its cipher.
    pub suite: CipherSuite,
    /// Its lanes, 1 to 16.
    pub lanes: u8,
}

impl PodOptions {
    /// A pod with these addresses that knows nothing.
    #[must_use]
    pub fn new(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.to_vec(),
            facts: Vec::new(),
            unknown: UnansweredPolicy::Drop,
            suite: CipherSuite::Aes256Gcm,
            lanes: 1,
        }
    }
}

/// A pod as the world keeps it.
pub(crate) struct Pod {
    pub(crate) tenant: Tenant,
    pub(crate) options: PodOptions,
    /// Its lanes.
    pub(crate) tunnels: Vec<Tunnel>,
    pub(crate) events: Vec<Event>,
    pub(crate) bypassed: Vec<Vec<u8>>,
}
