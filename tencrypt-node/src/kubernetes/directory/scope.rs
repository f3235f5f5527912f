//! The part of a cluster that facts are made of, and the tenant that they are for.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::super::objects::{EndpointSlice, Node, Service, Store};

/// A cluster as it is seen from one of its nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'v> {
    /// Services of all namespaces.
    pub(crate) services: &'v Store<Service>,
    /// Their endpoints. Of those in namespaces of other tenants none is looked at.
    pub(crate) slices: &'v Store<EndpointSlice>,
    /// Nodes.
    pub(crate) nodes: &'v Store<Node>,
    /// Name of the node on which the facts are to hold: `internalTrafficPolicy` and hints ask for it.
    pub(crate) node: &'v str,
}

/// A tenant.
#[derive(Debug, Clone, Default)]
pub(crate) struct TenantScope {
    /// Its namespaces.
    pub(crate) namespaces: BTreeSet<String>,
    /// Ranges whose traffic its data paths capture.
    pub(crate) protected: Vec<IpNet>,
}

impl TenantScope {
    /// Tells if the address lies in `protected`: what does not is never captured, and may not be internal.
    pub(super) fn protects(&self, address: IpAddr) -> bool {
        self.protected.iter().any(|range| range.contains(&address))
    }
}

/// Part of what is said of Services that are not the tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// That their virtual addresses are external.
    External,
    /// Nothing: a data path asks them before the first packet.
    Unsaid,
}
