//! Tables: what is said of a small cluster, and of a captured one.

use serde_json::{Value, json};
use tencrypt_agent::node::check_facts;

use super::{
    super::objects::{Key, List, Node, Object, Store},
    fact::{PortSet, Vip},
    *,
};

/// A cluster of which each object is JSON.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) services: Store<Service>,
    pub(super) slices: Store<EndpointSlice>,
    pub(super) nodes: Store<Node>,
}

/// Takes an object that is written as the API server writes it.
pub(super) fn put<T: Object>(store: &mut Store<T>, value: Value) {
    let object: T = serde_json::from_value(value).unwrap();
    store.insert(Key::of(object.meta()), object);
}

pub(super) fn tenant(namespaces: &[&str]) -> TenantScope {
    let protected = ["10.96.0.0/12", "10.244.0.0/16", "fd00::/16"];
    TenantScope {
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        protected: protected.map(|range| range.parse().unwrap()).into(),
    }
}

/// An endpoint of the pod `name` of namespace `namespace` on node `node`, in a state as `ready`.
fn pod(address: &str, namespace: &str, node: &str, state: &str) -> Value {
    let (ready, serving, terminating) = match state {
        "ready" => (true, true, false),
        "leaving" => (false, true, true),
        "gone" => (false, false, true),
        _ => (false, false, false),
    };
    json!({
        "addresses": [address], "nodeName": node,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": "some"},
    })
}

/// An endpoint that somebody has written by hand.
fn bare(address: &str) -> Value {
    json!({"addresses": [address]})
}

impl Cluster {
    /// Has two nodes, 192.168.77.1 and 10.244.0.1, of which the latter lies in what is protected.
    fn new() -> Self {
        let mut cluster = Self::default();
        for (name, address) in [("node1", "192.168.77.1"), ("node2", "10.244.0.1")] {
            let addresses =
                json!([{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]);
            put(&mut cluster.nodes, json!({"metadata": {"name": name}, "status": {"addresses": addresses}}));
        }
        cluster
    }

    /// Adds the Service `web` of `namespace` at `vip`, and changes what `spec` says.
    fn service(mut self, namespace: &str, vip: &str, spec: &Value) -> Self {
        let mut whole = json!({
            "type": "ClusterIP", "clusterIP": vip, "clusterIPs": [vip], "selector": {"app": "web"},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
        });
        for (name, value) in spec.as_object().unwrap() {
            whole[name] = value.clone();
        }
        put(&mut self.services, json!({"metadata": {"namespace": namespace, "name": "web"}, "spec": whole}));
        self
    }

    /// Adds a slice of that Service, with port `http` at `port`.
    fn slice(mut self, namespace: &str, port: u16, endpoints: &[Value]) -> Self {
        let name = format!("web-{}", self.slices.len());
        let labels = json!({"kubernetes.io/service-name": "web"});
        let ports = json!([{"name": "http", "protocol": "TCP", "port": port}]);
        let meta = json!({"namespace": namespace, "name": name, "labels": labels});
        put(
            &mut self.slices,
            json!({"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}),
        );
        self
    }

    pub(super) fn view(&self) -> View<'_> {
        View { services: &self.services, slices: &self.slices, nodes: &self.nodes, node: "node1" }
    }

    /// The facts of the tenant with the namespace `shop`.
    fn facts(&self) -> Facts {
        facts(&self.view(), &tenant(&["shop"]), Others::External)
    }
}

/// Facts as `address class`, and behind a virtual address as `protocol port > targets`.
fn said(facts: &Facts) -> Vec<String> {
    let line = |(prefix, fact): (&IpNet, &Fact)| match fact {
        Fact::Internal => format!("{} internal", prefix.addr()),
        Fact::External => format!("{} external", prefix.addr()),
        Fact::Vip(vip) => {
            let set = |set: &PortSet| {
                let targets: Vec<String> = set.targets.iter().map(ToString::to_string).collect();
                format!(" {} {} > {}", set.protocol.as_str(), set.port, targets.join(" "))
            };
            let affinity = vip.affinity.map(|seconds| format!(" for {seconds} s")).unwrap_or_default();
            let sets: String = vip.services.iter().map(set).collect();
            format!("{} vip{sets}{affinity}", prefix.addr())
        }
    };
    facts.learn.iter().map(line).collect()
}

const NODE: &str = "10.244.0.1 external";

#[test]
fn pods_services_nodes_and_the_api_server_of_a_captured_cluster_are_said() {
    fn store<T: Object>(text: &str) -> Store<T> {
        let list: List<T> = serde_json::from_str(text).unwrap();
        list.items.into_iter().map(|object| (Key::of(object.meta()), object)).collect()
    }
    let mut services: Store<Service> = store(include_str!("../testdata/services.json"));
    let spec = json!({"clusterIP": "10.96.0.1"});
    put(&mut services, json!({"metadata": {"namespace": "default", "name": "kubernetes"}, "spec": spec}));
    let slices = store(include_str!("../testdata/slices-v1beta1.json"));
    let nodes = store(include_str!("../testdata/nodes.json"));
    let view = View { services: &services, slices: &slices, nodes: &nodes, node: "node1" };
    let all = facts(&view, &tenant(&["dirtest"]), Others::External);
    assert_eq!(
        said(&all),
        [
            "10.96.0.1 external",
            "10.100.217.209 external",
            "10.105.130.116 vip tcp 80 > ",
            "10.106.66.38 vip tcp 80 > 10.244.1.2:8080 udp 53 > 10.244.1.2:5353 for 600 s",
            "10.244.1.2 internal",
        ]
    );
    assert!(all.notes.iter().all(|note| note.contains("Service dirtest/web: of its endpoints")), "{all:?}");
    assert_eq!(all.notes.len(), 1);
}

#[test]
fn endpoints_are_chosen_as_kube_proxy_does() {
    let local = json!({"internalTrafficPolicy": "Local"});
    let plain = json!({});
    let [one, two] = ["10.244.1.5", "10.244.2.5"];
    for (what, spec, states, expected) in [
        ("those that are ready", &plain, ["ready", "ready"], "10.244.1.5:8080 10.244.2.5:8080"),
        ("one alone is ready", &plain, ["ready", "leaving"], "10.244.1.5:8080"),
        ("none is, and one serves", &plain, ["not", "leaving"], "10.244.2.5:8080"),
        ("none serves", &plain, ["not", "gone"], ""),
        ("of this node", &local, ["ready", "ready"], "10.244.1.5:8080"),
        ("of this node none is ready", &local, ["leaving", "ready"], "10.244.1.5:8080"),
        ("of this node none serves", &local, ["not", "ready"], ""),
    ] {
        let ends = [pod(one, "shop", "node1", states[0]), pod(two, "shop", "node2", states[1])];
        let cluster = Cluster::new().service("shop", "10.96.0.7", spec).slice("shop", 8080, &ends);
        let facts = cluster.facts();
        let vip = format!("10.96.0.7 vip tcp 80 > {expected}");
        assert_eq!(said(&facts), [&vip, NODE, "10.244.1.5 internal", "10.244.2.5 internal"], "{what}");
        assert_eq!(facts.notes, Vec::<String>::new(), "{what}");
    }
}

/// Each case: the zones and nodes of the hints of three endpoints, and which of them node1, in zone a, is led to.
#[test]
fn hints_choose_endpoints_where_every_ready_one_has_them() {
    let ends = ["10.244.1.5", "10.244.2.5", "10.244.2.6"];
    for (what, zones, nodes, states, expected) in [
        ("by zone", ["a", "b", "b"], ["", "", ""], ["ready"; 3], "5"),
        ("both zones", ["a", "ab", "b"], ["", "", ""], ["ready"; 3], "56"),
        ("one has no hint", ["a", "b", ""], ["", "", ""], ["ready"; 3], "567"),
        ("one without is not ready", ["a", "b", ""], ["", "", ""], ["ready", "ready", "not"], "5"),
        ("none for the zone", ["b", "b", "b"], ["", "", ""], ["ready"; 3], "567"),
        ("that for the zone is not ready", ["a", "b", "b"], ["", "", ""], ["not", "ready", "ready"], "67"),
        ("none is ready", ["a", "b", "b"], ["", "", ""], ["not", "leaving", "leaving"], "67"),
        ("by node", ["a", "a", "b"], ["1", "2", "2"], ["ready"; 3], "5"),
        ("none for the node, then by zone", ["b", "a", "b"], ["2", "2", "2"], ["ready"; 3], "6"),
    ] {
        let ends: Vec<Value> = (0..3)
            .map(|number| {
                let hints = |text: &str, prefix: &str| -> Vec<Value> {
                    text.chars().map(|name| json!({ "name": format!("{prefix}{name}") })).collect()
                };
                let mut end = pod(ends[number], "shop", "node2", states[number]);
                end["hints"] =
                    json!({"forZones": hints(zones[number], ""), "forNodes": hints(nodes[number], "node")});
                end
            })
            .collect();
        let mut cluster = Cluster::new().service("shop", "10.96.0.7", &json!({})).slice("shop", 8080, &ends);
        let key = Key { namespace: String::new(), name: "node1".to_owned() };
        let node = cluster.nodes.get_mut(&key).unwrap();
        node.metadata.labels.insert(ZONE.to_owned(), "a".to_owned());
        let targets: Vec<&str> = expected
            .chars()
            .map(|name| match name {
                '5' => "10.244.1.5:8080",
                '6' => "10.244.2.5:8080",
                _ => "10.244.2.6:8080",
            })
            .collect();
        let vip = format!("10.96.0.7 vip tcp 80 > {}", targets.join(" "));
        assert_eq!(said(&cluster.facts())[0], vip, "{what}");
    }
}

#[test]
fn a_named_port_is_what_each_slice_says_and_an_endpoint_in_two_slices_is_one() {
    let ready = |address| pod(address, "shop", "node1", "ready");
    let cluster = Cluster::new()
        .service("shop", "10.96.0.7", &json!({"sessionAffinity": "ClientIP"}))
        .slice("shop", 8080, &[ready("10.244.1.5"), pod("10.244.1.7", "shop", "node1", "not")])
        .slice("shop", 8081, &[ready("10.244.1.6")])
        .slice("shop", 8080, &[ready("10.244.1.5"), ready("10.244.1.7")]);
    let facts = cluster.facts();
    let expected = "10.96.0.7 vip tcp 80 > 10.244.1.5:8080 10.244.1.6:8081 10.244.1.7:8080 for 10800 s";
    assert_eq!(said(&facts)[0], expected);
}

/// Each case: selector or none, endpoints, what is said of the virtual address, and whether that is noted.
#[test]
fn a_virtual_address_is_external_only_if_nothing_behind_it_may_be_the_tenants() {
    let own = || pod("10.244.1.5", "shop", "node1", "ready");
    let stopped = || pod("10.244.1.5", "shop", "node1", "not");
    let on_node = || pod("192.168.77.1", "shop", "node1", "ready");
    let on_inner_node = || pod("10.244.0.1", "shop", "node2", "ready");
    let outside = || bare("203.0.113.7");
    let unknown = || bare("10.244.9.9");
    let foreign_pod = || pod("10.244.9.9", "bank", "node1", "ready");
    let by_hand = || bare("10.244.1.5");
    let (internal, nothing) = ("vip tcp 80 > 10.244.1.5:8080", "vip tcp 80 > ");
    for (has_selector, endpoints, expected, is_noted) in [
        (true, vec![], nothing, false),
        (true, vec![own()], internal, false),
        (true, vec![on_node()], "external", false),
        (true, vec![on_inner_node()], "external", false),
        (true, vec![own(), on_node()], internal, true),
        (true, vec![stopped(), on_node()], nothing, true),
        (true, vec![outside()], nothing, true),
        (true, vec![own(), outside()], internal, true),
        (true, vec![unknown()], nothing, true),
        (true, vec![own(), foreign_pod()], internal, true),
        (true, vec![bare("192.168.77.1")], nothing, true),
        (false, vec![], nothing, false),
        (false, vec![own()], internal, false),
        (false, vec![outside()], "external", false),
        (false, vec![bare("192.168.77.1"), outside()], "external", false),
        (false, vec![own(), outside()], internal, true),
        (false, vec![stopped(), outside()], nothing, true),
        (false, vec![unknown()], "vip tcp 80 > 10.244.9.9:8080", true),
        (false, vec![foreign_pod()], "vip tcp 80 > 10.244.9.9:8080", true),
        (false, vec![unknown(), outside()], "vip tcp 80 > 10.244.9.9:8080", true),
        (false, vec![bare("127.0.0.1"), json!({}), bare("web.example")], nothing, false),
    ] {
        let spec = if has_selector { json!({}) } else { json!({"selector": null}) };
        let cluster = Cluster::new().service("shop", "10.96.0.7", &spec).slice("shop", 8080, &endpoints);
        let facts = cluster.facts();
        assert_eq!(said(&facts)[0], format!("10.96.0.7 {expected}"), "{has_selector} {endpoints:?}");
        assert_eq!(
            facts.notes.len(),
            usize::from(is_noted),
            "{has_selector} {endpoints:?}: {:?}",
            facts.notes
        );
        let is_internal = |address: &str| said(&facts).contains(&format!("{address} internal"));
        assert!(!is_internal("10.244.9.9") && !is_internal("10.244.0.1"), "{endpoints:?}");
    }
    // The tenant's pods are known by their Services, wherever these are; who names one by hand reaches it.
    let mut cluster = Cluster::new().slice("shop", 8080, &[own()]);
    cluster = cluster.service("shop-2", "10.96.0.7", &json!({"selector": null}));
    cluster = cluster.slice("shop-2", 8080, &[by_hand()]);
    let both = facts(&cluster.view(), &tenant(&["shop", "shop-2"]), Others::External);
    assert_eq!(said(&both)[0], "10.96.0.7 vip tcp 80 > 10.244.1.5:8080");
    assert_eq!(both.notes, Vec::<String>::new());
}

#[test]
fn kinds_of_services_have_the_virtual_addresses_that_they_have() {
    let own = [pod("10.244.1.5", "shop", "node1", "ready")];
    let vip = "vip tcp 80 > 10.244.1.5:8080";
    for (spec, expected) in [
        (json!({"type": "NodePort"}), Some(vip)),
        (json!({"type": "LoadBalancer"}), Some(vip)),
        (json!({"clusterIPs": null}), Some(vip)),
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), None),
        (json!({"clusterIP": "", "clusterIPs": null}), None),
        (json!({"type": "ExternalName"}), None),
        (json!({"ports": null}), Some("vip")),
        (json!({"ports": [{"name": "other", "port": 81}]}), Some("vip tcp 81 > ")),
        (json!({"ports": [{"name": "http", "port": 80, "protocol": "UDP"}]}), Some("vip udp 80 > ")),
        (
            json!({"ports": [{"name": "http", "port": 0}, {"name": "http", "port": 1, "protocol": "X"}]}),
            Some("vip"),
        ),
        (json!({"ports": [{"name": "http", "port": 80}, {"name": "again", "port": 80}]}), Some(vip)),
    ] {
        let cluster = Cluster::new().service("shop", "10.96.0.7", &spec).slice("shop", 8080, &own);
        let facts = cluster.facts();
        let expected: Vec<String> = expected.iter().map(|vip| format!("10.96.0.7 {vip}")).collect();
        let rest = [NODE.to_owned(), "10.244.1.5 internal".to_owned()];
        assert_eq!(said(&facts), [expected, rest.into()].concat(), "{spec}");
        assert_eq!(facts.notes, Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn ports_of_sctp_are_reached_where_they_are_the_same() {
    let own = [pod("10.244.1.5", "shop", "node1", "ready")];
    for (port, expected, notes) in [(80, "10.244.1.5:80", 0), (8080, "", 1)] {
        let ports = json!([{"name": "http", "protocol": "SCTP", "port": 80}]);
        let mut cluster = Cluster::new().service("shop", "10.96.0.7", &json!({"ports": ports}));
        cluster = cluster.slice("shop", port, &own);
        cluster.slices.values_mut().for_each(|slice| slice.ports[0].protocol = Some("SCTP".to_owned()));
        let facts = cluster.facts();
        assert_eq!(said(&facts)[0], format!("10.96.0.7 vip sctp 80 > {expected}"));
        assert_eq!(facts.notes.len(), notes);
    }
}

#[test]
fn both_families_have_their_own_endpoints() {
    let spec = json!({"clusterIPs": ["10.96.0.7", "fd00:96::7"]});
    let cluster = Cluster::new()
        .service("shop", "10.96.0.7", &spec)
        .slice("shop", 8080, &[pod("10.244.1.5", "shop", "node1", "ready")])
        .slice("shop", 8081, &[pod("fd00:244::5", "shop", "node1", "ready")]);
    let expected = [
        "10.96.0.7 vip tcp 80 > 10.244.1.5:8080",
        NODE,
        "10.244.1.5 internal",
        "fd00:96::7 vip tcp 80 > [fd00:244::5]:8081",
        "fd00:244::5 internal",
    ];
    assert_eq!(said(&cluster.facts()), expected);
}

#[test]
fn others_are_external_where_they_would_be_captured_and_never_by_what_they_say_of_the_tenants() {
    let own = [pod("10.244.1.5", "shop", "node1", "ready")];
    let cluster = Cluster::new()
        .service("shop", "10.96.0.7", &json!({}))
        .slice("shop", 8080, &own)
        .service("bank", "10.96.0.8", &json!({}))
        .slice("bank", 8080, &[pod("10.244.1.6", "bank", "node1", "ready"), bare("10.244.1.5")])
        .service("lie", "10.244.1.5", &json!({"clusterIPs": ["10.244.1.5", "10.96.0.7"]}))
        .service("away", "198.51.100.1", &json!({}));
    let own = ["10.96.0.7 vip tcp 80 > 10.244.1.5:8080", "10.96.0.8 external", NODE, "10.244.1.5 internal"];
    assert_eq!(said(&cluster.facts()), own);
    let unsaid = facts(&cluster.view(), &tenant(&["shop"]), Others::Unsaid);
    assert_eq!(said(&unsaid), [own[0], own[2], own[3]]);
    let outside = cluster.service("shop", "198.51.100.2", &json!({})).facts();
    assert!(outside.notes[0].contains("Service shop/web: 198.51.100.2 lies outside"), "{outside:?}");
}

#[test]
fn a_node_that_calls_a_pods_address_its_own_makes_nothing_external() {
    let mut cluster = Cluster::new()
        .service("shop", "10.96.0.7", &json!({}))
        .slice("shop", 8080, &[pod("10.244.1.5", "shop", "node1", "ready")])
        .service("lie", "10.244.1.5", &json!({}));
    let status = json!({"addresses": [{"type": "InternalIP", "address": "10.244.1.5"}]});
    put(&mut cluster.nodes, json!({"metadata": {"name": "node3"}, "status": status}));
    let facts = cluster.facts();
    assert_eq!(said(&facts), ["10.96.0.7 vip tcp 80 > ", NODE]);
    assert!(facts.notes.iter().any(|note| note.contains("10.244.1.5 is a pod's")), "{facts:?}");
}

#[test]
fn what_is_beyond_the_bounds_is_left_out_and_noted() {
    let mut cluster = Cluster::new();
    let vip = |namespace: &str, name: usize, high: u8| {
        let vip = format!("10.{high}.{}.{}", name / 250, name % 250 + 1);
        json!({"metadata": {"namespace": namespace, "name": format!("{name:05}")}, "spec": {"clusterIP": vip}})
    };
    for name in 0..100 {
        put(&mut cluster.services, vip("shop", name, 110));
    }
    for name in 0..MOST {
        put(&mut cluster.services, vip("bank", name, 97));
    }
    let facts = cluster.facts();
    assert_eq!(facts.learn.len(), MOST);
    let own = facts.learn.values().filter(|fact| matches!(fact, Fact::Vip(_))).count();
    assert_eq!((own, facts.notes.len()), (100, 1), "{:?}", facts.notes);
    assert!(facts.notes[0].contains("others' Services"), "{:?}", facts.notes);
    let of_bank = super::facts(&cluster.view(), &tenant(&["bank"]), Others::External);
    assert_eq!(of_bank.learn.len(), MOST);
}

#[test]
fn the_largest_fact_of_a_service_is_one_that_a_data_path_takes() {
    let address = |number| format!("fd00:1111:2222:3333:4444:5555:6666:{:x}", number + 0x1000);
    let ends: Vec<Value> = (0..1_200).map(|number| pod(&address(number), "shop", "node1", "ready")).collect();
    for (ports, endpoints) in [(1, 1_000), (3, 1_000), (7, 500), (1_200, 3)] {
        let ports: Vec<Value> =
            (0..ports).map(|number| json!({"name": "http", "port": 60_000 + number})).collect();
        let spec = json!({"clusterIPs": ["fd00:96::7"], "ports": ports, "sessionAffinity": "ClientIP"});
        let cluster = Cluster::new().service("shop", "", &spec).slice("shop", 60_000, &ends);
        let facts = cluster.facts();
        let prefix = "fd00:96::7/128".parse().unwrap();
        let Fact::Vip(vip) = &facts.learn[&prefix] else { panic!("{:?}", facts.learn[&prefix]) };
        assert_eq!(vip.services.len(), ports.len().min(1_000));
        assert!(vip.services.iter().all(|set| set.targets.len() == endpoints));
        let text = facts.learn[&prefix].text(prefix);
        assert!(text.len() < 256 << 10, "{}", text.len());
        let message = format!("{{\"learn\":[{text}]}}");
        assert_eq!(check_facts(message.as_bytes(), &["fd00::/16".parse().unwrap()]), Ok(()));
        assert!(facts.notes.iter().any(|note| note.contains("not reached")), "{:?}", facts.notes);
    }
}

#[test]
fn the_services_of_a_tenant_have_a_bound_together() {
    let address = |number| format!("10.244.{}.{}", number / 250 + 1, number % 250 + 1);
    let ends: Vec<Value> = (0..1_000).map(|number| pod(&address(number), "shop", "node1", "ready")).collect();
    let mut cluster = Cluster::new().service("shop", "10.96.0.7", &json!({})).slice("shop", 8080, &ends);
    let (web, slice) = (cluster.services.pop_first().unwrap().1, cluster.slices.pop_first().unwrap().1);
    for number in 0..201 {
        let (mut service, mut slice) = (web.clone(), slice.clone());
        service.metadata.name = format!("web-{number:03}");
        service.spec.cluster_ips = vec![format!("10.97.0.{number}")];
        slice.metadata.name.clone_from(&service.metadata.name);
        slice.metadata.labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone());
        cluster.services.insert(Key::of(&service.metadata), service);
        cluster.slices.insert(Key::of(&slice.metadata), slice);
    }
    let facts = cluster.facts();
    let vips =
        facts.learn.values().filter_map(|fact| if let Fact::Vip(vip) = fact { Some(vip) } else { None });
    let sets = |vip: &Vip| vip.services.iter().map(|set| 1 + set.targets.len()).sum::<usize>();
    assert_eq!(vips.clone().count(), 201);
    assert_eq!(vips.map(sets).sum::<usize>(), 199 * 1_001);
    assert!(facts.notes.iter().any(|note| note.contains("shop/web-199 is not reached")), "{:?}", facts.notes);
}
