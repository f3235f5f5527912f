//! A service as its caller describes it: the pods behind its address, for all of its ports or for each.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::packet::Flow;

/// Number of TCP (IANA, Assigned Internet Protocol Numbers), as are the next two.
const TCP: u8 = 6;
/// Number of UDP.
const UDP: u8 = 17;
/// Number of SCTP.
const SCTP: u8 = 132;

/// A service whose endpoints are known.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Service<'a> {
    /// Its virtual address.
    pub vip: IpAddr,
    /// The pods behind it. Those of the other address family are passed over.
    pub endpoints: &'a [IpAddr],
    /// Its ports. One that is not listed stays as it is.
    pub ports: &'a [ServicePort],
    /// Its ports with endpoints of their own. Where there are any, `endpoints` and `ports` count for nothing, and a port of
    /// TCP or UDP that is not among these is refused.
    pub services: &'a [PortEndpoints],
    /// Time after the last new flow to one of `services` for which new ones go to the same endpoint, while that is listed.
    pub affinity: Option<Duration>,
    /// Endpoints not to choose, above all the pod's own addresses: they are reached by
    /// [`Nat::loop_back`](super::Nat::loop_back).
    pub exclude: &'a [IpAddr],
}

/// A port of a service, as clients know it and as its pods do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ServicePort {
    /// The port of the service's address.
    pub port: u16,
    /// The port at the endpoints.
    pub target: u16,
}

impl ServicePort {
    /// The port `port` of a service, which is `target` at its endpoints.
    #[must_use]
    pub const fn new(port: u16, target: u16) -> Self {
        Self { port, target }
    }
}

/// Protocol of a service's port, one of those that Kubernetes knows (core/v1 `ServicePort.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "Kubernetes has these three")]
pub enum ServiceProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP. Its ports are not looked at and never rewritten, so a packet goes to an endpoint of any SCTP port.
    Sctp,
}

impl ServiceProtocol {
    /// Its number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
            Self::Sctp => SCTP,
        }
    }
}

/// A port of a service with the endpoints of just this port. Each has a target port of its own: a port that is named in the
/// service may be another number in each pod (core/v1 `ServicePort.targetPort`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEndpoints {
    protocol: ServiceProtocol,
    port: u16,
    /// In order, each once, so that a known flow's endpoint is found without a look at all of them.
    endpoints: Box<[SocketAddr]>,
}

impl PortEndpoints {
    /// The port `port` of a service, with these endpoints; none: nobody can be reached there now.
    #[must_use]
    pub fn new(protocol: ServiceProtocol, port: u16, endpoints: impl Into<Vec<SocketAddr>>) -> Self {
        let mut endpoints = endpoints.into();
        endpoints.sort_unstable();
        endpoints.dedup();
        Self { protocol, port, endpoints: endpoints.into() }
    }

    /// Its protocol.
    #[must_use]
    pub const fn protocol(&self) -> ServiceProtocol {
        self.protocol
    }

    /// The port of the service's address.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its endpoints, in order.
    #[must_use]
    pub const fn endpoints(&self) -> &[SocketAddr] {
        &self.endpoints
    }

    /// Tells if packets of `flow` may go by this port. A protocol that no service has, as ICMP, goes by any.
    fn takes(&self, flow: Flow) -> bool {
        match flow.protocol {
            TCP | UDP => self.protocol.number() == flow.protocol && self.port == flow.destination_port,
            SCTP => self.protocol == ServiceProtocol::Sctp,
            _ => true,
        }
    }

    /// Tells if `to` goes to one of its endpoints.
    fn lists(&self, to: Flow) -> bool {
        if has_ports(to) {
            return self.endpoints.binary_search(&destination(to)).is_ok();
        }
        let at = self.endpoints.partition_point(|endpoint| endpoint.ip() < to.destination);
        self.endpoints.get(at).is_some_and(|endpoint| endpoint.ip() == to.destination)
    }
}

impl<'a> Service<'a> {
    /// The service at `vip`, with neither endpoints nor ports.
    #[must_use]
    pub const fn new(vip: IpAddr) -> Self {
        Self { vip, endpoints: &[], ports: &[], services: &[], affinity: None, exclude: &[] }
    }

    /// Tells if an endpoint may be chosen.
    pub(super) fn may_choose(&self, endpoint: IpAddr) -> bool {
        endpoint.is_ipv4() == self.vip.is_ipv4() && !self.exclude.contains(&endpoint)
    }

    /// Tells if the service has no port for packets of `flow`.
    pub(super) fn lacks(&self, flow: Flow) -> bool {
        !self.services.iter().any(|port| port.takes(flow))
    }

    /// Tells if the endpoint that `from` was directed to as `to` is still one for it.
    pub(super) fn lists(&self, from: Flow, to: Flow) -> bool {
        if self.services.is_empty() {
            return self.endpoints.contains(&to.destination);
        }
        self.services.iter().any(|port| port.takes(from) && port.lists(to))
    }

    /// The translations of a packet of `flow` to each endpoint of its port, one or several times.
    pub(super) fn ways(&self, flow: Flow) -> impl Iterator<Item = Flow> + use<'a> {
        let ports = self.services.iter().filter(move |port| port.takes(flow));
        ports.flat_map(|port| &port.endpoints).map(move |endpoint| {
            let destination_port = if has_ports(flow) { endpoint.port() } else { flow.destination_port };
            Flow { destination: endpoint.ip(), destination_port, ..flow }
        })
    }

    /// The excluded endpoint that a packet of `flow` has to go to, for there is no other behind its port of `services`.
    pub(crate) fn excluded_alone(&self, flow: Flow) -> Option<IpAddr> {
        let mut alone = None;
        for way in self.ways(flow).filter(|way| way.destination.is_ipv4() == self.vip.is_ipv4()) {
            if !self.exclude.contains(&way.destination) {
                return None;
            }
            alone.get_or_insert(way.destination);
        }
        alone
    }

    /// The target port of a packet to a service whose ports all have the same endpoints. Protocols without ports have nothing
    /// to map.
    pub(super) fn target_port(&self, flow: Flow) -> u16 {
        let listed = self.ports.iter().find(|port| has_ports(flow) && port.port == flow.destination_port);
        listed.map_or(flow.destination_port, |port| port.target)
    }
}

/// The destination of a flow's packets.
pub(super) fn destination(flow: Flow) -> SocketAddr {
    SocketAddr::new(flow.destination, flow.destination_port)
}

/// Tells if the ports of a flow can be rewritten.
const fn has_ports(flow: Flow) -> bool {
    matches!(flow.protocol, TCP | UDP)
}
