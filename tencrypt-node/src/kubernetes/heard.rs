//! All that was heard of the cluster. It stays where nothing is heard any more.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    objects::{ConfigMap, EndpointSlice, Key, Namespace, Node, Object, Pod, Service, Store},
    secrets::KeySecret,
    watching::{News, apply},
};

/// The objects of the cluster, as they were heard of last.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// All namespaces.
    pub(crate) namespaces: Store<Namespace>,
    /// The pods of this node.
    pub(crate) pods: Store<Pod>,
    /// All Services.
    pub(crate) services: Store<Service>,
    /// All EndpointSlices.
    pub(crate) slices: Store<EndpointSlice>,
    /// All nodes.
    pub(crate) nodes: Store<Node>,
    /// The ConfigMap with the tenants' files, where it is followed.
    pub(crate) tenants: Store<ConfigMap>,
    keys: BTreeMap<String, KeySecret>,
    collections: BTreeMap<&'static str, Collection>,
    secrets: BTreeMap<String, Collection>,
    /// Changes of what concerns every tenant: Services and nodes.
    common_changes: u64,
    /// Changes of EndpointSlices, by namespace.
    slice_changes: BTreeMap<String, u64>,
    /// The namespaces of tenants that are served here.
    concerned: BTreeSet<String>,
}

/// The reason why there are no keys of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKeys {
    /// They are being read.
    #[error("was not read yet")]
    Unread,
    /// There is no such Secret.
    #[error("is not there")]
    Absent,
    /// It cannot be read, for this reason.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// A collection's state.
#[derive(Debug, Default)]
struct Collection {
    was_listed: bool,
    fault: Option<String>,
    /// The objects that make no sense, with the reason.
    unread: BTreeMap<Key, String>,
}

/// The collection that is not followed everywhere.
const TENANTS: &str = "configmaps";

/// The collections without which nothing is known.
const COLLECTIONS: [&str; 5] = ["namespaces", "pods", "services", "endpointslices", "nodes"];

impl Heard {
    /// Takes in news of namespaces. Returns true if anything follows from them, as do those that are like it.
    pub(super) fn namespaces(&mut self, news: News<Namespace>) -> bool {
        let is_word = self.note("namespaces", &news);
        apply(&mut self.namespaces, news) || is_word
    }

    /// Takes in news of the node's pods.
    pub(super) fn pods(&mut self, news: News<Pod>) -> bool {
        let is_word = self.note("pods", &news);
        apply(&mut self.pods, news) || is_word
    }

    /// Expects news of the ConfigMap with the tenants' files: without them nothing is [complete](Self::is_complete).
    pub(super) fn expect_tenants(&mut self) {
        self.collections.entry(TENANTS).or_default();
    }

    /// Takes in news of the ConfigMap with the tenants' files.
    pub(super) fn tenants(&mut self, news: News<ConfigMap>) -> bool {
        let is_word = self.note(TENANTS, &news);
        apply(&mut self.tenants, news) || is_word
    }

    /// Takes in news of Services.
    pub(super) fn services(&mut self, news: News<Service>) -> bool {
        let is_word = self.note("services", &news);
        let is_changed = apply(&mut self.services, news);
        self.common_changes += u64::from(is_changed);
        is_changed || is_word
    }

    /// Takes in news of nodes.
    pub(super) fn nodes(&mut self, news: News<Node>) -> bool {
        let is_word = self.note("nodes", &news);
        // Kubelet renews a node's status each few minutes; its addresses, taints and labels are what is read.
        let is_same = match &news {
            News::Set(node) => {
                let before = self.nodes.get(&Key::of(node.meta()));
                before.is_some_and(|before| {
                    let (old, new) = (&before.metadata.labels, &node.metadata.labels);
                    before.status.addresses == node.status.addresses && before.spec == node.spec && old == new
                })
            }
            _ => false,
        };
        let is_changed = apply(&mut self.nodes, news) && !is_same;
        self.common_changes += u64::from(is_changed);
        is_changed || is_word
    }

    /// Takes in news of EndpointSlices. Of those in namespaces that [concern](Self::concern) nobody here nothing follows.
    pub(super) fn slices(&mut self, news: News<EndpointSlice>) -> bool {
        let is_word = self.note("endpointslices", &news);
        let follows = match &news {
            // Others may be gone, so it concerns all.
            News::All(_) => {
                self.common_changes += 1;
                true
            }
            News::Set(slice) => self.count_slice(slice.meta().namespace.clone()),
            News::Gone(key) | News::Unread(key, _) => self.count_slice(key.namespace.clone()),
            News::Deaf(_) | News::Heard => false,
        };
        apply(&mut self.slices, news);
        follows || is_word
    }

    /// Names the namespaces of tenants that are served here.
    pub(super) fn concern(&mut self, namespaces: BTreeSet<String>) {
        self.concerned = namespaces;
    }

    /// Counts a change. Returns true if it concerns a tenant that is served here.
    fn count_slice(&mut self, namespace: String) -> bool {
        let is_concern = self.concerned.contains(&namespace);
        *self.slice_changes.entry(namespace).or_default() += 1;
        is_concern
    }

    /// Takes in news of the keys in a namespace. What is gone stays in force, and is told.
    pub(super) fn keys(&mut self, namespace: &str, news: News<KeySecret>) -> bool {
        let state = self.secrets.entry(namespace.to_owned()).or_default();
        state.note(&news);
        match news {
            News::All(secrets) => match secrets.into_iter().next() {
                Some(secret) => {
                    self.keys.insert(namespace.to_owned(), secret);
                }
                None => {
                    self.keys.remove(namespace);
                }
            },
            News::Set(secret) => {
                self.keys.insert(namespace.to_owned(), secret);
            }
            News::Gone(_) | News::Unread(..) => {
                self.keys.remove(namespace);
            }
            News::Deaf(_) | News::Heard => {}
        }
        true
    }

    /// Forgets the keys of other namespaces than these.
    pub(super) fn retain_keys(&mut self, namespaces: &BTreeSet<String>) {
        self.keys.retain(|namespace, _| namespaces.contains(namespace));
        self.secrets.retain(|namespace, _| namespaces.contains(namespace));
    }

    /// The Secret with the keys in a namespace.
    ///
    /// # Errors
    /// See [`NoKeys`].
    pub(crate) fn keys_in(&self, namespace: &str) -> Result<&KeySecret, NoKeys> {
        if let Some(secret) = self.keys.get(namespace) {
            return Ok(secret);
        }
        let state = self.secrets.get(namespace);
        match state.and_then(|state| state.fault.as_deref()) {
            Some(fault) => Err(NoKeys::Unreadable(fault.to_owned())),
            None if state.is_some_and(|state| state.was_listed) => Err(NoKeys::Absent),
            None => Err(NoKeys::Unread),
        }
    }

    /// Tells if every collection was heard of once, so that what is not here is not there.
    pub(crate) fn is_complete(&self) -> bool {
        let is_known = |name| self.collections.contains_key(name);
        COLLECTIONS.iter().all(is_known) && self.collections.values().all(|state| state.was_listed)
    }

    /// The collections of which nothing is heard now, or of which an object makes no sense, a line each.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        self.collections
            .iter()
            .flat_map(|(name, state)| state.faults().map(move |fault| format!("{name}: {fault}")))
    }

    /// A stamp that is another one once something has changed that the facts of a tenant with these namespaces are made of.
    pub(crate) fn stamp(&self, namespaces: &BTreeSet<String>) -> Vec<u64> {
        let own = namespaces.iter().map(|name| self.slice_changes.get(name).copied().unwrap_or_default());
        std::iter::once(self.common_changes).chain(own).collect()
    }

    /// Notes the state of a collection. Returns true if the news are of that state.
    fn note<T: Object>(&mut self, name: &'static str, news: &News<T>) -> bool {
        self.collections.entry(name).or_default().note(news);
        matches!(news, News::Deaf(_) | News::Heard | News::Unread(..))
    }
}

impl Collection {
    fn note<T: Object>(&mut self, news: &News<T>) {
        match news {
            News::All(_) => {
                self.was_listed = true;
                self.fault = None;
                self.unread.clear();
            }
            News::Deaf(failure) => self.fault = Some(failure.to_string()),
            News::Heard => self.fault = None,
            News::Unread(key, reason) => {
                self.unread.insert(key.clone(), reason.clone());
            }
            News::Set(object) if !self.unread.is_empty() => {
                self.unread.remove(&Key::of(object.meta()));
            }
            News::Gone(key) => {
                self.unread.remove(key);
            }
            News::Set(_) => {}
        }
    }

    fn faults(&self) -> impl Iterator<Item = String> {
        let first = self.unread.iter().next().map(|(key, reason)| {
            let (Key { namespace, name }, more) = (key, self.unread.len() - 1);
            let of = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("{of}{more}: {reason}")
        });
        self.fault.clone().into_iter().chain(first)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::failure::Failure;

    fn object<T: Object>(namespace: &str, name: &str, rest: Value) -> T {
        let mut object = json!({"metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"}});
        object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn slices_of_others_and_a_nodes_heartbeat_wake_nobody_and_are_known_all_the_same() {
        let mut heard = Heard::default();
        let own = BTreeSet::from(["shop".to_owned()]);
        heard.concern(own.clone());
        let slice = |namespace: &str| News::Set(object(namespace, "web-1", json!({})));
        let before = heard.stamp(&own);
        assert!(!heard.slices(slice("bank")));
        assert_eq!(heard.stamp(&own), before, "no fact of the tenant's is made anew");
        assert!(heard.slices(slice("shop")));
        assert_ne!(heard.stamp(&own), before);
        assert_eq!(heard.slices.len(), 2);
        heard.concern(BTreeSet::from(["bank".to_owned()]));
        assert!(heard.slices(slice("bank")));
        let node = |ip: &str, beat: u64| {
            let addresses = json!([{"type": "InternalIP", "address": ip}]);
            News::Set(object("", "node1", json!({"status": {"addresses": addresses, "beat": beat}})))
        };
        assert!(heard.nodes(node("192.168.77.1", 1)));
        let before = heard.stamp(&own);
        assert!(!heard.nodes(node("192.168.77.1", 2)));
        assert_eq!(heard.stamp(&own), before);
        assert!(heard.nodes(node("192.168.77.2", 3)));
    }

    #[test]
    fn nothing_is_complete_before_each_collection_was_listed_and_a_fault_goes_when_it_is_heard_again() {
        let mut heard = Heard::default();
        heard.namespaces(News::All(Vec::new()));
        heard.services(News::All(Vec::new()));
        heard.pods(News::All(Vec::new()));
        heard.nodes(News::All(Vec::new()));
        assert!(!heard.is_complete());
        heard.slices(News::All(Vec::new()));
        assert!(heard.is_complete());
        assert!(heard.slices(News::Deaf(Failure::other(&"no answer"))));
        assert_eq!(heard.faults().collect::<Vec<_>>(), ["endpointslices: no answer"]);
        assert!(heard.is_complete(), "what was heard stays");
        assert!(heard.slices(News::Heard));
        assert_eq!(heard.faults().count(), 0);
        let key = |name: &str| Key { namespace: "shop".to_owned(), name: name.to_owned() };
        heard.slices(News::Set(object("shop", "web-1", json!({}))));
        for name in ["web-1", "web-2"] {
            heard.slices(News::Unread(key(name), "makes no sense".to_owned()));
        }
        assert_eq!(
            heard.faults().collect::<Vec<_>>(),
            ["endpointslices: shop/web-1 and 1 more: makes no sense"]
        );
        assert!(heard.slices.is_empty(), "nothing is known of it any more");
        heard.slices(News::Gone(key("web-2")));
        heard.slices(News::Set(object("shop", "web-1", json!({}))));
        assert_eq!(heard.faults().count(), 0);
        heard.expect_tenants();
        assert!(!heard.is_complete(), "where tenants are read from the API");
        assert!(heard.tenants(News::All(Vec::new())) && heard.is_complete());
    }
}
