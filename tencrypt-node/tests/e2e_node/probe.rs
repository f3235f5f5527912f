//! `tencrypt-node kube verify` and the probes that it is made of, between two pods of an agent; and, as the control, between pods that
//! are open.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{AGENT, Agent, Site};
use serde_json::{Value, json};
use tencrypt_lab::{Finished, Pod, Program, test};

/// Two pods of the tenant `shop`, on nodes of a cluster that a script stands for: both have the one agent that there is.
struct Shop {
    site: Site,
    a: Pod,
    b: Pod,
    /// A process in each, as pods have: a namespace is found by what runs in it.
    _processes: [Program; 2],
}

/// The files of the cluster, by the paths that they are asked for.
const NAMESPACE: &str = "/api/v1/namespaces/shop";
const PODS: &str = "/api/v1/namespaces/shop/pods?limit=500";
const AGENTS: &str =
    "/api/v1/namespaces/tencrypt/pods?limit=500&labelSelector=app.kubernetes.io%2Fname%3Dtencrypt-node";

impl Shop {
    fn new() -> Self {
        let site = Site::new();
        site.tenant("shop");
        let (a, b) = (site.pod(21), site.pod(22));
        let sleep = |pod: &Pod| Program::start(Path::new("/bin/sleep"), ["600"], Some(pod.netns())).unwrap();
        let processes = [sleep(&a), sleep(&b)];
        let shop = Self { site, a, b, _processes: processes };
        fs::create_dir(shop.api()).unwrap();
        shop.answer(
            NAMESPACE,
            &json!({"metadata": {"name": "shop", "labels": {"tencrypt.io/tenant": "shop"}}}),
        );
        let pods = [("web-0", &shop.a, "node1"), ("web-1", &shop.b, "node2")];
        let pods = pods.map(|(name, pod, node)| {
            let ips = pod.addresses().map(|ip| json!({"ip": ip.to_string()}));
            json!({
                "metadata": {"name": name, "namespace": "shop"}, "spec": {"nodeName": node},
                "status": {"phase": "Running", "podIP": pod.v4().to_string(), "podIPs": ips},
            })
        });
        shop.answer(PODS, &json!({"kind": "PodList", "items": pods}));
        let agents = ["node1", "node2"].map(|node| {
            let conditions = json!([{"type": "Ready", "status": "True"}]);
            json!({
                "metadata": {"name": format!("agent-{node}")}, "spec": {"nodeName": node},
                "status": {"phase": "Running", "conditions": conditions},
            })
        });
        shop.answer(AGENTS, &json!({"kind": "PodList", "items": agents}));
        shop
    }

    fn api(&self) -> PathBuf {
        self.site.directory.join("api")
    }

    fn answer(&self, path: &str, object: &Value) {
        fs::write(self.api().join(path.replace('/', "_")), object.to_string()).unwrap();
    }

    /// Writes a kubectl that answers from these files and runs the agent's program in place of `exec`, by way of a word of the shell.
    fn kubectl(&self, exec: &str) -> PathBuf {
        let path = self.site.directory.join("kubectl");
        let script = format!(
            "#!/bin/sh\nset -eu\nif [ \"$1\" = get ]; then exec cat \"{}/$(printf %s \"$3\" | tr / _)\"; fi\n\
             while [ \"$1\" != -- ]; do shift; done\nshift 2\n{exec}\n",
            self.api().display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn verify(&self, kubectl: &Path) -> (Option<i32>, Value) {
        let words = ["kube", "verify", "shop", "--json", "--kubectl"].map(OsString::from);
        let words: Vec<OsString> = words.into_iter().chain([kubectl.into()]).collect();
        let finished = self.site.run(Path::new(AGENT), &words);
        let document = serde_json::from_str(&finished.stdout).unwrap_or_else(|_| panic!("{finished:?}"));
        (finished.status.code(), document)
    }

    fn protect(&self, agent: &Agent<'_>) {
        // As the plugin calls them; a file's name cannot have the slash, so that they are renamed by the script below.
        self.site.name("web-0", "shop", &self.a);
        self.site.name("web-1", "shop", &self.b);
        agent.protected("web-0");
        agent.protected("web-1");
    }

    /// Sends a probe from the first pod to the second.
    fn send(&self, protocol: &str, family: usize) -> Finished {
        let [own, other] = [&self.a, &self.b].map(|pod| pod.addresses()[family].to_string());
        let words = [
            "probe".to_owned(),
            "send".to_owned(),
            format!("--netns={}", self.a.netns().path().display()),
            format!("--own={own}"),
            format!("--other={other}"),
            "--canary=000102030405060708090a0b0c0d0e0f".to_owned(),
            format!("--protocol={protocol}"),
            "--closed-port=4".to_owned(),
        ];
        self.site.run(Path::new(AGENT), &words.map(OsString::from))
    }
}

/// Pods of files are called by their files' names, those of the cluster by namespace and name.
const RENAMED: &str = r#"if [ "$1" = pods ]; then "$AGENT" "$@" | sed 's|"name":"web-|"name":"shop/web-|g'; else exec "$AGENT" "$@"; fi"#;

fn renamed(more: &str) -> String {
    format!("AGENT='{AGENT}'\n{more}{RENAMED}")
}

#[test]
fn two_protected_pods_are_found_encrypted_in_both_families_and_all_protocols() {
    test("probe::two_protected_pods_are_found_encrypted_in_both_families_and_all_protocols", || {
        let shop = Shop::new();
        let agent = shop.site.start("");
        shop.protect(&agent);
        let (code, document) = shop.verify(&shop.kubectl(&renamed("")));
        assert_eq!(code, Some(0), "{document:#}\n{}", agent.log());
        let found = &document["verification"];
        assert_eq!((&found["from"]["pod"], &found["to"]["pod"]), (&json!("web-0"), &json!("web-1")));
        let checks = found["checks"].as_array().unwrap();
        let names: Vec<String> = checks
            .iter()
            .map(|check| {
                let text = |field: &str| check[field].as_str().unwrap_or("-").to_owned();
                [text("family"), text("protocol"), text("verdict"), text("answer")].join(" ")
            })
            .collect();
        assert_eq!(
            names,
            [
                "ipv4 tcp encrypted refused",
                "ipv4 udp encrypted port unreachable",
                "ipv4 icmp encrypted echo reply",
                "ipv6 tcp encrypted refused",
                "ipv6 udp encrypted port unreachable",
                "ipv6 icmp encrypted echo reply",
            ]
        );
        for check in checks {
            for end in ["source", "destination"] {
                let count = |field: &str| check[end][field].as_u64().unwrap();
                assert!(count("records_out") > 0 && count("records_in") > 0, "{check:#}");
                assert_eq!([count("plain"), count("canary"), count("lost")], [0, 0, 0], "{check:#}");
            }
        }
    });
}

#[test]
fn two_open_pods_are_found_in_plain_in_both_families_and_all_protocols() {
    test("probe::two_open_pods_are_found_in_plain_in_both_families_and_all_protocols", || {
        let shop = Shop::new();
        let agent = shop.site.start("");
        shop.protect(&agent);
        // The agent's word of both is kept, and they are opened: whoever believes it believes them to be protected.
        let said = shop.site.run(Path::new(AGENT), &["pods".into(), "--json".into()]);
        assert!(said.status.success(), "{said:?}");
        fs::write(shop.site.directory.join("said"), &said.stdout).unwrap();
        for pod in [&shop.a, &shop.b] {
            let down = ["down".into(), "--netns".into(), pod.netns().path().into()];
            let done = shop.site.run(&crate::support::program("tencrypt"), &down);
            assert!(done.status.success(), "{done:?}");
        }
        let said = format!(
            "if [ \"$1\" = pods ]; then exec sed 's|\"name\":\"web-|\"name\":\"shop/web-|g' '{}'; fi\n",
            shop.site.directory.join("said").display()
        );
        let (code, document) = shop.verify(&shop.kubectl(&renamed(&said)));
        assert_eq!(code, Some(6), "{document:#}\n{}", agent.log());
        let checks = document["verification"]["checks"].as_array().unwrap();
        assert_eq!(checks.len(), 6, "{document:#}");
        for check in checks {
            assert_eq!(check["verdict"], "plain", "{check:#}");
            assert!(check["answer"].is_string(), "{check:#}");
            for end in ["source", "destination"] {
                let count = |field: &str| check[end][field].as_u64().unwrap();
                assert!(count("plain") >= 2, "the question and its answer: {check:#}");
                // What has a payload shows it, and so does an ICMP error of it.
                let is_shown = check["protocol"] != "tcp";
                assert_eq!(count("canary") > 0, is_shown, "{check:#}");
                assert_eq!(count("records_out") + count("records_in"), 0, "{check:#}");
            }
        }
    });
}

#[test]
fn a_probe_to_a_pod_that_is_closed_has_no_answer_and_one_past_the_tunnel_is_no_proof() {
    test("probe::a_probe_to_a_pod_that_is_closed_has_no_answer_and_one_past_the_tunnel_is_no_proof", || {
        let shop = Shop::new();
        let agent = shop.site.start("");
        // One end alone is protected: its traffic is held and dropped, and nothing is seen in plain.
        shop.site.name("web-0", "shop", &shop.a);
        agent.protected("web-0");
        for protocol in ["icmp", "udp"] {
            let sent = shop.send(protocol, 0);
            assert!(sent.status.success(), "{sent:?}");
            let said: Value = serde_json::from_str(&sent.stdout).unwrap();
            assert_eq!(said["sent"]["answer"], Value::Null, "{said:#}");
            let counted = &said["sent"]["counted"];
            assert_eq!((&counted["plain"], &counted["canary"]), (&json!(0), &json!(0)), "{said:#}");
            assert!(counted["handshakes"].as_u64() > Some(0), "it was asked: {said:#}");
        }
        // In place of the pod itself: an address of its own answers without a frame. An answer alone proves nothing.
        let own = shop.a.v4().to_string();
        let words = [
            "probe".to_owned(),
            "send".to_owned(),
            format!("--netns={}", shop.a.netns().path().display()),
            format!("--own={own}"),
            format!("--other={own}"),
            "--canary=000102030405060708090a0b0c0d0e0f".to_owned(),
            "--protocol=tcp".to_owned(),
            "--closed-port=4".to_owned(),
        ];
        let sent = shop.site.run(Path::new(AGENT), &words.map(OsString::from));
        let said: Value = serde_json::from_str(&sent.stdout).unwrap();
        assert_eq!(said["sent"]["answer"], "refused", "{said:#}");
        let counted = &said["sent"]["counted"];
        assert_eq!((&counted["records_out"], &counted["records_in"]), (&json!(0), &json!(0)), "{said:#}");
    });
}
