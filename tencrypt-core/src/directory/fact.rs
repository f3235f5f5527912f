//! Facts: single statements about addresses, each with its source and expiry.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{
    crypto::PeerId,
    nat::{PortEndpoints, ServicePort},
};

/// Relation of an address to this tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "callers decide on every class")]
pub enum Class {
    /// A pod or service of the tenant: encrypted, or dropped.
    Internal,
    /// Of another project or outside: leaves as it is.
    External,
    /// Of the node or cluster itself (gateway, kubelet): leaves as it is and never passes the tunnel.
    Exempt,
}

impl Class {
    /// Its name in configuration and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::Exempt => "exempt",
        }
    }
}

/// Origin of a statement. Sources are ordered by [`authority`](Self::authority).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FactSource {
    /// The configuration file.
    Static,
    /// An orchestrator's API, such as that of Kubernetes, by an adapter that watches it: the adapter is its user's. The
    /// program `tencrypt` takes such facts from the agent that has started it.
    Kubernetes,
    /// An authenticated answer to INIT.
    Handshake,
    /// A DNS reply that gave this name.
    Dns(Arc<str>),
    /// A reverse lookup that gave this name.
    ReverseDns(Arc<str>),
}

impl FactSource {
    /// Tells if the source may say that an address seen internal is so no longer: only static and
    /// Kubernetes facts lower protection.
    #[must_use]
    pub const fn is_authoritative(&self) -> bool {
        matches!(self, Self::Static | Self::Kubernetes)
    }

    /// Its name in reports, without that which DNS gave.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Kubernetes => "kubernetes",
            Self::Handshake => "handshake",
            Self::Dns(_) => "dns",
            Self::ReverseDns(_) => "reverse_dns",
        }
    }

    /// The name that DNS gave, as its source wrote it: it may hold anything.
    #[must_use]
    pub fn dns_name(&self) -> Option<&str> {
        match self {
            Self::Dns(name) | Self::ReverseDns(name) => Some(name),
            Self::Static | Self::Kubernetes | Self::Handshake => None,
        }
    }

    /// Rank among sources that speak of the same prefix; the higher one is heard.
    #[must_use]
    pub const fn authority(&self) -> u8 {
        match self {
            Self::Static => 4,
            Self::Kubernetes => 3,
            Self::Handshake => 2,
            Self::Dns(_) => 1,
            Self::ReverseDns(_) => 0,
        }
    }
}

impl fmt::Display for FactSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => f.write_str("static"),
            Self::Kubernetes => f.write_str("kubernetes"),
            Self::Handshake => f.write_str("handshake"),
            Self::Dns(name) => write!(f, "dns {}", name.escape_default()),
            Self::ReverseDns(name) => write!(f, "reverse dns {}", name.escape_default()),
        }
    }
}

/// One statement about a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fact {
    /// The addresses it is about. The longest prefix wins.
    pub prefix: IpNet,
    /// Class of these addresses.
    pub class: Class,
    /// Origin of the statement.
    pub source: FactSource,
    /// The peer they belong to, if known.
    pub owner: Option<PeerId>,
    /// For a VIP: the pods behind it.
    pub endpoints: Box<[IpAddr]>,
    /// For a VIP: its ports; one that is not listed stays as it is.
    pub ports: Box<[ServicePort]>,
    /// For a VIP: its ports, each with the endpoints of just this port. Where there are any, `endpoints` and `ports` count for
    /// nothing, and other ports are refused.
    pub services: Box<[PortEndpoints]>,
    /// For a VIP with `services`: time after the last new flow to a port for which new ones go to the same endpoint.
    pub affinity: Option<Duration>,
    /// End of the statement; `None`: never.
    pub expires: Option<Instant>,
}

impl Fact {
    /// A fact with neither owner nor endpoints.
    #[must_use]
    pub fn new(prefix: impl Into<IpNet>, class: Class, source: FactSource, expires: Option<Instant>) -> Self {
        Self {
            prefix: prefix.into().trunc(),
            class,
            source,
            owner: None,
            endpoints: Box::default(),
            ports: Box::default(),
            services: Box::default(),
            affinity: None,
            expires,
        }
    }

    /// The same, about addresses of `owner`.
    #[must_use]
    pub fn with_owner(self, owner: PeerId) -> Self {
        Self { owner: Some(owner), ..self }
    }

    /// The same, about a VIP with these pods behind it, and these of its ports translated.
    #[must_use]
    pub fn with_endpoints(
        self,
        endpoints: impl Into<Box<[IpAddr]>>,
        ports: impl Into<Box<[ServicePort]>>,
    ) -> Self {
        Self { endpoints: endpoints.into(), ports: ports.into(), ..self }
    }

    /// The same, about a VIP with these ports, each with endpoints of its own, and this affinity.
    #[must_use]
    pub fn with_services(
        self,
        services: impl Into<Box<[PortEndpoints]>>,
        affinity: Option<Duration>,
    ) -> Self {
        Self { services: services.into(), affinity, ..self }
    }

    /// Tells if it is about a VIP whose endpoints are known, be it that there are none now.
    #[must_use]
    pub fn is_service(&self) -> bool {
        !self.endpoints.is_empty() || !self.services.is_empty()
    }

    /// The pods behind a VIP, by all of its ports: one may come several times.
    pub fn pods(&self) -> impl Iterator<Item = IpAddr> {
        let by_port = self.services.iter().flat_map(PortEndpoints::endpoints).map(SocketAddr::ip);
        let shared = self.endpoints.iter().copied().filter(|_| self.services.is_empty());
        shared.chain(by_port)
    }

    /// Tells if the statement still stands at `now`.
    #[must_use]
    pub fn is_live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// A change to what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FactChange {
    /// A new fact, or a new expiry for one that is known.
    Learn(Fact),
    /// Whatever `source` said of exactly `prefix` no longer holds.
    Forget {
        /// The prefix it was about.
        prefix: IpNet,
        /// Origin of the statement.
        source: FactSource,
    },
}
