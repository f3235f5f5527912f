//! Virtual addresses of the tenant's Services, and which endpoints they lead to: those that kube-proxy would choose.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use tencrypt::packet::is_host_address;

use super::{
    super::objects::{Endpoint, EndpointSlice, Hint, Service, ServicePort, ServiceSpec},
    fact::{Fact, PortSet, Protocol, Vip},
    notes::Notes,
    owners::{Owner, Owners},
};

/// Most ports of a virtual address, and most endpoints of a port, that a data path takes.
const MOST: usize = 1_000;

/// Most endpoints of all ports of a virtual address together, so that the fact keeps below 256 KiB: one of IPv6 has 51 bytes at
/// most, a port 60 without its endpoints.
const MOST_OF_ALL: usize = 3_500;

/// Seconds of an affinity of which the Service does not say any (core/v1 `ClientIPConfig.timeoutSeconds`).
const AFFINITY: u32 = 10_800;

/// Most seconds of an affinity: a day (the same).
const MAX_AFFINITY: u32 = 86_400;

/// Reads the virtual addresses of a Service: one of each family at most, none if it is headless or an `ExternalName`.
pub(crate) fn addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let first = Some(&spec.cluster_ip).filter(|_| spec.cluster_ips.is_empty());
    let texts = spec.cluster_ips.iter().chain(first).filter(|_| spec.kind != "ExternalName");
    texts.filter_map(|text| text.parse().ok()).filter(|address| is_host_address(*address))
}

/// A Service of the tenant's with its slices.
#[derive(Debug)]
pub(super) struct Backed<'v> {
    /// Its name, for people.
    name: String,
    /// The Service.
    service: &'v Service,
    /// The endpoints of its slices, of both families.
    backs: Vec<Back<'v>>,
}

/// An endpoint of a slice.
#[derive(Debug)]
struct Back<'v> {
    /// The slice, for its ports.
    slice: &'v EndpointSlice,
    /// Its address.
    address: IpAddr,
    /// Its owner.
    owner: Owner,
    /// Its readiness.
    state: State,
}

/// An endpoint as one node has it.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Ready for traffic.
    is_ready: bool,
    /// Terminating, and still serving.
    is_leaving: bool,
    /// For this node, by its hints; none: its hints name no nodes.
    is_for_node: Option<bool>,
    /// For this node's zone, by its hints; none: they name no zones.
    is_for_zone: Option<bool>,
}

impl State {
    /// Takes in an endpoint, as one more of the slices has it.
    fn add(&mut self, other: Self) {
        self.is_ready |= other.is_ready;
        self.is_leaving |= other.is_leaving;
        self.is_for_node = self.is_for_node.max(other.is_for_node);
        self.is_for_zone = self.is_for_zone.max(other.is_for_zone);
    }
}

/// The node that endpoints are chosen for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Near<'v> {
    /// Its name.
    pub(super) node: &'v str,
    /// Its zone; empty if nobody has said.
    pub(super) zone: &'v str,
}

impl Near<'_> {
    fn state(self, endpoint: &Endpoint, is_local_only: bool) -> State {
        let is_near = !is_local_only || endpoint.node() == Some(self.node);
        let conditions = endpoint.conditions;
        // A policy of locality comes before any hint.
        let hints = endpoint.hints.as_ref().filter(|_| !is_local_only);
        let names = |list: &[Hint], own: &str| {
            (!list.is_empty()).then(|| list.iter().any(|hint| hint.name == own && !own.is_empty()))
        };
        State {
            is_ready: is_near && conditions.is_ready(),
            is_leaving: is_near && conditions.is_serving() && conditions.is_terminating(),
            is_for_node: hints.and_then(|hints| names(&hints.for_nodes, self.node)),
            is_for_zone: hints.and_then(|hints| names(&hints.for_zones, self.zone)),
        }
    }
}

impl<'v> Backed<'v> {
    /// Takes a Service with its slices, for a node.
    pub(super) fn new(
        service: &'v Service,
        slices: &[&'v EndpointSlice],
        owners: &Owners<'_>,
        near: Near<'_>,
    ) -> Self {
        let is_local_only = service.spec.internal_traffic_policy == "Local";
        let mut backs = Vec::new();
        for slice in slices {
            for endpoint in &slice.endpoints {
                let Some((address, owner)) = owners.owner(slice, endpoint) else { continue };
                let state = near.state(endpoint, is_local_only);
                backs.push(Back { slice, address, owner, state });
            }
        }
        let name = service.metadata.full_name();
        Self { name, service, backs }
    }

    /// Says what is behind the virtual address `vip`.
    ///
    /// kube-proxy serves an external one in plain, so it is external only if no endpoint, in whatever state, may be a pod of the
    /// tenant's. Where a selector chooses pods, endpoints outside are not the controller's doing and make nothing external: only
    /// pods on their nodes' network do.
    pub(super) fn fact(&self, vip: IpAddr, notes: &mut Notes) -> Fact {
        let name = &self.name;
        let has_selector = !self.service.spec.selector.is_empty();
        let family = || self.backs.iter().filter(|back| back.address.is_ipv4() == vip.is_ipv4());
        let has = |owner: Owner| family().any(|back| back.owner == owner);
        let is_inside = has(Owner::Pod) || has(Owner::Unknown) || has(Owner::Contested);
        let is_outside = has(Owner::HostPod) || has(Owner::Foreign);
        if !is_inside && (has(Owner::HostPod) || (!has_selector && is_outside)) {
            return Fact::External;
        }
        let of = if has_selector || has(Owner::Pod) { Owner::Pod } else { Owner::Unknown };
        if family().any(|back| back.owner != of) {
            notes.add(format!(
                "Service {name}: of its endpoints those alone are reached that are known to be the tenant's pods"
            ));
        } else if of == Owner::Unknown && has(of) {
            notes.add(format!(
                "Service {name}: nothing shows whose its endpoints are, so they have to prove that they are the tenant's"
            ));
        }
        let backs: Vec<&Back<'_>> = family().filter(|back| back.owner == of).collect();
        Fact::Vip(Vip {
            service: name.clone(),
            services: self.ports(&backs, notes),
            affinity: affinity(&self.service.spec),
        })
    }

    /// Returns the ports with those of `backs` that are to be reached there.
    fn ports(&self, backs: &[&Back<'_>], notes: &mut Notes) -> Vec<PortSet> {
        let mut seen = BTreeSet::new();
        let mut sets = Vec::new();
        let mut lacks = false;
        for port in &self.service.spec.ports {
            let Some(protocol) = Protocol::parse(&port.protocol).filter(|_| port.port != 0) else { continue };
            if !seen.insert((protocol, port.port)) {
                continue;
            }
            let mut targets = targets(port, protocol, backs);
            if protocol == Protocol::Sctp {
                // A data path does not rewrite ports of SCTP.
                let before = targets.len();
                targets.retain(|target| target.port() == port.port);
                lacks |= targets.len() < before;
            }
            sets.push(PortSet { protocol, port: port.port, targets });
        }
        lacks |= sets.len() > MOST;
        sets.truncate(MOST);
        let room = MOST.min(MOST_OF_ALL / sets.len().max(1));
        for set in &mut sets {
            lacks |= set.targets.len() > room;
            set.targets.truncate(room);
        }
        if lacks {
            notes.add(format!("Service {}: some of its ports or endpoints are not reached", self.name));
        }
        sets
    }
}

/// Returns where a port leads to, in order, as kube-proxy has it: to the endpoints that are ready; if there is none, to those
/// that serve though they are terminating (KEP-1669, `Proxy Terminating Endpoints`). If every ready one has hints, those that are for
/// this node are taken, else those for its zone, unless there is none (`topologyModeFromHints`, pkg/proxy/topology.go). A slice has the number of its port by the
/// name of the Service's port. An endpoint that two slices have, as one has that is moved between them, is one.
fn targets(port: &ServicePort, protocol: Protocol, backs: &[&Back<'_>]) -> Vec<SocketAddr> {
    let mut states: BTreeMap<SocketAddr, State> = BTreeMap::new();
    for back in backs {
        for end in &back.slice.ports {
            let is_this = end.name.as_deref().unwrap_or_default() == port.name
                && Protocol::parse(end.protocol.as_deref().unwrap_or_default()) == Some(protocol);
            let Some(number) = end.port.filter(|number| is_this && *number != 0) else { continue };
            let state = states.entry(SocketAddr::new(back.address, number)).or_default();
            state.add(back.state);
        }
    }
    let those = |is: &dyn Fn(&State) -> bool| -> Vec<SocketAddr> {
        states.iter().filter(|(_, state)| is(state)).map(|(target, _)| *target).collect()
    };
    let hints: [fn(&State) -> Option<bool>; 2] = [|state| state.is_for_node, |state| state.is_for_zone];
    for hint in hints {
        let mut ready = states.values().filter(|state| state.is_ready);
        let hinted = those(&|state| state.is_ready && hint(state) == Some(true));
        if !hinted.is_empty() && ready.all(|state| hint(state).is_some()) {
            return hinted;
        }
    }
    let ready = those(&|state| state.is_ready);
    if ready.is_empty() { those(&|state| state.is_leaving) } else { ready }
}

/// Returns the seconds for which clients stay with an endpoint.
fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity != "ClientIP" {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    Some(config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY).clamp(1, MAX_AFFINITY))
}
