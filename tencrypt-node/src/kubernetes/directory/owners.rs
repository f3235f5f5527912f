//! The owners of addresses, as far as the tenant's own slices and the nodes show it.
//!
//! Pods are not looked at: a node does not follow those of the whole cluster. So a slice's word is taken for what a pod of its own
//! namespace has as its address, and for nothing else. A slice that lies can have the tenant's own packets to an address dropped
//! that is not the tenant's: who is internal has to prove it with the tenant's key. It cannot have them leave in plain.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tencrypt::packet::{is_host_address, is_tunnel_address};

use super::{
    super::objects::{Endpoint, EndpointSlice, Node, Store, in_namespace},
    scope::{TenantScope, View},
};

/// Owners of addresses, for one tenant.
#[derive(Debug)]
pub(super) struct Owners<'v> {
    /// The tenant.
    scope: &'v TenantScope,
    /// The names of the nodes that have an address.
    nodes: BTreeMap<IpAddr, BTreeSet<&'v str>>,
    /// Addresses of the tenant's pods.
    pods: BTreeSet<IpAddr>,
    /// Addresses that a pod of the tenant's on one node has by its slice, and another node by its own word. A node writes its
    /// addresses itself (`status.addresses`), so one that is taken over may name a pod's: nothing is said of these.
    contested: BTreeSet<IpAddr>,
}

/// Owner of an endpoint's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A pod of the tenant's.
    Pod,
    /// A pod of the tenant's on its node's network, with the address of the node: it has no data path.
    HostPod,
    /// Nobody that the tenant's slices know. It may be a pod of the tenant's that no Service names.
    Unknown,
    /// Contested by a node.
    Contested,
    /// A node, or somebody outside of what is protected.
    Foreign,
}

impl<'v> Owners<'v> {
    /// Reads nodes, and the slices of the tenant's namespaces.
    pub(super) fn of(view: &View<'v>, scope: &'v TenantScope) -> Self {
        let mut owners = Self {
            scope,
            nodes: node_addresses(view.nodes),
            pods: BTreeSet::new(),
            contested: BTreeSet::new(),
        };
        for namespace in &scope.namespaces {
            for (_, slice) in in_namespace(view.slices, namespace) {
                slice.endpoints.iter().for_each(|endpoint| owners.note(slice, endpoint));
            }
        }
        owners
    }

    /// Addresses of the tenant's pods. All of them lie in `protected`, and none is a node's.
    pub(super) fn pods(&self) -> impl Iterator<Item = IpAddr> {
        self.pods.iter().copied()
    }

    /// Addresses of nodes that may be called external.
    pub(super) fn nodes(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.keys().copied().filter(|address| !self.contested.contains(address))
    }

    /// Contested addresses.
    pub(super) fn contested(&self) -> impl Iterator<Item = IpAddr> {
        self.contested.iter().copied()
    }

    /// Tells if nothing may be said of the address but by those above.
    pub(super) fn is_spoken_for(&self, address: IpAddr) -> bool {
        self.pods.contains(&address) || self.contested.contains(&address)
    }

    /// Returns the address of an endpoint in a slice of the tenant's, and whose it is; none if it has none that packets go to.
    pub(super) fn owner(&self, slice: &EndpointSlice, endpoint: &Endpoint) -> Option<(IpAddr, Owner)> {
        let address = address(endpoint)?;
        let owner = if self.pods.contains(&address) {
            Owner::Pod
        } else if self.contested.contains(&address) {
            Owner::Contested
        } else if self.nodes.contains_key(&address) {
            if is_of_own_pod(self.scope, slice, endpoint) { Owner::HostPod } else { Owner::Foreign }
        } else if self.scope.protects(address) {
            Owner::Unknown
        } else {
            Owner::Foreign
        };
        Some((address, owner))
    }

    /// Takes in what an endpoint says of its pod.
    fn note(&mut self, slice: &EndpointSlice, endpoint: &Endpoint) {
        let Some(address) = address(endpoint).filter(|address| self.scope.protects(*address)) else { return };
        if !is_of_own_pod(self.scope, slice, endpoint) {
            return;
        }
        match (self.nodes.get(&address), endpoint.node()) {
            (None, _) => {
                self.pods.insert(address);
            }
            (Some(nodes), Some(node)) if !nodes.contains(node) => {
                self.contested.insert(address);
            }
            (Some(_), _) => {}
        }
    }
}

/// Tells if an endpoint of a slice says that it is a pod of the tenant's.
fn is_of_own_pod(scope: &TenantScope, slice: &EndpointSlice, endpoint: &Endpoint) -> bool {
    endpoint.target_ref.as_ref().is_some_and(|target| {
        let namespace =
            if target.namespace.is_empty() { &slice.metadata.namespace } else { &target.namespace };
        target.kind == "Pod" && scope.namespaces.contains(namespace)
    })
}

/// Reads the address of an endpoint. Of several the first counts, as for kube-proxy (discovery.k8s.io/v1 `Endpoint.addresses`).
fn address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok().filter(|address| is_tunnel_address(*address))
}

/// Reads the addresses of nodes within the cluster (core/v1 `NodeAddress`, `InternalIP`).
fn node_addresses(nodes: &Store<Node>) -> BTreeMap<IpAddr, BTreeSet<&str>> {
    let mut addresses: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for (key, node) in nodes {
        let inner = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let inner = inner.filter_map(|address| address.address.parse().ok());
        for address in inner.filter(|address| is_host_address(*address)) {
            addresses.entry(address).or_default().insert(&key.name);
        }
    }
    addresses
}
