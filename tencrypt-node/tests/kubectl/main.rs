//! `tencrypt-node kube`, and `kubectl tencrypt`, with a stand-in for kubectl: what is made of its answers, and of its failures.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    Cluster, LEASES, NAMESPACE, NAMESPACES, NODES, PODS, PROGRAM, TENANTS, agent_pods, called, failure, pod,
};

/// The pods of a document by name, with their states.
fn states(cluster: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pods = cluster["pods"].as_array().unwrap();
    pods.iter().map(|pod| (text(&pod["name"]), text(&pod["state"]))).collect()
}

fn of(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn a_cluster_whose_pods_are_protected_is_fine() {
    let cluster = Cluster::new();
    let (code, document) = cluster.status();
    assert_eq!(code, Some(0), "{document:#}");
    assert_eq!(states(&document), of(&[("web-0", "protected"), ("web-1", "protected")]));
    assert_eq!(document["problems"], json!([]));
    assert_eq!(document["tenants"][0]["namespaces"], json!(["shop"]));
    let node = json!({
        "name": "node1", "agent": "agent-node1", "ready": true, "version": "0.1.0", "problem": null,
        "keys": {"shop": {"pods": 1, "send": [1], "accept": [1, 2]}},
    });
    assert_eq!(document["nodes"][0], node);
    let exec = "exec -n tencrypt agent-node1 -c tencrypt-node -- tencrypt-node pods --json";
    assert!(cluster.calls().iter().any(|call| call == exec), "{:?}", cluster.calls());
    let text = String::from_utf8(cluster.kube(&["status"]).stdout).unwrap();
    assert!(text.starts_with("protected  yes: protected 2\n"), "{text}");
}

#[test]
fn a_pod_that_is_not_protected_is_named_and_the_exit_code_says_so() {
    let cluster = Cluster::new();
    let mut outside = pod("net-0", "node1", 1);
    outside["spec"]["hostNetwork"] = json!(true);
    let mut new = pod("new-0", "", 2);
    new["status"] = json!({"phase": "Pending"});
    let mut ended = pod("job-0", "node1", 3);
    ended["status"]["phase"] = json!("Succeeded");
    let of_before = pod("web-1", "node2", 8);
    cluster.list(PODS, "Pod", json!([pod("web-0", "node1", 7), of_before, outside, new, ended]));
    let (code, document) = cluster.status();
    assert_eq!(code, Some(0), "what cannot be protected is no fault: {document:#}");
    assert_eq!(document["pods"].as_array().unwrap().len(), 4);
    for (said, state, reason) in [
        (json!({"version": 1, "pods": []}), "open", "the agent of its node does not know it"),
        (agent_pods(&[("web-1", "waiting", 8)]), "waiting", "no key"),
        (
            agent_pods(&[("web-1", "protected", 9)]),
            "open",
            "its data path does not know its address 10.244.1.8",
        ),
        (
            json!({"version": 2, "pods": []}),
            "unknown",
            "its agent agent-node2: the agent's document has version 2",
        ),
        (json!([]), "unknown", "its agent agent-node2: the agent's document makes no sense"),
    ] {
        cluster.set("exec_agent-node2_pods", &said);
        let (code, document) = cluster.status();
        assert_eq!((code, &document["pods"][1]["state"]), (Some(6), &json!(state)), "{document:#}");
        let found = document["pods"][1]["reason"].as_str().unwrap();
        assert!(found.starts_with(reason), "{found}");
    }
}

#[test]
fn an_agent_that_does_not_answer_leaves_its_pods_unknown_and_the_others_known() {
    let cluster = Cluster::new();
    cluster.run("exec_agent-node2_status", "echo 'error: unable to upgrade connection' >&2; exit 1\n");
    let (code, document) = cluster.status();
    assert_eq!(code, Some(6));
    assert_eq!(states(&document), of(&[("web-0", "protected"), ("web-1", "unknown")]));
    let node = &document["nodes"][1];
    assert_eq!((&node["ready"], &node["version"]), (&json!(false), &Value::Null));
    let problem = node["problem"].as_str().unwrap();
    assert!(problem.contains("ended with exit code 1: error: unable to upgrade connection"), "{problem}");
    assert_eq!(document["pods"][1]["reason"], node["problem"]);
}

#[test]
fn without_agents_or_tenants_files_or_leases_the_rest_is_shown() {
    let cluster = Cluster::new();
    cluster.remove(TENANTS);
    cluster.remove(LEASES);
    let (code, document) = cluster.status();
    assert_eq!(code, Some(0), "the pods are protected all the same: {document:#}");
    assert_eq!(document["problems"].as_array().unwrap().len(), 2);
    let nobody = cluster.kube(&["status", "--json", "--agents", "elsewhere"]);
    assert!(failure(&nobody).contains("namespaces/elsewhere/pods"));
    let none =
        "/api/v1/namespaces/elsewhere/pods?limit=500&labelSelector=app.kubernetes.io%2Fname%3Dtencrypt-node";
    cluster.list(none, "Pod", json!([]));
    let nobody = cluster.kube(&["status", "--agents", "elsewhere"]);
    let text = String::from_utf8(nobody.stdout).unwrap();
    assert_eq!(nobody.status.code(), Some(6));
    assert!(text.contains("no agent is in namespace `elsewhere`") && text.contains("UNKNOWN"), "{text}");
}

#[test]
fn lists_are_read_page_by_page_and_begun_anew_when_a_page_is_gone() {
    let cluster = Cluster::new();
    let page = |name: &str, node: &str, number, next: &str| json!({"kind": "PodList", "metadata": {"continue": next}, "items": [pod(name, node, number)]});
    cluster.set(PODS, &page("web-0", "node1", 7, "to/ken=="));
    let second = format!("{PODS}&continue=to%2Fken%3D%3D");
    cluster.set(&second, &page("web-1", "node2", 8, ""));
    assert_eq!(cluster.status().0, Some(0));
    assert!(cluster.calls().contains(&format!("get --raw {second}")), "{:?}", cluster.calls());
    // The token is too old once: nothing of the first page is kept.
    let script = "if [ -e \"$folder/old\" ]; then exec cat \"$folder/$name\"; fi\ntouch \"$folder/old\"\n\
        echo 'Error from server (Expired): The provided continue parameter is too old' >&2; exit 1\n";
    cluster.run(&second, script);
    let (code, document) = cluster.status();
    assert_eq!(code, Some(0));
    assert_eq!(document["pods"].as_array().unwrap().len(), 2, "{document:#}");
    // And always.
    cluster.run(&second, "echo 'Error from server (Expired): too old' >&2; exit 1\n");
    assert!(failure(&cluster.kube(&["status"])).contains("too old"));
}

#[test]
fn a_kubectl_that_fails_is_named_with_its_exit_code_and_its_first_lines() {
    let cluster = Cluster::new();
    cluster.run(NODES, "printf '%s\\n' one two three four >&2; exit 7\n");
    let line = failure(&cluster.kube(&["status"]));
    assert!(
        line.ends_with("get --raw /api/v1/nodes?limit=500` ended with exit code 7: one; two; three\n"),
        "{line}"
    );
    cluster.run(NODES, "kill -9 $$\n");
    let line = failure(&cluster.kube(&["status"]));
    assert!(line.contains("` ended: signal: 9"), "{line}");
    let absent = Command::new(PROGRAM).args(["kube", "status", "--kubectl", "/nonexistent/kubectl"]).output();
    let line = failure(&absent.unwrap());
    assert!(line.starts_with("tencrypt-node: cannot start `/nonexistent/kubectl`: No such file"), "{line}");
}

#[test]
fn answers_that_make_no_sense_are_failures_and_no_empty_lists() {
    let cluster = Cluster::new();
    for text in [
        "",
        "{}",
        "<html>",
        r#"{"kind":"Status","status":"Failure"}"#,
        r#"{"kind":"NamespaceList","items":3}"#,
        "\u{1b}[2J",
    ] {
        cluster.say(NAMESPACES, text);
        let line = failure(&cluster.kube(&["status"]));
        assert!(line.contains("has answered what makes no sense: "), "{line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }
    cluster.run(NAMESPACES, "printf '\\377\\376'\n");
    assert!(failure(&cluster.kube(&["status"])).contains("it is no text"));
}

#[test]
fn a_kubectl_that_hangs_is_ended_and_who_holds_its_output_is_not_waited_for() {
    for script in ["exec sleep 100\n", "sleep 8 &\nexit 0\n", "echo wait >&2; exec sleep 100\n"] {
        let cluster = Cluster::new();
        cluster.run(NODES, script);
        let begun = Instant::now();
        let line = failure(&cluster.kube(&["status", "--timeout", "1"]));
        assert!(line.contains("was not done within 1 s and was ended"), "{line}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{script}: {:?}", begun.elapsed());
    }
}

#[test]
fn under_the_name_of_a_plugin_the_program_is_kubectl_tencrypt() {
    let cluster = Cluster::new();
    let plugin = || Command::new(called("kubectl-tencrypt"));
    let output = cluster.reach(&mut plugin(), &["status", "--json"]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let run = plugin().arg("run").output().unwrap();
    assert_eq!(run.status.code(), Some(2), "the agent's own commands are none of the plugin's");
    let help = String::from_utf8(plugin().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("Usage: kubectl tencrypt ") && help.contains("verify"), "{help}");
    // Options stand behind the word and in front of it.
    let mut other = Command::new(called("tencrypt-node-0"));
    assert_eq!(cluster.reach(&mut other, &["kube", "--timeout", "9", "status"]).status.code(), Some(0));
}

#[test]
fn what_cannot_be_verified_says_why() {
    let cluster = Cluster::new();
    cluster.set("exec_agent-node2_pods", &agent_pods(&[("web-1", "waiting", 8)]));
    let verify = |words: &[&str]| failure(&cluster.kube(&[&["verify", "shop"], words].concat()));
    assert!(verify(&[]).contains("namespace shop: it takes two protected pods"), "{}", verify(&[]));
    assert!(verify(&["--to", "web-1"]).contains("namespace shop: pod web-1 is waiting: no key"));
    assert!(verify(&["--from", "web-9"]).contains("there is no pod web-9 that runs"));
    cluster.set(NAMESPACE, &json!({"metadata": {"name": "shop"}}));
    assert!(verify(&[]).contains("namespace shop has no label tencrypt.io/tenant: its pods are open"));
    let path = cluster.kube(&["verify", "shop/pods"]);
    assert_eq!(path.status.code(), Some(2), "{path:?}");
    cluster.remove(NAMESPACE);
    assert!(verify(&[]).contains("ended with exit code 1: Error from server (NotFound)"));
}

/// The first line of a probe that looks.
const WATCHING: &str = r#"{"watching":{"closed_port":40001}}"#;

fn counted(records: u64, plain: u64) -> Value {
    json!({"records_out": records, "records_in": records, "handshakes": 0, "plain": plain, "plain_kinds": [],
        "canary": 0, "lost": 0})
}

/// Has the probes say this: the receiver's look, and the sender's answer with its own.
fn probed(cluster: &Cluster, watched: &Value, answer: Value, sent: &Value) {
    let watched = json!({ "watched": watched });
    let watch = format!(
        "case \"$*\" in *' watch '*) ;; *) exit 9 ;; esac\necho '{WATCHING}'\nread line\necho '{watched}'\n"
    );
    cluster.run("exec_agent-node2_probe", &watch);
    let sent = json!({"sent": {"answer": answer, "refusal": null, "counted": sent}});
    cluster.run("exec_agent-node1_probe", &format!("echo '{sent}'\n"));
}

fn verdicts(cluster: &Cluster) -> (Option<i32>, Vec<String>) {
    verdicts_within(cluster, "30")
}

fn verdicts_within(cluster: &Cluster, seconds: &str) -> (Option<i32>, Vec<String>) {
    let output = cluster.kube(&["verify", "shop", "--json", "--timeout", seconds]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let checks = document["verification"]["checks"].as_array().unwrap().clone();
    let text = |check: &Value| check["verdict"].as_str().unwrap().to_owned();
    (output.status.code(), checks.iter().map(text).collect())
}

#[test]
fn a_proof_is_what_both_probes_have_seen() {
    let cluster = Cluster::new();
    let all = |verdict: &str| vec![verdict.to_owned(); 6];
    probed(&cluster, &counted(2, 0), json!("refused"), &counted(2, 0));
    assert_eq!(verdicts(&cluster), (Some(0), all("encrypted")));
    let calls = cluster.calls();
    let watch = "exec -i -n tencrypt agent-node2 -c tencrypt-node -- tencrypt-node probe watch --netns=4-402653228 \
        --own=fd00::8,10.244.1.8 --other=fd00::7,10.244.1.7 --port=8362 --canary=";
    assert!(calls.iter().any(|call| call.starts_with(watch)), "{calls:#?}");
    assert_eq!(calls.iter().filter(|call| call.ends_with("--protocol=udp --closed-port=40001")).count(), 2);
    let canary = |call: &String| call.split("--canary=").nth(1).map(|rest| rest[..32].to_owned());
    let canaries: std::collections::BTreeSet<String> = calls.iter().filter_map(canary).collect();
    assert_eq!(canaries.len(), 6, "each check has one of its own, at both ends: {canaries:?}");
    for (watched, answer, sent, verdict) in [
        (counted(2, 1), json!("refused"), counted(2, 0), "plain"),
        (counted(2, 0), json!("refused"), counted(2, 1), "plain"),
        (counted(2, 0), Value::Null, counted(2, 0), "unanswered"),
        (counted(0, 0), json!("refused"), counted(2, 0), "unproven"),
        (counted(2, 0), json!("refused"), counted(0, 0), "unproven"),
    ] {
        probed(&cluster, &watched, answer, &sent);
        assert_eq!(verdicts(&cluster), (Some(6), all(verdict)));
    }
}

#[test]
fn probes_that_fail_prove_nothing() {
    let cluster = Cluster::new();
    let all = vec!["failed".to_owned(); 6];
    for (watch, send) in [
        ("echo 'error: unrecognized subcommand' >&2; exit 2\n".to_owned(), "exit 0\n".to_owned()),
        ("echo nonsense\n".to_owned(), "exit 0\n".to_owned()),
        (format!("echo '{WATCHING}'\nread line\n"), "exit 1\n".to_owned()),
        (format!("echo '{WATCHING}'\nread line\n"), "echo '{\"sent\":{}}'\n".to_owned()),
        // It looks no more when it is told to end: nobody knows what it would have seen.
        (
            format!("echo '{WATCHING}'\n"),
            format!(
                "echo '{}'\n",
                json!({"sent": {"answer": "refused", "refusal": null, "counted": counted(2, 0)}})
            ),
        ),
    ] {
        cluster.run("exec_agent-node2_probe", &watch);
        cluster.run("exec_agent-node1_probe", &send);
        assert_eq!(verdicts(&cluster), (Some(6), all.clone()), "{watch}{send}");
    }
    cluster.run("exec_agent-node2_probe", "exec sleep 100\n");
    let begun = Instant::now();
    assert_eq!(verdicts_within(&cluster, "1"), (Some(6), all));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}
