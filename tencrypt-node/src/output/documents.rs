//! Test that docs/json.md has every field of the documents, with its type, and no other.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use super::*;
use crate::{
    kube::{NodeEntry, State, Verdict},
    report::PodState,
    samples,
};

/// Objects whose keys are names.
const MAPS: [&str; 2] = ["node.pods", "cluster.nodes[].keys"];

/// Objects that have a table of their own.
const ELSEWHERE: [&str; 1] = ["pods[].status"];

type Fields = BTreeMap<String, String>;

/// The fields of a document with their types: `null` where that is what they hold.
fn fields(document: &str) -> Fields {
    fn look(value: &Value, path: &str, fields: &mut Fields) {
        let kind = match value {
            Value::Object(_) if ELSEWHERE.contains(&path) => "object",
            Value::Object(object) => {
                for (key, value) in object {
                    let key = if MAPS.contains(&path) { "*" } else { key };
                    let below = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    look(value, &below, fields);
                }
                return;
            }
            Value::Array(values) => {
                return values.iter().for_each(|value| look(value, &format!("{path}[]"), fields));
            }
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
        };
        fields.insert(path.to_owned(), kind.to_owned());
    }
    assert_eq!(document.lines().count(), 1, "{document}");
    let mut found = Fields::new();
    look(&serde_json::from_str(document).unwrap(), "", &mut found);
    found
}

/// The table below `## name` in docs/json.md.
fn documented(name: &str) -> Fields {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find_map(|section| section.strip_prefix(&format!("{name}\n")));
    let rows = section.unwrap_or_else(|| panic!("no section {name}")).lines();
    let cells = rows.filter_map(|row| row.strip_prefix("| `")?.split_once("` | "));
    cells
        .map(|(field, rest)| (field.to_owned(), rest.split(" |").next().unwrap_or_default().to_owned()))
        .collect()
}

/// Compares a document that has all there is with its table. One with nulls holds the same fields, where they may be null.
fn assert_documented(name: &str, full: &str, bare: &str) {
    let (documented, full) = (documented(name), fields(full));
    let plain = |kind: &String| kind.trim_end_matches(" or null").to_owned();
    let expected: Fields = documented.iter().map(|(field, kind)| (field.clone(), plain(kind))).collect();
    assert_eq!(full, expected, "{name}");
    for (field, kind) in fields(bare) {
        let below = format!("{field}.");
        let is_object = documented.keys().any(|documented| documented.starts_with(&below));
        match documented.get(&field) {
            Some(documented) if kind == "null" => {
                assert!(documented.ends_with(" or null"), "{name}: {field}")
            }
            Some(documented) => assert_eq!(plain(documented), kind, "{name}: {field}"),
            None => assert!(kind == "null" && is_object, "{name}: {field} is not documented"),
        }
    }
}

#[test]
fn every_field_of_status_is_documented() {
    let mut full = samples::node();
    full.problems = vec!["a".into()];
    let tenant = &mut full.tenants[0];
    (tenant.problem, tenant.replacement_problem) = (Some("a".into()), Some("b".into()));
    full.plugin.as_mut().unwrap().problem = Some("a".into());
    let bare = NodeReport { plugin: None, ..samples::node() };
    assert_documented("tencrypt-node status", &status(&full, true), &status(&bare, true));
    let mut bare = samples::node();
    bare.plugin = Some(crate::report::PluginReport::default());
    assert_documented("tencrypt-node status", &status(&full, true), &status(&bare, true));
}

#[test]
fn every_field_of_pods_is_documented() {
    let mut full = samples::pod("shop/web-0", "shop");
    full.problem = Some("a".into());
    let bare = PodReport {
        state: PodState::Waiting,
        pid: None,
        program: None,
        public_key: None,
        status: None,
        ..samples::pod("shop/web-1", "shop")
    };
    assert_documented("tencrypt-node pods", &pods(&[full], true), &pods(&[bare], true));
}

#[test]
fn every_field_of_a_cluster_is_documented() {
    let full = samples::cluster::cluster();
    let mut bare = full.clone();
    bare.tenants.truncate(1);
    bare.tenants[0].problem = None;
    bare.nodes = vec![NodeEntry::default()];
    bare.pods.truncate(1);
    (bare.pods[0].node, bare.pods[0].reason) = (None, None);
    // Lists are shown by what is in them.
    let lists = |report: &mut crate::kube::ClusterReport| {
        for tenant in &mut report.tenants {
            tenant.problem.get_or_insert_default();
        }
        for node in &mut report.nodes {
            node.problem.get_or_insert_default();
            node.agent.get_or_insert_default();
            node.version.get_or_insert_default();
        }
        for pod in &mut report.pods {
            pod.reason.get_or_insert_default();
        }
    };
    let mut whole = full;
    lists(&mut whole);
    assert_documented("tencrypt-node kube status", &cluster(&whole, true), &cluster(&bare, true));
}

#[test]
fn every_field_of_a_proof_is_documented() {
    let mut full = samples::cluster::proof();
    let check = &mut full.checks[0];
    check.problem = Some("a".into());
    for counted in [&mut check.source, &mut check.destination].into_iter().flatten() {
        counted.plain_kinds = vec!["tcp".into()];
    }
    let mut bare = samples::cluster::proof();
    let check = &mut bare.checks[0];
    (check.answer, check.source, check.destination) = (None, None, None);
    assert_documented("tencrypt-node kube verify", &verification(&full, true), &verification(&bare, true));
}

#[test]
fn every_state_and_verdict_of_a_cluster_is_documented_by_the_name_that_it_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let text = fs::read_to_string(path).unwrap();
    let row = |start: &str| text.lines().find(|row| row.starts_with(start)).unwrap().to_owned();
    let (states, verdicts) = (row("| `cluster.pods[].state` "), row("| `verification.checks[].verdict` "));
    for state in State::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        assert!(states.contains(&format!("`{}`", state.as_str())), "{states}");
    }
    for verdict in Verdict::ALL {
        assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.as_str());
        assert!(verdicts.contains(&format!("`{}`", verdict.as_str())), "{verdicts}");
    }
}

#[test]
fn every_state_of_a_pod_is_documented_by_the_name_that_it_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let text = fs::read_to_string(path).unwrap();
    let row = text.lines().find(|row| row.starts_with("| `pods[].state` ")).unwrap();
    for state in [PodState::Starting, PodState::Protected, PodState::Waiting, PodState::Ending] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        assert!(row.contains(&format!("`{}`", state.as_str())), "{row}");
    }
}
