//! Pods of enrolled namespaces outside of the tunnel: those that may be, and those that are told and repaired.

use std::fs;

use serde_json::{Value, json};
use tencrypt_lab::{Pod, Signal, UdpEcho, test};

use crate::kubernetes::Cluster;
use crate::support::{Agent, is_echoed, replace};

/// The annotation of a pod that is to stay as it is.
const PROTECT: &str = "tencrypt.io/protect";

/// The id that the runtime tells of every pod.
const UID: &str = "0-1";

impl Cluster {
    /// Makes a pod of namespace `shop` known that runs, or is about to, on this node.
    fn pod(&self, name: &str, phase: &str, protect: Option<&str>, addresses: &[String]) {
        let annotations = protect.map_or(json!({}), |value| json!({ PROTECT: value }));
        let ips: Vec<Value> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        let owner = json!({ "kind": "ReplicaSet", "name": "set", "uid": "0-9", "controller": true });
        let owners = if name.starts_with("alone") { json!([]) } else { json!([owner]) };
        let pod = json!({
            "metadata": { "uid": UID, "annotations": annotations, "ownerReferences": owners },
            "spec": { "nodeName": "node1" },
            "status": { "phase": phase, "podIPs": ips, "containerStatuses": running(phase == "Running") },
        });
        self.api.set("pods", "shop", name, pod);
    }

    /// The reasons of the events of a pod of namespace `shop`.
    fn events(&self, name: &str) -> Vec<String> {
        let events = self.api.objects("events", "shop");
        let of_pod = events.iter().filter(|event| event["involvedObject"]["name"] == name);
        of_pod.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

/// The state of a pod's container.
fn running(is_running: bool) -> Value {
    let state = if is_running { json!({ "running": {} }) } else { json!({ "waiting": {} }) };
    json!([{ "containerID": "containerd://0a1b", "state": state }])
}

/// The names of pods in a list of `status`.
fn listed(agent: &Agent<'_>, list: &str) -> Vec<String> {
    let status = agent.status();
    let names = status[list].as_array().unwrap().iter();
    names.map(|stray| stray["name"].as_str().unwrap().to_owned()).collect()
}

fn addresses(pod: &Pod) -> Vec<String> {
    pod.addresses().iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_stays_out_where_its_tenant_lets_it_and_no_longer() {
    test("strays::a_pod_stays_out_where_its_tenant_lets_it_and_no_longer", || {
        let cluster = Cluster::new();
        let file = cluster.runtime.site.directory.join("cluster/shop.toml");
        let closed = fs::read_to_string(&file).unwrap();
        replace(&file, &format!("pods_may_opt_out = true\n{closed}"));
        cluster.pod("out-0", "Pending", Some("false"), &[]);
        cluster.pod("in-0", "Pending", Some("true"), &[]);
        cluster.keys("shop", "first.key");
        let agent = cluster.start();
        let [a, b, c, outsider] = [21, 22, 23, 24].map(|number| cluster.runtime.site.pod(number));
        let add = |pod: &Pod, name: &str, container: &str| {
            let added = cluster.runtime.call_named("ADD", pod, ("shop", name), container);
            assert!(added.status.success(), "{name}: {added:?}\n{}", agent.log());
        };
        add(&a, "out-0", "c1");
        add(&b, "in-0", "c2");
        // The API has not told of it: it is waited for, and then it is protected.
        add(&c, "unheard-0", "c3");
        agent.protected("shop/in-0");
        agent.protected("shop/unheard-0");
        assert!(agent.pod("shop/out-0").is_none());
        cluster.pod("out-0", "Running", Some("false"), &addresses(&a));
        agent.eventually("it is said to be outside", || listed(&agent, "outside") == ["shop/out-0"]);
        agent.eventually("and told", || cluster.events("out-0") == ["OutsideTenant"]);
        let _echo = UdpEcho::start(&b, 7000).unwrap();
        assert!(!is_echoed(&outsider, b.v4(), 7000));
        // One of the same name with another address is another pod.
        cluster.pod("in-0", "Running", Some("false"), &["10.244.0.99".to_owned()]);
        agent.eventually("the word has come", || listed(&agent, "outside").len() == 2);
        agent.protected("shop/in-0");
        cluster.pod("in-0", "Running", Some("false"), &addresses(&b));
        agent.eventually("it is let go of", || agent.pod("shop/in-0").is_none());
        agent.eventually("it is open", || is_echoed(&outsider, b.v4(), 7000));
        // The tenant does not let them any more.
        replace(&file, &closed);
        agent.eventually("they are to be protected", || {
            listed(&agent, "unprotected") == ["shop/in-0", "shop/out-0"]
        });
        assert_eq!(listed(&agent, "outside"), [""; 0]);
        add(&a, "out-0", "c1");
        agent.protected("shop/out-0");
    });
}

#[test]
fn a_pod_that_cannot_be_protected_where_it_is_is_told_labelled_or_deleted_and_the_taint_ends() {
    test(
        "strays::a_pod_that_cannot_be_protected_where_it_is_is_told_labelled_or_deleted_and_the_taint_ends",
        || {
            let cluster = Cluster::new();
            let other = json!({"key": "a.b/c", "effect": "NoSchedule", "value": "d"});
            let taints = json!([{"key": "tencrypt.io/startup", "effect": "NoSchedule"}, other]);
            cluster.api.set(
                "nodes",
                "",
                "node1",
                json!({"spec": {"taints": taints}, "status": {"addresses": []}}),
            );
            cluster.keys("shop", "first.key");
            for name in ["alone-0", "lost-0", "lost-1"] {
                cluster.pod(name, "Running", None, &["10.244.0.98".to_owned()]);
            }
            let with = |network: bool, is_running: bool| {
                let status = json!({"phase": "Running", "containerStatuses": running(is_running)});
                json!({"spec": {"nodeName": "node1", "hostNetwork": network}, "status": status})
            };
            cluster.api.set("pods", "shop", "host-0", with(true, true));
            // Behind a restart of the node its phase is what it was, and nothing runs.
            cluster.api.set("pods", "shop", "restarted-0", with(false, false));
            let settings = |repair: &str| {
                format!(
                    "{}repair = \"{repair}\"\nstartup_taint = \"tencrypt.io/startup\"\n",
                    cluster.settings()
                )
            };
            let agent = cluster.runtime.site.start(&settings("label"));
            agent.eventually("the taint ends, and the other one stays", || {
                cluster.api.patched("/api/v1/nodes/node1").is_some_and(|patch| {
                    let version = patch["metadata"]["resourceVersion"].as_str().unwrap();
                    !version.is_empty() && patch["spec"]["taints"] == json!([other])
                })
            });
            let path = |name: &str| format!("/api/v1/namespaces/shop/pods/{name}");
            assert_eq!(listed(&agent, "unprotected"), ["shop/alone-0", "shop/lost-0", "shop/lost-1"]);
            assert_eq!(listed(&agent, "outside"), ["shop/host-0"]);
            assert_eq!(cluster.api.patched(&path("lost-0")), None, "it may be on its way in");
            for name in ["lost-0", "lost-1"] {
                agent.eventually("it is told, and labelled", || {
                    cluster.events(name) == ["Unprotected"] && cluster.api.patched(&path(name)).is_some()
                });
                let label = json!({"uid": UID, "labels": {"tencrypt.io/unprotected": "true"}});
                assert_eq!(cluster.api.patched(&path(name)).unwrap()["metadata"], label);
            }
            assert_eq!(cluster.events("host-0"), ["OutsideTenant"]);
            agent.stop(Signal::Term);
            let agent = cluster.runtime.site.start(&settings("delete"));
            let deleted = |name: &str| cluster.api.written("DELETE", &path(name));
            agent.eventually("the first is deleted, and no other pod of its name", || {
                deleted("lost-0").iter().any(|options| options["preconditions"] == json!({"uid": UID}))
            });
            assert_eq!(deleted("lost-1"), [Value::Null; 0], "one after the other");
            cluster.api.delete("pods", "shop", "lost-0");
            agent.eventually("then the other", || deleted("lost-1").len() == 1);
            assert_eq!(deleted("lost-0").len(), 1);
            assert_eq!(deleted("alone-0"), [Value::Null; 0], "nobody would make it anew");
            // Nothing was told twice, neither by this agent nor by the one before it.
            assert_eq!(cluster.events("lost-1"), ["Unprotected"]);
        },
    );
}

#[test]
fn a_pod_that_is_found_is_unprotected_until_a_data_path_has_closed_it() {
    test("strays::a_pod_that_is_found_is_unprotected_until_a_data_path_has_closed_it", || {
        let cluster = Cluster::new();
        cluster.keys("shop", "first.key");
        let file = cluster.runtime.site.directory.join("cluster-pod.toml");
        let good = fs::read_to_string(&file).unwrap();
        // No data path of these settings starts in a pod with such addresses.
        let protected = good.lines().find(|line| line.starts_with("protected = ")).unwrap();
        replace(&file, &good.replace(protected, "protected = [\"192.0.2.0/24\"]"));
        let pod = cluster.runtime.site.pod(21);
        let bound = cluster.runtime.bind(&pod);
        cluster.pod("web-9", "Running", None, &addresses(&pod));
        let agent = cluster.start();
        cluster.runtime.note("c9", "web-9", &bound, &pod.v4().to_string());
        agent.eventually("it is found", || agent.pod("shop/web-9").is_some());
        agent.eventually("it is told", || cluster.events("web-9") == ["Unprotected"]);
        let status = agent.status();
        let reason = status["unprotected"][0]["reason"].as_str().unwrap();
        assert!(reason.starts_with("its data path does not start: "), "{reason}");
        replace(&file, &good);
        agent.protected("shop/web-9");
        agent.eventually("it is told", || cluster.events("web-9") == ["ProtectedLate", "Unprotected"]);
        assert_eq!(listed(&agent, "unprotected"), [""; 0]);
    });
}
