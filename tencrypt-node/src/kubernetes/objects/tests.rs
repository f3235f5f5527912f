//! Answers of an API server of Kubernetes 1.20.2, cut to less; those of `v1` slices are written after the API reference.

use super::*;

fn list<T: Object>(text: &str) -> Vec<T> {
    serde_json::from_str::<List<T>>(text).unwrap().items
}

fn slices() -> Vec<EndpointSlice> {
    list(include_str!("../testdata/slices-v1beta1.json"))
}

fn named<'o, T: Object>(objects: &'o [T], name: &str) -> &'o T {
    objects.iter().find(|object| object.meta().name.starts_with(name)).unwrap()
}

#[test]
fn services_are_read() {
    let list: List<Service> = serde_json::from_str(include_str!("../testdata/services.json")).unwrap();
    let web = named(&list.items, "web");
    assert_eq!((web.meta().namespace.as_str(), web.meta().uid.len()), ("dirtest", 36));
    assert_eq!(web.meta().annotations, BTreeMap::new(), "the copy that kubectl leaves");
    let spec = &web.spec;
    assert_eq!((spec.kind.as_str(), spec.session_affinity.as_str()), ("ClusterIP", "ClientIP"));
    assert_eq!(spec.cluster_ips, [spec.cluster_ip.as_str()]);
    let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    assert_eq!(timeout.unwrap().timeout_seconds, Some(600));
    assert_eq!(spec.selector["app"], "web");
    let port = |name: &str, protocol: &str, port, target| ServicePort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        port,
        target_port: Some(target),
    };
    let http = port("http", "TCP", 80, IntOrString::String("http".to_owned()));
    assert_eq!(spec.ports, [http, port("dns", "UDP", 53, IntOrString::Int(5353))]);
    let headless = &named(&list.items, "headless").spec;
    assert!(headless.publish_not_ready_addresses && !spec.publish_not_ready_addresses);
    assert_eq!((headless.cluster_ip.as_str(), &headless.cluster_ips[..]), ("None", &["None".to_owned()][..]));
    let external = &named(&list.items, "ext").spec;
    assert_eq!((external.kind.as_str(), external.external_name.as_str()), ("ExternalName", "example.com"));
    assert!(external.cluster_ips.is_empty() && external.ports.is_empty());
    assert!(named(&list.items, "manual").spec.selector.is_empty());
    assert_eq!(named(&list.items, "np").spec.kind, "NodePort");
}

#[test]
fn slices_of_the_old_version_are_read() {
    let slices = slices();
    let web = slices.iter().find(|slice| {
        let pod = |end: &Endpoint| end.target_ref.as_ref().is_some_and(|target| target.name == "web-0");
        slice.metadata.labels[SERVICE_NAME] == "web" && slice.endpoints.iter().any(pod)
    });
    let web = web.unwrap();
    assert_eq!((web.address_type.as_str(), web.endpoints.len()), ("IPv4", 1));
    let end = &web.endpoints[0];
    assert_eq!(end.addresses, ["10.244.1.2"]);
    assert_eq!(end.node(), Some("node1"));
    assert!(end.conditions.is_ready() && end.conditions.is_serving() && !end.conditions.is_terminating());
    let pod = end.target_ref.as_ref().unwrap();
    assert_eq!((pod.kind.as_str(), pod.namespace.as_str(), pod.uid.len()), ("Pod", "dirtest", 36));
    let ports: Vec<_> = web.ports.iter().map(|port| (port.name.as_deref(), port.port)).collect();
    assert_eq!(ports, [(Some("http"), Some(8080)), (Some("dns"), Some(5353))]);
    assert_eq!(web.ports[1].protocol.as_deref(), Some("UDP"));
    let none = named(&slices, "np");
    assert_eq!((&none.endpoints[..], &none.ports[..]), (&[][..], &[][..]), "null");
    assert_eq!(named(&slices, "manual").endpoints[0].target_ref, None);
}

#[test]
fn slices_of_the_new_version_are_read() {
    let slice: EndpointSlice = serde_json::from_str(include_str!("../testdata/slice-v1.json")).unwrap();
    let [leaving, unsaid, bare] = &slice.endpoints[..] else { panic!("{slice:?}") };
    assert_eq!(leaving.node(), Some("node1"));
    assert_eq!(leaving.hints.as_ref().unwrap().for_zones, [Hint { name: "zone-a".to_owned() }]);
    assert_eq!(leaving.hints.as_ref().unwrap().for_nodes, [Hint { name: "node1".to_owned() }]);
    let state = |end: &Endpoint| {
        (end.conditions.is_ready(), end.conditions.is_serving(), end.conditions.is_terminating())
    };
    assert_eq!(state(leaving), (false, true, true));
    assert_eq!((state(unsaid), state(bare)), ((true, true, false), (true, true, false)));
    let not_ready: Endpoint = serde_json::from_str(r#"{"conditions": {"ready": false}}"#).unwrap();
    assert_eq!(state(&not_ready), (false, false, false), "serving is what ready is");
    assert_eq!(slice.ports[1], EndpointPort::default());
}

#[test]
fn pods_nodes_and_namespaces_are_read() {
    let pods: Vec<Pod> = list(include_str!("../testdata/pods.json"));
    let pod = named(&pods, "web-0");
    assert_eq!((pod.spec.node_name.as_str(), pod.spec.host_network), ("node1", false));
    assert_eq!((pod.status.phase.as_str(), pod.status.pod_ip.as_str()), ("Running", "10.244.1.2"));
    let addresses: Vec<_> = pod.status.pod_ips.iter().map(|pod_ip| pod_ip.ip.as_str()).collect();
    assert_eq!(addresses, ["10.244.1.2", "fd00:244:1::2"]);
    assert!(named(&pods, "web-1").spec.host_network);
    let nodes: Vec<Node> = list(include_str!("../testdata/nodes.json"));
    let node = named(&nodes, "node1");
    let address = &node.status.addresses[0];
    assert_eq!((address.kind.as_str(), address.address.as_str()), ("InternalIP", "192.168.77.1"));
    assert_eq!(Key::of(node.meta()), Key { namespace: String::new(), name: "node1".to_owned() });
    let namespaces: Vec<Namespace> = list(include_str!("../testdata/namespaces.json"));
    let meta = namespaces[0].meta();
    assert_eq!((meta.name.as_str(), meta.labels["team"].as_str()), ("dirtest", "shop"));
    assert_eq!(meta.annotations, BTreeMap::new(), "`a: b` is of nobody here");
    let own: Meta =
        serde_json::from_str(r#"{"annotations":{"tencrypt.io/protect":"false","a":"b"}}"#).unwrap();
    assert_eq!(own.annotations.into_keys().collect::<Vec<_>>(), ["tencrypt.io/protect"]);
}

#[test]
fn a_namespace_is_a_range_of_its_own() {
    let key =
        |(namespace, name): (&str, &str)| Key { namespace: namespace.to_owned(), name: name.to_owned() };
    let keys = [("a", "z"), ("shop", "a"), ("shop", "b"), ("shop-2", "a"), ("shoq", "a")];
    let store: Store<usize> = keys.into_iter().map(key).zip(0..).collect();
    assert_eq!(in_namespace(&store, "shop").map(|(_, number)| *number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(in_namespace(&store, "sho").count(), 0);
}
