//! The agent in a cluster: enrolment by labels, keys from Secrets, and an API that goes and comes.

use std::fs;
use std::time::Instant;

use crate::api::Api;
use crate::runtime::{Runtime, code};
use crate::support::{Agent, is_echoed, settings};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tencrypt_lab::{UdpEcho, test};

/// The Lease of the node.
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node1";

/// A node of a cluster with the tenant `shop`, which admits the namespaces `shop` and `late`.
pub(crate) struct Cluster {
    pub(crate) runtime: Runtime,
    pub(crate) api: Api,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let runtime = Runtime::without_tenants();
        let folder = &runtime.site.directory;
        fs::create_dir(folder.join("cluster")).unwrap();
        fs::write(folder.join("cluster/shop.toml"), "namespaces = [\"shop\", \"late\"]\n").unwrap();
        fs::write(folder.join("cluster-pod.toml"), settings("shop", "")).unwrap();
        runtime.site.genkey(&folder.join("first.key"));
        runtime.site.genkey(&folder.join("other.key"));
        let api = Api::start();
        api.set("nodes", "", "node1", json!({"status": {"addresses": []}}));
        api.set("namespaces", "", "default", json!({}));
        let cluster = Self { runtime, api };
        cluster.label("shop", Some("shop"));
        cluster
    }

    pub(crate) fn settings(&self) -> String {
        format!("open = []\n{}{}", self.runtime.settings(), self.api.settings(&self.runtime.site.directory))
    }

    /// Starts the agent, with the plugin in its place.
    pub(crate) fn start(&self) -> Agent<'_> {
        let agent = self.runtime.site.start(&self.settings());
        agent.eventually("the plugin is in the network configuration", || self.runtime.entry().is_some());
        agent
    }

    /// Makes a namespace with the label of a tenant, or without one.
    pub(crate) fn label(&self, name: &str, tenant: Option<&str>) {
        let labels = tenant.map_or(json!({}), |tenant| json!({"tencrypt.io/tenant": tenant}));
        self.api.set("namespaces", "", name, json!({"metadata": {"labels": labels}}));
    }

    /// Makes the pod known that is about to be made on this node.
    pub(crate) fn scheduled(&self, namespace: &str, name: &str) {
        self.api.set(
            "pods",
            namespace,
            name,
            json!({"spec": {"nodeName": "node1"}, "status": {"phase": "Pending"}}),
        );
    }

    /// Puts a key file into the Secret of a namespace.
    pub(crate) fn keys(&self, namespace: &str, file: &str) {
        let text = fs::read(self.runtime.site.directory.join(file)).unwrap();
        self.secret(namespace, &text);
    }

    fn secret(&self, namespace: &str, text: &[u8]) {
        let data = json!({"tenant.key": BASE64.encode(text)});
        self.api.set("secrets", namespace, "tencrypt-key", json!({ "data": data }));
    }

    /// The word of this node about the keys of the tenant.
    fn acknowledged(&self) -> Value {
        let Some(patch) = self.api.patched(LEASE) else { return Value::Null };
        let text = patch["metadata"]["annotations"]["tencrypt.io/keys"].as_str().unwrap().to_owned();
        serde_json::from_str::<Value>(&text).unwrap()["shop"].clone()
    }

    fn rotate(&self, step: &str) {
        let file = self.runtime.site.directory.join("first.key");
        let program = crate::support::program("tencrypt");
        let done = self.runtime.site.run(&program, &["rotate".into(), step.into(), file.into()]);
        assert!(done.status.success(), "{done:?}");
    }
}

fn problems(agent: &Agent<'_>) -> String {
    agent.status().to_string()
}

#[test]
fn a_label_that_is_admitted_enrols_a_namespace_and_taking_it_off_opens_its_pods() {
    test("kubernetes::a_label_that_is_admitted_enrols_a_namespace_and_taking_it_off_opens_its_pods", || {
        let cluster = Cluster::new();
        cluster.label("late", None);
        cluster.label("intruder", Some("shop"));
        let agent = cluster.start();
        let [a, b, c, d] = [21, 22, 23, 24].map(|number| cluster.runtime.site.pod(number));
        let call = |operation: &str, pod, namespace: &str, container: &str| {
            cluster.runtime.call(operation, pod, namespace, container)
        };
        let began = Instant::now();
        assert!(call("ADD", &a, "default", "c1").status.success(), "{}", agent.log());
        assert!(began.elapsed().as_millis() < 2_000, "an open namespace waits for nobody");
        assert_eq!(code(&call("ADD", &b, "intruder", "c2")), 11, "its label is not admitted");
        // The keys come while the pod is being made.
        cluster.scheduled("shop", "web-0");
        let added = std::thread::scope(|scope| {
            let added = scope.spawn(|| call("ADD", &b, "shop", "c3"));
            std::thread::sleep(std::time::Duration::from_millis(300));
            cluster.keys("shop", "first.key");
            added.join().unwrap()
        });
        assert!(added.status.success(), "{added:?}\n{}", agent.log());
        agent.protected("shop/web-0");
        // A namespace whose label comes later.
        cluster.label("late", Some("shop"));
        cluster.scheduled("late", "web-0");
        cluster.keys("late", "first.key");
        agent.eventually("the namespace is enrolled", || {
            call("CHECK", &c, "late", "c4").status.code() != Some(0)
        });
        assert!(call("ADD", &c, "late", "c4").status.success(), "{}", agent.log());
        agent.protected("late/web-0");
        let _echo = UdpEcho::start(&c, 7000).unwrap();
        assert!(is_echoed(&b, c.v4(), 7000), "both namespaces are of one tenant");
        assert!(!is_echoed(&a, c.v4(), 7000), "a pod outside of it is not heard");
        // A file that is broken changes nothing.
        let file = cluster.runtime.site.directory.join("cluster/shop.toml");
        crate::support::replace(&file, "namespaces = [\n");
        agent.eventually("it is told", || problems(&agent).contains("shop.toml"));
        let again = cluster.runtime.call_named("ADD", &d, ("late", "web-1"), "c6");
        assert!(again.status.success(), "{again:?}\n{}", agent.log());
        assert!(cluster.runtime.call("DEL", &d, "late", "c6").status.success());
        crate::support::replace(&file, "namespaces = [\"shop\", \"late\"]\n");
        agent.eventually("it is mended", || !problems(&agent).contains("shop.toml"));
        // The settings of pods are of no concern to namespaces without a tenant.
        let file = cluster.runtime.site.directory.join("cluster-pod.toml");
        let good = fs::read_to_string(&file).unwrap();
        crate::support::replace(&file, "[network\n");
        agent.eventually("it is told", || problems(&agent).contains("cluster-pod.toml"));
        cluster.label("fresh", None);
        agent.eventually("its pods start", || call("ADD", &d, "fresh", "c7").status.success());
        assert!(call("DEL", &d, "fresh", "c7").status.success());
        agent.protected("shop/web-0");
        crate::support::replace(&file, &good);
        // Without its label nothing is left of it.
        cluster.label("late", None);
        agent.eventually("the pod is let go of", || agent.pod("late/web-0").is_none());
        agent.eventually("it is open", || is_echoed(&a, c.v4(), 7000));
        agent.protected("shop/web-0");
        assert!(call("ADD", &d, "late", "c5").status.success());
        assert_eq!(agent.pods().len(), 1);
    });
}

#[test]
fn tenants_of_a_config_map_are_heard_of_at_once_and_without_it_nothing_is_opened() {
    test("kubernetes::tenants_of_a_config_map_are_heard_of_at_once_and_without_it_nothing_is_opened", || {
        let cluster = Cluster::new();
        cluster.scheduled("shop", "web-0");
        cluster.keys("shop", "first.key");
        let map = |text: &str| {
            let files = json!({"data": {"shop.toml": text}});
            cluster.api.set("configmaps", "tencrypt", "tencrypt-tenants", files);
        };
        map("namespaces = []\n");
        let settings = cluster.settings() + "tenants_config_map = \"tencrypt/tencrypt-tenants\"\n";
        let agent = cluster.runtime.site.start(&settings);
        agent.eventually("the plugin is there", || cluster.runtime.entry().is_some());
        let [a, b, c] = [21, 22, 23].map(|number| cluster.runtime.site.pod(number));
        let add = |pod, name: &str| cluster.runtime.call_named("ADD", pod, ("shop", name), name);
        assert_eq!(code(&add(&a, "web-0")), 11, "the folder, which admits it, is not read");
        map("namespaces = [\"shop\"]\n");
        agent.eventually("its pods start", || add(&a, "web-0").status.success());
        agent.protected("shop/web-0");
        map("namespaces = [\n");
        let said = "ConfigMap tencrypt/tencrypt-tenants: shop.toml: line 1";
        agent.eventually("a mistake is told", || problems(&agent).contains(said));
        assert!(add(&b, "web-1").status.success(), "what was before holds");
        cluster.api.delete("configmaps", "tencrypt", "tencrypt-tenants");
        agent.eventually("it is told", || problems(&agent).contains("tencrypt-tenants: is not there"));
        let _echo = UdpEcho::start(&b, 7000).unwrap();
        assert!(is_echoed(&a, b.v4(), 7000));
        assert!(!is_echoed(&c, b.v4(), 7000), "the pods are as closed as before");
        map("namespaces = [\"shop\"]\n");
        agent.eventually("all is well", || !problems(&agent).contains("tencrypt-tenants"));
        agent.protected("shop/web-1");
    });
}

#[test]
fn a_label_that_goes_opens_a_pod_whose_data_path_is_gone_and_cannot_be_started() {
    test("kubernetes::a_label_that_goes_opens_a_pod_whose_data_path_is_gone_and_cannot_be_started", || {
        let cluster = Cluster::new();
        cluster.scheduled("shop", "web-0");
        cluster.keys("shop", "first.key");
        let program = cluster.runtime.site.directory.join("tencrypt");
        fs::copy(crate::support::program("tencrypt"), &program).unwrap();
        let settings = format!("program = \"{}\"\n{}", program.display(), cluster.settings());
        let agent = cluster.runtime.site.start(&settings);
        agent.eventually("the plugin is there", || cluster.runtime.entry().is_some());
        let [a, outsider] = [21, 22].map(|number| cluster.runtime.site.pod(number));
        assert!(cluster.runtime.call("ADD", &a, "shop", "c1").status.success(), "{}", agent.log());
        let process = agent.protected("shop/web-0");
        let _echo = UdpEcho::start(&a, 7000).unwrap();
        fs::remove_file(&program).unwrap();
        let killed = std::process::Command::new("kill").args(["-KILL", &process.to_string()]).status();
        assert!(killed.unwrap().success());
        agent.eventually("its start fails", || {
            agent.pod("shop/web-0").is_some_and(|pod| pod["state"] == "waiting")
        });
        assert!(!is_echoed(&outsider, a.v4(), 7000), "it stays closed");
        cluster.label("shop", None);
        agent.eventually("it is let go of", || agent.pod("shop/web-0").is_none());
        agent.eventually("it is open", || is_echoed(&outsider, a.v4(), 7000));
    });
}

#[test]
fn keys_follow_their_secret_and_older_broken_and_foreign_ones_change_nothing() {
    test("kubernetes::keys_follow_their_secret_and_older_broken_and_foreign_ones_change_nothing", || {
        let cluster = Cluster::new();
        cluster.scheduled("shop", "web-0");
        cluster.keys("shop", "first.key");
        let agent = cluster.start();
        let [a, b] = [21, 22].map(|number| cluster.runtime.site.pod(number));
        assert!(cluster.runtime.call("ADD", &a, "shop", "c1").status.success(), "{}", agent.log());
        let told = |accept: Value, send: Value| json!({"pods": 1, "send": send, "accept": accept});
        agent.eventually("the node says which keys it has", || {
            cluster.acknowledged() == told(json!([1]), json!([1]))
        });
        let first = fs::read(cluster.runtime.site.directory.join("first.key")).unwrap();
        cluster.rotate("add");
        cluster.keys("shop", "first.key");
        agent.eventually("the new epoch is accepted", || {
            cluster.acknowledged() == told(json!([1, 2]), json!([1]))
        });
        cluster.rotate("activate");
        cluster.keys("shop", "first.key");
        agent.eventually("it is sent", || cluster.acknowledged() == told(json!([1, 2]), json!([2])));
        for (text, reason) in [
            (first.clone(), "is older than the keys in force: it lacks epoch 2"),
            (
                fs::read(cluster.runtime.site.directory.join("other.key")).unwrap(),
                "the tenant id is another one",
            ),
            (first[..40].to_vec(), "is no key file"),
        ] {
            cluster.secret("shop", &text);
            agent.eventually(reason, || problems(&agent).contains(reason));
            assert_eq!(cluster.acknowledged(), told(json!([1, 2]), json!([2])));
        }
        cluster.api.delete("secrets", "shop", "tencrypt-key");
        agent.eventually("it is told", || problems(&agent).contains("is not there"));
        // A further pod is given the keys in force.
        assert!(
            cluster.runtime.call_named("ADD", &b, ("shop", "web-1"), "c2").status.success(),
            "{}",
            agent.log()
        );
        let _echo = UdpEcho::start(&b, 7000).unwrap();
        assert!(is_echoed(&a, b.v4(), 7000));
        cluster.keys("shop", "first.key");
        agent.eventually("nothing is wrong any more", || !problems(&agent).contains("tencrypt-key"));
    });
}

#[test]
fn an_api_that_goes_away_or_forgets_stops_nothing_and_what_changes_then_is_heard() {
    test("kubernetes::an_api_that_goes_away_or_forgets_stops_nothing_and_what_changes_then_is_heard", || {
        let cluster = Cluster::new();
        cluster.scheduled("shop", "web-0");
        cluster.keys("shop", "first.key");
        let agent = cluster.start();
        let [a, b, c, d] = [21, 22, 23, 24].map(|number| cluster.runtime.site.pod(number));
        let call = |pod, namespace: &str, name: &str, container: &str| {
            cluster.runtime.call_named("ADD", pod, (namespace, name), container)
        };
        assert!(call(&a, "shop", "web-0", "c1").status.success(), "{}", agent.log());
        cluster.api.away(true);
        agent.eventually("it is told", || problems(&agent).contains("namespaces: "));
        // Nobody says that these pods are there; the node knows their tenant.
        assert!(call(&b, "shop", "web-1", "c2").status.success(), "{}", agent.log());
        assert!(call(&c, "default", "web-0", "c3").status.success());
        assert_eq!(code(&call(&d, "unheard-of", "web-0", "c4")), 11);
        cluster.label("unheard-of", None);
        cluster.api.away(false);
        agent.eventually("the namespace is heard of", || {
            call(&d, "unheard-of", "web-0", "c4").status.success()
        });
        cluster.api.compact();
        cluster.label("later", None);
        agent.eventually("a new list is read", || call(&d, "later", "web-0", "c5").status.success());
        agent.eventually("all is well", || !problems(&agent).contains("namespaces: "));
        // The next agent finds the API away: pods go on, open namespaces stay open, others wait.
        agent.stop(tencrypt_lab::Signal::Term);
        cluster.api.away(true);
        let agent = cluster.runtime.site.begin(&cluster.settings());
        agent.eventually("the data paths are taken over", || {
            agent.program.stderr().contains("the API was not read whole yet") && agent.pods().len() == 2
        });
        assert!(call(&c, "default", "web-1", "c6").status.success());
        assert_eq!(code(&call(&d, "shop", "web-2", "c7")), 11);
        let _echo = UdpEcho::start(&b, 7000).unwrap();
        assert!(is_echoed(&a, b.v4(), 7000));
        cluster.api.away(false);
        agent.program.wait_ready(crate::support::LIMIT).unwrap();
        assert!(call(&d, "shop", "web-2", "c7").status.success(), "{}", agent.log());
    });
}
