use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::samples;

/// Metrics as a strict reader of the format sees them.
#[derive(Debug, Default)]
struct Read {
    /// Kinds by metric.
    kinds: BTreeMap<String, String>,
    /// Values by metric and labels.
    samples: BTreeMap<(String, BTreeMap<String, String>), u64>,
}

impl Read {
    /// The value of a sample that has to be there.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
        let key = (name.to_owned(), labels.collect());
        *self.samples.get(&key).unwrap_or_else(|| panic!("no sample {key:?} in {:#?}", self.samples))
    }

    fn labels(&self) -> BTreeSet<&str> {
        self.samples.keys().flat_map(|(_, labels)| labels.keys().map(String::as_str)).collect()
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && chars.all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// Reads the text format 0.0.4: HELP and TYPE once for each metric and before its samples, the samples of a metric one after the
/// other, no sample twice, known escapes alone, a line feed at the end.
fn read(text: &str) -> Read {
    assert!(text.ends_with('\n'));
    let mut read = Read::default();
    let mut current = None;
    let mut help = None;
    for line in text.split_terminator('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, sentence) = rest.split_once(' ').unwrap();
            assert!(sentence.ends_with('.') && !sentence.contains('\\'), "{line}");
            assert_eq!(help, None, "{line}");
            help = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(help.take().as_deref(), Some(name), "{line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(name.starts_with("tencrypt_") && is_name(name), "{line}");
            assert_eq!(read.kinds.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            current = Some(name.to_owned());
        } else {
            let (key, value) = sample(line);
            assert_eq!((help.as_ref(), Some(&key.0)), (None, current.as_ref()), "{line}");
            assert_eq!(read.samples.insert(key, value), None, "{line}");
        }
    }
    assert_eq!(help, None);
    for name in read.kinds.keys() {
        assert!(read.samples.keys().any(|(sampled, _)| sampled == name), "{name} has no sample");
    }
    read
}

fn sample(line: &str) -> ((String, BTreeMap<String, String>), u64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label) && !label.starts_with("__"), "{line}");
            let (value, after) = quoted(after);
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').unwrap();
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
    ((name.to_owned(), labels), value)
}

/// A label's value up to its quotation mark, and what follows that.
fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next().unwrap() {
            (at, '"') => return (value, &text[at + 1..]),
            (_, '\\') => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                char @ ('\\' | '"') => char,
                other => panic!("\\{other} is no escape"),
            }),
            (_, char) => value.push(char),
        }
    }
}

fn snapshot(pods: Vec<PodReport>) -> Snapshot {
    Snapshot { node: samples::node(), pods, ended: Totals::default() }
}

fn metrics(snapshot: &Snapshot) -> Read {
    read(&text(snapshot))
}

#[test]
fn every_count_of_the_agent_has_its_metric() {
    let read = metrics(&snapshot(vec![]));
    for (name, label, value) in [
        ("tencrypt_starts_total", Some(("result", "started")), 1),
        ("tencrypt_adoptions_total", None, 2),
        ("tencrypt_restarts_total", None, 3),
        ("tencrypt_replacements_total", Some(("result", "replaced")), 4),
        ("tencrypt_replacements_total", Some(("result", "rolled_back")), 5),
        ("tencrypt_starts_total", Some(("result", "failed")), 6),
        ("tencrypt_cni_requests_total", Some(("result", "protected")), 7),
        ("tencrypt_cni_requests_total", Some(("result", "open")), 8),
        ("tencrypt_cni_requests_total", Some(("result", "refused")), 9),
        ("tencrypt_malformed_requests_total", None, 10),
        ("tencrypt_conflist_put_back_total", None, 11),
        ("tencrypt_found_unprotected_pods_total", None, 12),
        ("tencrypt_clones_total", None, 13),
        ("tencrypt_build_info", Some(("version", "0.1.0")), 1),
        ("tencrypt_program_info", Some(("id", "6197218c")), 1),
        ("tencrypt_uptime_seconds", None, 90_061),
        ("tencrypt_ready", None, 1),
        ("tencrypt_problems", None, 0),
        ("tencrypt_running_unprotected_pods", None, 1),
        ("tencrypt_outside_pods", None, 1),
        ("tencrypt_clone_signs", None, 1),
        ("tencrypt_plugin_installed", None, 1),
    ] {
        assert_eq!(read.value(name, label.as_slice()), value, "{name} {label:?}");
    }
}

#[test]
fn every_counter_of_pods_is_added_up_by_tenant() {
    let pods = vec![
        samples::pod("shop/web-0", "shop"),
        samples::pod("shop/web-1", "shop"),
        samples::pod("other/api-0", "other"),
    ];
    let read = metrics(&snapshot(pods));
    for (name, label, value) in [
        ("tencrypt_packets_total", Some(("verdict", "encrypted")), 11),
        ("tencrypt_packets_total", Some(("verdict", "decrypted")), 12),
        ("tencrypt_packets_total", Some(("verdict", "bypassed")), 13),
        ("tencrypt_packets_total", Some(("verdict", "held")), 14),
        ("tencrypt_packets_total", Some(("verdict", "dropped")), 15),
        ("tencrypt_opportunistic_packets_total", None, 16),
        ("tencrypt_plaintext_leak_packets_total", Some(("direction", "ingress")), 21),
        ("tencrypt_plaintext_leak_packets_total", Some(("direction", "egress")), 22),
        ("tencrypt_looped_packets_total", None, 23),
        ("tencrypt_socket_drops_total", None, 31),
        ("tencrypt_namespace_repairs_total", None, 5),
        ("tencrypt_key_renewals_total", None, 6),
        ("tencrypt_dns_queries_total", None, 41),
        ("tencrypt_dns_answers_total", Some(("verdict", "answered")), 42),
        ("tencrypt_dns_answers_total", Some(("verdict", "unanswered")), 43),
        ("tencrypt_dns_answers_total", Some(("verdict", "withheld")), 44),
        ("tencrypt_dns_external_answers_total", None, 45),
        ("tencrypt_drops_total", Some(("reason", "auth")), 51),
        ("tencrypt_drops_total", Some(("reason", "replay")), 0),
        ("tencrypt_sessions", None, 2),
        ("tencrypt_enforced_pods", None, 1),
        ("tencrypt_pods", Some(("state", "protected")), 1),
    ] {
        for (tenant, pods) in [("shop", 2), ("other", 1)] {
            let labels: Vec<_> = [("tenant", tenant)].into_iter().chain(label).collect();
            assert_eq!(read.value(name, &labels), value * pods, "{name} {labels:?}");
        }
    }
}

#[test]
fn gauges_count_the_pods_of_which_something_holds() {
    let pod = |change: fn(&mut PodReport, &mut StatusReport)| {
        let mut pod = samples::pod("shop/web-0", "shop");
        let mut status = samples::status();
        change(&mut pod, &mut status);
        PodReport { status: pod.status.is_some().then(|| Box::new(status)), ..pod }
    };
    let ill = vec![
        pod(|pod, _| {
            (pod.state, pod.status, pod.problem) = (PodState::Waiting, None, Some("no memory".into()));
        }),
        pod(|pod, _| (pod.state, pod.status, pod.current) = (PodState::Starting, None, false)),
        pod(|pod, _| pod.state = PodState::Ending),
        pod(|_, status| status.namespace.closed = true),
        pod(|_, status| status.namespace.parts[0].problem = Some("refused".into())),
        pod(|_, status| status.keys.error = Some("line 3".into())),
        pod(|_, status| status.identity.mode = "certificate".into()),
        pod(|_, status| (status.suite_problem, status.enforce) = (Some("mtu".into()), false)),
        pod(|_, status| (status.screen.up, status.mtu) = (true, 1280)),
    ];
    let mut snapshot = snapshot(ill);
    let tenant = &mut snapshot.node.tenants[0];
    (tenant.problem, tenant.replacement_problem) = (Some("line 3".into()), Some("web-0".into()));
    tenant.replacing = true;
    let plugin = snapshot.node.plugin.as_mut().unwrap();
    plugin.problem = Some("no such folder".into());
    let read = metrics(&snapshot);
    for (name, value) in [
        ("tencrypt_unprotected_pods", 3),
        ("tencrypt_closed_pods", 1),
        ("tencrypt_problem_pods", 5),
        ("tencrypt_outdated_pods", 1),
        ("tencrypt_uncertified_pods", 1),
        ("tencrypt_flooded_pods", 1),
        ("tencrypt_enforced_pods", 6),
        ("tencrypt_mtu_bytes", 1280),
        ("tencrypt_tenant_problems", 2),
        ("tencrypt_tenant_replacing", 1),
    ] {
        assert_eq!(read.value(name, &[("tenant", "shop")]), value, "{name}");
    }
    for (state, count) in [("starting", 1), ("protected", 6), ("waiting", 1), ("ending", 1)] {
        assert_eq!(read.value("tencrypt_pods", &[("tenant", "shop"), ("state", state)]), count, "{state}");
    }
    assert_eq!(read.value("tencrypt_plugin_installed", &[]), 0);
    snapshot.node.plugin = None;
    assert!(!metrics(&snapshot).kinds.contains_key("tencrypt_plugin_installed"));
}

#[test]
fn the_epoch_is_that_of_the_pod_that_is_furthest_behind() {
    let epoch = |sent: &[u8]| {
        let pods = sent.iter().map(|&send| {
            let mut status = samples::status();
            status.keys.send = send;
            PodReport { status: Some(Box::new(status)), ..samples::pod("shop/web-0", "shop") }
        });
        let read = metrics(&snapshot(pods.collect()));
        read.kinds
            .contains_key("tencrypt_key_epoch")
            .then(|| read.value("tencrypt_key_epoch", &[("tenant", "shop")]))
    };
    assert_eq!(epoch(&[2, 1, 3]), Some(1));
    assert_eq!(epoch(&[0, 255, 0]), Some(255));
    assert_eq!(epoch(&[]), None);
}

#[test]
fn a_counter_does_not_fall_when_a_pod_ends_or_starts_anew() {
    let mut snapshot = snapshot(vec![samples::pod("shop/web-0", "shop"), samples::pod("shop/web-1", "shop")]);
    let before = metrics(&snapshot);
    // One ended, and another one was restarted and has said nothing yet.
    let gone = snapshot.pods.pop().unwrap();
    snapshot.ended.ended("shop", &gone.status.unwrap());
    let died = snapshot.pods[0].status.take().unwrap();
    snapshot.ended.ended("shop", &died);
    let after = metrics(&snapshot);
    let counters = |read: &Read| -> BTreeMap<_, _> {
        let is_counter = |key: &(String, _)| read.kinds[&key.0] == "counter";
        read.samples.clone().into_iter().filter(|(key, _)| is_counter(key)).collect()
    };
    assert_eq!(counters(&before), counters(&after));
    snapshot.pods.push(samples::pod("shop/web-2", "shop"));
    let labels = [("tenant", "shop"), ("verdict", "encrypted")];
    assert_eq!(metrics(&snapshot).value("tencrypt_packets_total", &labels), 33);
}

#[test]
fn a_tenant_goes_with_its_files_and_its_last_pod() {
    let mut snapshot = snapshot(vec![samples::pod("old/web-0", "old")]);
    snapshot.ended.ended("old", &samples::status());
    let labels = [("tenant", "old"), ("direction", "egress")];
    let of = |snapshot: &Snapshot| {
        let read = metrics(snapshot);
        let names_it = |labels: &BTreeMap<_, _>| labels.get("tenant").is_some_and(|tenant| tenant == "old");
        let is_there = read.samples.keys().any(|(_, labels)| names_it(labels));
        is_there.then(|| read.value("tencrypt_plaintext_leak_packets_total", &labels))
    };
    assert_eq!(of(&snapshot), Some(44));
    snapshot.ended.retain(|tenant| tenant == "old");
    assert_eq!(of(&snapshot), Some(44));
    let pod = snapshot.pods.pop().unwrap();
    assert_eq!(of(&snapshot), None);
    snapshot.ended.retain(|tenant| tenant != "old");
    snapshot.pods.push(pod);
    assert_eq!(of(&snapshot), Some(22));
    assert_ne!(snapshot.ended, {
        let mut other = Totals::default();
        other.ended("old", &samples::status());
        other
    });
}

#[test]
fn names_that_hold_anything_are_escaped() {
    let tenant = "a\"} 1\nb\\n{";
    let mut snapshot = snapshot(vec![samples::pod("x", tenant)]);
    snapshot.node.version = "1\n2\"".into();
    let read = metrics(&snapshot);
    assert_eq!(read.value("tencrypt_sessions", &[("tenant", tenant)]), 2);
    assert_eq!(read.value("tencrypt_build_info", &[("version", "1\n2\"")]), 1);
}

#[test]
fn reasons_that_a_report_makes_up_are_bounded_and_none_of_their_drops_is_lost() {
    let mut pod = samples::pod("shop/web-0", "shop");
    let status = pod.status.as_mut().unwrap();
    let made_up = (0..500).map(|number| format!("reason_{number}")).chain([
        "10.244.1.7".to_owned(),
        String::new(),
        "Auth".to_owned(),
        "a".repeat(41),
    ]);
    status.drops = made_up.map(|reason| (reason, 1)).collect();
    status.packets.encrypted = u64::MAX;
    let mut snapshot = snapshot(vec![pod.clone(), pod]);
    snapshot.ended.ended("shop", &samples::status());
    let read = metrics(&snapshot);
    let drops: Vec<_> = read.samples.iter().filter(|((name, _), _)| name == "tencrypt_drops_total").collect();
    assert!(drops.len() <= 65, "{}", drops.len());
    assert_eq!(drops.iter().map(|(_, count)| **count).sum::<u64>(), 2 * 504 + 51);
    assert!(read.value("tencrypt_drops_total", &[("tenant", "shop"), ("reason", "other")]) >= 2 * 440);
    let labels = [("tenant", "shop"), ("verdict", "encrypted")];
    assert_eq!(read.value("tencrypt_packets_total", &labels), u64::MAX);
}

#[test]
fn a_thousand_pods_of_thirty_tenants_have_as_many_lines_as_thirty() {
    let of = |pods: usize| {
        let mut snapshot = snapshot(
            (0..pods)
                .map(|pod| samples::pod(&format!("ns/pod-{pod}"), &format!("tenant-{}", pod % 30)))
                .collect(),
        );
        snapshot.node.tenants = (0..30).map(|tenant| samples::tenant(&format!("tenant-{tenant}"))).collect();
        text(&snapshot)
    };
    let (few, many) = (of(30), of(1000));
    assert_eq!(few.lines().count(), many.lines().count());
    assert!(many.lines().count() < 30 * 60, "{}", many.lines().count());
    let read = read(&many);
    let allowed = ["direction", "id", "reason", "result", "state", "tenant", "verdict", "version"];
    assert_eq!(read.labels().into_iter().collect::<Vec<_>>(), allowed);
    assert!(!many.contains("ns/pod-") && !many.contains("10.244."), "{many}");
}
