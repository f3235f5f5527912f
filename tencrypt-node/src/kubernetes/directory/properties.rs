//! Properties that hold of whatever objects there are.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use tencrypt_agent::node::check_facts;

use super::{
    super::objects::{Endpoint, Key, Node, Store},
    tests::{Cluster, put, tenant},
    *,
};

/// Few addresses, so that objects contradict each other: of pods, Services, nodes, and outside of what is protected.
fn address() -> impl Strategy<Value = String> {
    let some = ["10.244.1", "10.96.0", "192.168.77"];
    prop_oneof![
        6 => (prop::sample::select(some.to_vec()), 1..5u8).prop_map(|(net, host)| format!("{net}.{host}")),
        1 => (1..4u8).prop_map(|host| format!("fd00::{host}")),
        1 => prop::sample::select(vec!["", "None", "127.0.0.1", "::ffff:10.244.1.1", "web.example", "169.254.1.1"])
            .prop_map(str::to_owned),
    ]
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["shop", "shop-2", "bank", "default"])
}

fn service() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["web", "db", "kubernetes"]);
    let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "ExternalName"]);
    let port =
        (prop::sample::select(vec!["TCP", "UDP", "SCTP"]), 0..3u16, prop::sample::select(vec!["a", "b"]))
            .prop_map(|(protocol, port, name)| json!({"name": name, "protocol": protocol, "port": port}));
    let ports = prop::collection::vec(port, 0..3);
    let rest = (any::<bool>(), any::<bool>(), any::<bool>());
    (namespace(), name, kind, prop::collection::vec(address(), 0..3), ports, rest).prop_map(
        |(namespace, name, kind, vips, ports, (has_selector, is_local, is_sticky))| {
            json!({
                "metadata": {"namespace": namespace, "name": name},
                "spec": {
                    "type": kind, "clusterIPs": vips, "ports": ports,
                    "selector": if has_selector { json!({"app": "web"}) } else { Value::Null },
                    "internalTrafficPolicy": if is_local { "Local" } else { "Cluster" },
                    "sessionAffinity": if is_sticky { "ClientIP" } else { "None" },
                },
            })
        },
    )
}

fn endpoint() -> impl Strategy<Value = Value> {
    let target = prop::option::of((namespace(), prop::sample::select(vec!["Pod", "Node"])));
    let node = prop::option::of(prop::sample::select(vec!["node1", "node2"]));
    (address(), target, node, any::<[Option<bool>; 3]>()).prop_map(|(address, target, node, [a, b, c])| {
        json!({
            "addresses": [address], "nodeName": node,
            "conditions": {"ready": a, "serving": b, "terminating": c},
            "targetRef": target.map(|(namespace, kind)| json!({"kind": kind, "namespace": namespace, "name": "x"})),
        })
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let of = prop::sample::select(vec!["web", "db", "kubernetes"]);
    let port = (
        prop::sample::select(vec!["TCP", "UDP", "SCTP"]),
        prop::option::of(0..3u16),
        prop::sample::select(vec!["a", "b"]),
    )
        .prop_map(|(protocol, port, name)| json!({"name": name, "protocol": protocol, "port": port}));
    let (ports, endpoints) = (prop::collection::vec(port, 0..3), prop::collection::vec(endpoint(), 0..4));
    (namespace(), of, 0..3u8, endpoints, ports).prop_map(|(namespace, of, number, endpoints, ports)| {
        let labels = json!({"kubernetes.io/service-name": of});
        let meta = json!({"namespace": namespace, "name": format!("{of}-{number}"), "labels": labels});
        json!({"metadata": meta, "endpoints": endpoints, "ports": ports})
    })
}

fn node() -> impl Strategy<Value = Value> {
    (prop::sample::select(vec!["node1", "node2"]), address()).prop_map(|(name, address)| {
        let addresses = json!([{"type": "InternalIP", "address": address}]);
        json!({"metadata": {"name": name}, "status": {"addresses": addresses}})
    })
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let services = prop::collection::vec(service(), 0..8);
    let slices = prop::collection::vec(slice(), 0..8);
    let nodes = prop::collection::vec(node(), 0..3);
    (services, slices, nodes).prop_map(|(services, slices, nodes)| {
        let mut cluster = Cluster::default();
        services.into_iter().for_each(|service| put(&mut cluster.services, service));
        slices.into_iter().for_each(|slice| put(&mut cluster.slices, slice));
        nodes.into_iter().for_each(|node| put(&mut cluster.nodes, node));
        cluster
    })
}

fn shop() -> TenantScope {
    tenant(&["shop", "shop-2"])
}

/// Addresses that a slice of the tenant's gives a pod of the tenant's which is not on the network of its node.
fn pods(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let shop = shop();
    let has = |node: &Node, address: &str| node.status.addresses.iter().any(|own| own.address == address);
    let is_on_host = |endpoint: &Endpoint, address: &str| {
        let at = |(key, node): (&Key, &Node)| {
            endpoint.node().is_none_or(|name| name == key.name) && has(node, address)
        };
        cluster.nodes.iter().any(at)
    };
    let own = cluster.slices.values().filter(|slice| shop.namespaces.contains(&slice.metadata.namespace));
    own.flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| {
            let target = endpoint.target_ref.as_ref();
            target.is_some_and(|target| target.kind == "Pod" && shop.namespaces.contains(&target.namespace))
        })
        .filter(|endpoint| !is_on_host(endpoint, &endpoint.addresses[0]))
        .filter_map(|endpoint| endpoint.addresses[0].parse().ok())
        .filter(|address| shop.protects(*address))
        .collect()
}

/// Takes away what is in `namespaces`, or all that is not.
fn without<T: Clone>(store: &Store<T>, is_own: bool) -> Store<T> {
    let shop = shop();
    let keep = |key: &Key| shop.namespaces.contains(&key.namespace) == is_own;
    store.iter().filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn no_other_namespace_changes_what_is_said_but_by_virtual_addresses_that_are_external(
        one in cluster(),
        other in cluster(),
    ) {
        let mut services = without(&one.services, true);
        services.extend(without(&other.services, false));
        let mut slices = without(&one.slices, true);
        slices.extend(without(&other.slices, false));
        let changed = View { services: &services, slices: &slices, ..one.view() };
        let (before, after) = (facts(&one.view(), &shop(), Others::External), facts(&changed, &shop(), Others::External));
        prop_assert_eq!(&before.notes, &after.notes);
        for (here, there, services) in [(&before, &after, &one.services), (&after, &before, &services)] {
            let others = without(services, false);
            let vips: BTreeSet<IpAddr> = others.values().flat_map(|service| addresses(&service.spec)).collect();
            for (prefix, fact) in &here.learn {
                let is_others = *fact == Fact::External && vips.contains(&prefix.addr());
                prop_assert!(there.learn.get(prefix) == Some(fact) || is_others, "{} {:?}", prefix, fact);
            }
        }
    }

    #[test]
    fn what_is_internal_is_protected_and_a_pod_of_the_tenants_is_never_external(cluster in cluster()) {
        let facts = facts(&cluster.view(), &shop(), Others::External);
        let pods = pods(&cluster);
        for (prefix, fact) in &facts.learn {
            prop_assert_eq!(prefix.prefix_len(), prefix.max_prefix_len());
            prop_assert!(shop().protects(prefix.addr()), "{}", prefix);
            match fact {
                Fact::External => prop_assert!(!pods.contains(&prefix.addr()), "{}", prefix),
                Fact::Internal => prop_assert!(pods.contains(&prefix.addr()), "{}", prefix),
                Fact::Vip(vip) => {
                    prop_assert!(!pods.contains(&prefix.addr()), "{}", prefix);
                    let targets = || vip.services.iter().flat_map(|set| &set.targets);
                    prop_assert!(targets().all(|target| shop().protects(target.ip())));
                    prop_assert!(targets().all(|target| target.is_ipv4() == prefix.addr().is_ipv4()));
                    prop_assert!(targets().all(|target| target.port() != 0));
                }
            }
        }
    }

    #[test]
    fn what_is_told_has_the_fields_of_the_protocol_and_no_others(cluster in cluster()) {
        let facts = facts(&cluster.view(), &shop(), Others::External);
        prop_assert_eq!(&facts, &super::facts(&cluster.view(), &shop(), Others::External));
        for (prefix, fact) in &facts.learn {
            let text = fact.text(*prefix);
            let told: Told = serde_json::from_str(&text).expect(&text);
            told.check(*prefix, fact)?;
        }
        let all: Vec<String> = facts.learn.iter().map(|(prefix, fact)| fact.text(*prefix)).collect();
        let message = format!("{{\"learn\":[{}]}}", all.join(","));
        prop_assert_eq!(check_facts(message.as_bytes(), &shop().protected), Ok(()), "a data path takes it");
    }
}

/// A fact as `docs/node-protocol.md` has it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    prefix: String,
    class: String,
    #[serde(default)]
    services: Vec<ToldPort>,
    affinity: Option<u32>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldPort {
    protocol: String,
    port: u16,
    endpoints: Vec<std::net::SocketAddr>,
}

impl Told {
    /// Checks it against the fact.
    fn check(&self, prefix: IpNet, fact: &Fact) -> Result<(), TestCaseError> {
        prop_assert_eq!(&self.prefix, &prefix.to_string());
        prop_assert_eq!(&self.class, if *fact == Fact::External { "external" } else { "internal" });
        let Fact::Vip(vip) = fact else {
            prop_assert!(self.services.is_empty());
            return Ok(());
        };
        prop_assert_eq!(self.services.len(), vip.services.len());
        prop_assert!(self.affinity.is_none() || !self.services.is_empty());
        for (told, set) in self.services.iter().zip(&vip.services) {
            prop_assert_eq!(&*told.protocol, set.protocol.as_str());
            prop_assert_eq!((told.port, &told.endpoints), (set.port, &set.targets));
        }
        Ok(())
    }
}
