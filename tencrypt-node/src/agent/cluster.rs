//! The tenants of the cluster: the namespaces that have a tenant's label and are admitted by it, with their keys and facts.

use std::{
    cell::Ref,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crate::{
    kubernetes::{
        About, Heard, KEY_SECRET, NoKeys, Write,
        client::{Client, Place},
        directory::{self, Fact, Others, TenantScope, View},
        names::{KEYS, LABEL},
        objects::{Key, Namespace, Store},
    },
    settings::KubernetesSettings,
    tenant::{Enrolled, FactTexts, HeldKeys, Names, PodSettings, Tenant, TenantError},
};

/// The name of what is written of the node's Lease.
const LEASE: &str = "the node's Lease";

/// The name of what is written of the node's taints.
const TAINTS: &str = "the node's taints";

/// The Service of the cluster's nameservers: its name has stayed while its program has not
/// (<https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>).
const NAMESERVERS: (&str, &str) = ("kube-system", "kube-dns");

/// The cluster, for the agent.
pub(super) struct Cluster {
    source: crate::kubernetes::Cluster,
    settings: KubernetesSettings,
    node: String,
    files: Files,
    /// The keys in force, by tenant.
    held: BTreeMap<String, Rc<HeldKeys>>,
    /// By tenant.
    facts: BTreeMap<String, Known>,
}

/// The files as they were when they were good last.
#[derive(Default)]
struct Files {
    /// Of the tenants.
    tenants: BTreeMap<String, Enrolled>,
    /// The settings of all pods; none: they were never good.
    pod: Option<Rc<PodSettings>>,
}

/// The facts of a tenant, and what they were made of.
struct Known {
    stamp: (Vec<u64>, BTreeSet<String>, Rc<PodSettings>),
    facts: FactTexts,
    notes: Vec<String>,
}

/// The cluster's word on tenants and namespaces.
#[derive(Default)]
pub(super) struct Said {
    /// The tenants that can be served, by name.
    pub(super) tenants: BTreeMap<String, Tenant>,
    /// The namespaces whose pods are to be protected and cannot be, with the reason in a line.
    pub(super) claims: BTreeMap<String, String>,
    /// The namespaces that nobody has enrolled.
    pub(super) open: BTreeSet<String>,
    /// Faults of tenants, a line each.
    pub(super) tenant_faults: BTreeMap<String, String>,
    /// Faults of the source, a line each.
    pub(super) faults: Vec<String>,
    /// All was heard that there is: a namespace that is not named is none.
    pub(super) is_complete: bool,
}

impl Cluster {
    /// A cluster that is not followed yet.
    ///
    /// # Errors
    /// A line: the node's name or the server is not known.
    pub(super) fn new(settings: &KubernetesSettings) -> Result<Self, String> {
        let (node, server) = settings.place(|name| std::env::var(name).ok())?;
        let place = Place { server, token: settings.token.clone(), ca: settings.ca.clone() };
        Ok(Self {
            source: crate::kubernetes::Cluster::new(Client::new(place)),
            settings: settings.clone(),
            node,
            files: Files::default(),
            held: BTreeMap::new(),
            facts: BTreeMap::new(),
        })
    }

    /// Begins to follow it. To be called within a `LocalSet`.
    pub(super) fn follow(&mut self) {
        self.source.follow(&self.node, self.settings.tenants_config_map.as_ref());
    }

    /// Waits until something has changed. Cancel safe.
    pub(super) async fn changed(&self) {
        self.source.changed().await;
    }

    /// Returns what it says now. Keys are followed for tenants that have pods on this node: by the API, or by `has_pods`.
    pub(super) fn read(&mut self, has_pods: impl Fn(&str) -> bool) -> Said {
        let mut said = Said::default();
        let wanted = {
            let heard = self.source.heard();
            said.faults.extend(heard.faults());
            if !heard.is_complete() {
                said.faults.push("the API was not read whole yet".to_owned());
                return said;
            }
            self.files.read(&self.settings, &heard, &mut said);
            let members = members(&heard.namespaces, &self.files.tenants, &mut said);
            let populated = populated(&heard);
            let names = names(&self.settings, &heard);
            let mut wanted = BTreeSet::new();
            self.held.retain(|name, _| members.contains_key(name));
            self.facts.retain(|name, _| members.contains_key(name));
            for (name, namespaces) in members {
                let Some(file) = self.files.tenants.get(&name) else { continue };
                let Some(pod) = &self.files.pod else {
                    said.claim(&namespaces, "the settings of pods cannot be read");
                    continue;
                };
                let here: BTreeSet<String> =
                    namespaces.iter().filter(|name| populated.contains(&***name)).cloned().collect();
                if here.is_empty() && !has_pods(&name) {
                    self.held.remove(&name);
                    self.facts.remove(&name);
                    said.claim(&namespaces, &format!("the keys of tenant {name} are not on this node yet"));
                    continue;
                }
                wanted.extend(here.iter().cloned());
                let (keys, faults) = chosen(&heard, &here, self.held.get(&name));
                let (facts, notes) = known(&mut self.facts, &heard, &name, &namespaces, (pod, &self.node));
                let faults: Vec<String> = faults.into_iter().chain(notes).collect();
                said.fault(&name, &faults);
                let Some(keys) = keys else {
                    let reason =
                        if faults.is_empty() { "they are being read".to_owned() } else { faults.join("; ") };
                    said.claim(&namespaces, &format!("tenant {name} has no keys: {reason}"));
                    continue;
                };
                self.held.insert(name.clone(), Rc::clone(&keys));
                let tenant = file.tenant(&name, namespaces, keys, (pod, &names), facts);
                said.tenants.insert(name, tenant);
            }
            wanted
        };
        let served = said.tenants.values().flat_map(|tenant| tenant.namespaces.iter().cloned()).collect();
        self.source.concern(served);
        self.source.follow_keys(&wanted);
        said.is_complete = true;
        said
    }

    /// All that was heard so far.
    pub(super) fn heard(&self) -> Ref<'_, Heard> {
        self.source.heard()
    }

    /// Tells if pods of a namespace may stay out: it is of a tenant that says so.
    pub(super) fn may_opt_out(&self, namespace: &str) -> bool {
        let heard = self.source.heard();
        let named = heard.namespaces.get(&Key { namespace: String::new(), name: namespace.to_owned() });
        let tenant = named.and_then(|found| found.metadata.labels.get(LABEL));
        let file = tenant.and_then(|tenant| self.files.tenants.get(tenant));
        file.is_some_and(|file| file.pods_may_opt_out && file.admits.contains(namespace))
    }

    /// Tells which epochs the data paths of this node take, if that is not what was told last.
    pub(super) fn tell_keys(&self, text: &str) {
        self.source.say(LEASE, Write::lease_annotation(&self.node, KEYS, text));
    }

    /// Tells of a pod in an event, once.
    pub(super) fn tell_event(&self, pod: About<'_>, event: (&str, bool, &str)) {
        let name = format!("{}{} {}", of_pod(pod.uid), event.0, pod.name);
        self.source.say(&name, Write::event(pod, &self.node, event));
    }

    /// Sees to it that a pod has a label, or has it not.
    pub(super) fn label_pod(&self, pod: About<'_>, name: &str, text: Option<&str>) {
        self.source.say(&format!("{}label {}", of_pod(pod.uid), pod.name), Write::pod_label(pod, name, text));
    }

    /// Deletes a pod.
    pub(super) fn delete_pod(&self, pod: About<'_>) {
        self.source.say(&format!("{}deletion {}", of_pod(pod.uid), pod.name), Write::pod_deletion(pod));
    }

    /// Takes the taint with this key from this node, if it is there.
    pub(super) fn take_taint(&self, key: &str) {
        let write = {
            let heard = self.source.heard();
            let Some(node) = heard.nodes.get(&Key { namespace: String::new(), name: self.node.clone() })
            else {
                return;
            };
            let mut taints = node.spec.taints.clone();
            taints.retain(|taint| taint["key"] != key);
            if taints.len() == node.spec.taints.len() {
                return;
            }
            Write::node_taints(&self.node, &node.metadata.resource_version, &taints)
        };
        self.source.say(TAINTS, write);
    }

    /// Forgets what was written of other pods than those that run with these ids.
    pub(super) fn retain_pods(&self, uids: &BTreeSet<&str>) {
        self.source.retain_said(|name| match name.split_once(": ") {
            Some((uid, _)) => uids.contains(uid),
            None => true,
        });
    }

    /// The reasons why something could not be written, a line each.
    pub(super) fn write_faults(&self) -> Vec<String> {
        self.source.write_faults()
    }
}

impl Said {
    /// Adds faults of a tenant.
    fn fault(&mut self, name: &str, faults: &[String]) {
        if faults.is_empty() {
            return;
        }
        let line = self.tenant_faults.entry(name.to_owned()).or_default();
        if !line.is_empty() {
            line.push_str("; ");
        }
        line.push_str(&faults.join("; "));
    }

    /// Adds namespaces whose pods cannot be protected, for this reason.
    pub(super) fn claim(&mut self, namespaces: &BTreeSet<String>, reason: &str) {
        self.claims.extend(namespaces.iter().map(|name| (name.clone(), reason.to_owned())));
    }
}

impl Files {
    /// Reads them anew. What cannot be read stays as it was; a tenant's file that is gone takes the tenant along.
    fn read(&mut self, settings: &KubernetesSettings, heard: &Heard, said: &mut Said) {
        match PodSettings::read(&settings.pod) {
            Ok(pod) => self.pod = Some(Rc::new(pod)),
            Err(error) => said.faults.push(error.to_string()),
        }
        let read = match &settings.tenants_config_map {
            None => Enrolled::read_all(&settings.tenants),
            Some(place) => {
                let key = Key { namespace: place.namespace.clone(), name: place.name.clone() };
                let absent = || TenantError::Named(format!("{place}: is not there"));
                let map = heard.tenants.get(&key).ok_or_else(absent);
                map.and_then(|map| Enrolled::read_map(&place.to_string(), &map.data))
            }
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => return said.faults.push(error.to_string()),
        };
        self.tenants.retain(|name, _| read.contains_key(name));
        for (name, file) in read {
            match file {
                Ok(file) => {
                    self.tenants.insert(name, file);
                }
                Err(error) => said.fault(&name, &[error.to_string()]),
            }
        }
    }
}

/// The beginning of the names of what is written of a pod.
fn of_pod(uid: &str) -> String {
    format!("{uid}: ")
}

/// Returns the namespaces of each tenant. A label counts where the tenant of that name admits the namespace; where it does not, whoever
/// set it wants protection that nobody gives, so the namespace is not open either.
fn members(
    namespaces: &Store<Namespace>,
    files: &BTreeMap<String, Enrolled>,
    said: &mut Said,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut members: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (key, namespace) in namespaces {
        let name = &key.name;
        let Some(tenant) = namespace.metadata.labels.get(LABEL) else {
            said.open.insert(name.clone());
            continue;
        };
        let reason = match files.get(tenant) {
            Some(file) if file.admits.contains(name) => {
                members.entry(tenant.clone()).or_default().insert(name.clone());
                continue;
            }
            Some(_) => format!("its label names tenant {tenant}, which does not admit it"),
            None => format!("its label names tenant {tenant:?}, of which there is no good file"),
        };
        said.claims.insert(name.clone(), reason);
    }
    members
}

/// Returns the namespaces of the pods of this node that have a network namespace of their own.
fn populated(heard: &Heard) -> BTreeSet<&str> {
    let own = heard.pods.iter().filter(|(_, pod)| !pod.spec.host_network);
    own.map(|(key, _)| &*key.namespace).collect()
}

/// Returns the keys that come into force, and what is wrong with others.
fn chosen(
    heard: &Heard,
    namespaces: &BTreeSet<String>,
    held: Option<&Rc<HeldKeys>>,
) -> (Option<Rc<HeldKeys>>, Vec<String>) {
    let (mut chosen, mut faults) = (held.cloned(), Vec::new());
    for namespace in namespaces {
        let secret = match heard.keys_in(namespace) {
            Ok(secret) => secret.keys.clone(),
            Err(NoKeys::Unread) => continue,
            Err(no_keys) => Err(no_keys.to_string()),
        };
        let followed = secret.and_then(|keys| match &chosen {
            Some(before) => keys.check_follows(before).map(|()| keys).map_err(|error| error.to_string()),
            None => Ok(keys),
        });
        match followed {
            Ok(keys) => chosen = Some(keys),
            Err(reason) => faults.push(format!("Secret {KEY_SECRET} of namespace {namespace}: {reason}")),
        }
    }
    (chosen, faults)
}

/// Returns the facts of a tenant; they are made anew only where something has changed that they are made of.
fn known(
    facts: &mut BTreeMap<String, Known>,
    heard: &Heard,
    name: &str,
    namespaces: &BTreeSet<String>,
    (pod, node): (&Rc<PodSettings>, &str),
) -> (FactTexts, Vec<String>) {
    let stamp = (heard.stamp(namespaces), namespaces.clone(), Rc::clone(pod));
    if let Some(known) = facts.get(name).filter(|known| known.stamp == stamp) {
        return (known.facts.clone(), known.notes.clone());
    }
    let view = View { services: &heard.services, slices: &heard.slices, nodes: &heard.nodes, node };
    let scope = TenantScope { namespaces: namespaces.clone(), protected: pod.protected.clone() };
    let made = directory::facts(&view, &scope, Others::External);
    let lines = made.learn.iter().map(|(prefix, fact)| (*prefix, Fact::text(fact, *prefix))).collect();
    let (texts, fault) = match FactTexts::of(lines, &pod.protected) {
        Ok(texts) => (texts, None),
        // What was before holds.
        Err(reason) => {
            let before = facts.get(name).map(|known| known.facts.clone()).unwrap_or_default();
            (before, Some(format!("facts: {reason}")))
        }
    };
    let notes: Vec<String> = made.notes.into_iter().chain(fault).collect();
    let known = Known { stamp, facts: texts.clone(), notes: notes.clone() };
    facts.insert(name.to_owned(), known);
    (texts, notes)
}

/// The nameservers that kubelet gives the pods, as far as the settings do not name them.
fn names(settings: &KubernetesSettings, heard: &Heard) -> Names {
    let (namespace, name) = NAMESERVERS;
    let service = heard.services.get(&Key { namespace: namespace.to_owned(), name: name.to_owned() });
    let found = || service.into_iter().flat_map(|service| directory::addresses(&service.spec)).collect();
    let named = settings.nameservers.clone();
    Names {
        domain: settings.cluster_domain.clone(),
        nameservers: if named.is_empty() { found() } else { named },
    }
}
