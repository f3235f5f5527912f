//! The directory: facts of one tenant, from what the API server of Kubernetes says of Services, endpoints and nodes.
//!
//! A tenant is told of its own pods and Services, and of others' virtual addresses and nodes as far as they would be taken for the
//! tenant's. The cost is that of its own namespaces, of the number of Services and of the nodes.

mod fact;
mod notes;
mod owners;
#[cfg(test)]
mod properties;
mod scope;
#[cfg(test)]
mod tests;
mod vips;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use ipnet::IpNet;

pub(crate) use self::vips::addresses;
pub(crate) use self::{
    fact::Fact,
    scope::{Others, TenantScope, View},
};
use self::{
    notes::Notes,
    owners::Owners,
    vips::{Backed, Near},
};
use super::objects::{EndpointSlice, Key, SERVICE_NAME, Service, in_namespace};

/// Most facts of a tenant: a data path takes 65,536, and some are left for changes of which what is new comes first.
pub(crate) const MOST: usize = 60_000;

/// Most ports of all virtual addresses of a tenant, with the endpoints of each: at 60 bytes each, the text of all facts keeps below
/// 16 MiB, which is what a data path takes at its start.
const MOST_TARGETS: usize = 200_000;

/// The label of a node with its zone (<https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone>).
const ZONE: &str = "topology.kubernetes.io/zone";

/// The facts of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The facts, each about one address.
    pub(crate) learn: BTreeMap<IpNet, Fact>,
    /// Lines for people about what could not be said.
    pub(crate) notes: Vec<String>,
}

/// Makes the facts of a tenant.
pub(crate) fn facts(view: &View<'_>, tenant: &TenantScope, others: Others) -> Facts {
    let owners = Owners::of(view, tenant);
    let mut making = Making { tenant, owners: &owners, facts: BTreeMap::new(), targets: 0, lacks: false };
    let mut notes = Notes::default();
    for address in owners.pods() {
        making.learn(address, Fact::Internal);
    }
    for address in owners.contested() {
        notes.add(format!(
            "{address} is a pod's by its slice, and a node's by the node: nothing is said of it"
        ));
    }
    for namespace in &tenant.namespaces {
        making.own_services(view, namespace, &mut notes);
    }
    if making.lacks {
        notes.add(format!("the tenant has more than {MOST} pods and Services: the rest is not told"));
        making.lacks = false;
    }
    making.others(view, others);
    if making.lacks {
        notes.add(format!("more than {MOST} facts: addresses of nodes or of others' Services are not told"));
    }
    Facts { learn: making.facts, notes: notes.finish() }
}

/// Tells if a Service is the API server's own, which it makes itself.
fn is_api_server(service: &Service) -> bool {
    service.metadata.namespace == "default" && service.metadata.name == "kubernetes"
}

/// Facts in the making. What is said first stands.
struct Making<'m> {
    /// The tenant.
    tenant: &'m TenantScope,
    /// Whose addresses are.
    owners: &'m Owners<'m>,
    /// The facts so far.
    facts: BTreeMap<IpNet, Fact>,
    /// Ports so far, with the endpoints of each.
    targets: usize,
    /// True once a fact was left out.
    lacks: bool,
}

impl Making<'_> {
    /// Adds a fact about a protected address of which nothing has been said.
    fn learn(&mut self, address: IpAddr, fact: Fact) {
        let is_full = self.facts.len() >= MOST;
        if let Entry::Vacant(place) = self.facts.entry(address.into()) {
            if is_full {
                self.lacks = true;
            } else {
                place.insert(fact);
            }
        }
    }

    /// Adds an address as external, unless it is a pod's of the tenant, or is not captured at all.
    fn external(&mut self, address: IpAddr) {
        if self.tenant.protects(address) && !self.owners.is_spoken_for(address) {
            self.learn(address, Fact::External);
        }
    }

    /// Adds the virtual addresses of the Services in one of the tenant's namespaces.
    fn own_services(&mut self, view: &View<'_>, namespace: &str, notes: &mut Notes) {
        let mut slices: BTreeMap<&str, Vec<&EndpointSlice>> = BTreeMap::new();
        for (_, slice) in in_namespace(view.slices, namespace) {
            if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
                slices.entry(service).or_default().push(slice);
            }
        }
        let own = view.nodes.get(&Key { namespace: String::new(), name: view.node.to_owned() });
        let zone = own.and_then(|node| node.metadata.labels.get(ZONE)).map_or("", String::as_str);
        let near = Near { node: view.node, zone };
        for (key, service) in in_namespace(view.services, namespace) {
            if is_api_server(service) {
                continue;
            }
            let slices = slices.get(key.name.as_str()).map_or(&[][..], Vec::as_slice);
            let backed = Backed::new(service, slices, self.owners, near);
            for vip in addresses(&service.spec) {
                if !self.tenant.protects(vip) {
                    notes.add(format!(
                        "Service {namespace}/{}: {vip} lies outside of network.protected: its traffic is plain",
                        key.name
                    ));
                } else if !self.owners.is_spoken_for(vip) {
                    let fact = self.within_bounds(backed.fact(vip, notes), notes);
                    self.learn(vip, fact);
                }
            }
        }
    }

    /// Counts the endpoints of a fact, and leaves them out if they are too many.
    fn within_bounds(&mut self, fact: Fact, notes: &mut Notes) -> Fact {
        let Fact::Vip(mut vip) = fact else { return fact };
        let targets: usize = vip.services.iter().map(|set| 1 + set.targets.len()).sum();
        if self.targets + targets > MOST_TARGETS {
            vip.services.clear();
            notes.add(format!(
                "the tenant's Services have more than {MOST_TARGETS} ports and endpoints: {} is not reached",
                vip.service
            ));
        } else {
            self.targets += targets;
        }
        Fact::Vip(vip)
    }

    /// Adds the API server, the nodes, and the virtual addresses of Services of other namespaces.
    fn others(&mut self, view: &View<'_>, others: Others) {
        let all = || view.services.values();
        for address in all().filter(|service| is_api_server(service)).flat_map(|api| addresses(&api.spec)) {
            self.external(address);
        }
        for address in self.owners.nodes() {
            self.external(address);
        }
        if others == Others::Unsaid {
            return;
        }
        for service in all().filter(|service| !self.tenant.namespaces.contains(&service.metadata.namespace)) {
            for address in addresses(&service.spec) {
                self.external(address);
            }
        }
    }
}
