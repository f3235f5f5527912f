//! Test that docs/json.md has every field of every document, with its type, and no other.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use super::{
    tests::{peer, report},
    *,
};
use crate::report::{
    BoundServerReport, CloneSign, FactReport, FilteredReport, IdentityReport, KeysReport, NamesReport,
    NamespaceReport, NetworkReport, PartReport, RenewalReason, RenewalReport,
    checked::{Checked, Finding, Verdict},
    listed::{Listed, State, Summary, Tunnel},
};

/// Objects whose keys are numbers or names.
const MAPS: [&str; 3] = ["keys.fingerprints", "fingerprints", "drops"];

type Fields = BTreeMap<String, String>;

/// The fields of a document with their types: `null` where that is what they hold.
fn fields(document: &str) -> Fields {
    fn look(value: &Value, path: &str, fields: &mut Fields) {
        let kind = match value {
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

fn certificate_report() -> CertificateReport {
    CertificateReport {
        pod: "web-0".into(),
        pod_id: "00".into(),
        tenant: "11".into(),
        public_key: "22".into(),
        generation: 3,
        addresses: vec!["10.244.2.7/32".into()],
    }
}

/// A report in which nothing is null or empty.
fn full() -> StatusReport {
    let text = || Some("text".to_owned());
    StatusReport {
        network: NetworkReport {
            netns: "shop-1".into(),
            interface: "eth0".into(),
            port: 8362,
            protected: vec!["10.244.0.0/16".into()],
            unprotected: vec!["fd00::7".parse().unwrap()],
            bound_servers: vec![BoundServerReport {
                protocol: "tcp".into(),
                address: "0.0.0.0:80".parse().unwrap(),
            }],
            filtered: vec![FilteredReport {
                kind: "names".into(),
                count: 3,
                last_s: 2,
                what: "packets".into(),
                cure: "let them in".into(),
            }],
        },
        suite_problem: text(),
        identity: IdentityReport {
            addresses: vec!["10.244.2.7".parse().unwrap()],
            certificate: Some(certificate_report()),
            problem: text(),
            revocation_problem: text(),
            ..IdentityReport::default()
        },
        renewal: RenewalReport {
            reason: Some(RenewalReason::Clone),
            signs: vec![CloneSign::BootClock],
            ..RenewalReport::default()
        },
        keys: KeysReport {
            send: 1,
            accept: vec![1],
            fingerprints: [(1, "3f9c12ab".to_owned())].into(),
            error: text(),
        },
        names: Some(NamesReport {
            foreign_name: text(),
            foreign_address: Some("203.0.113.1".parse().unwrap()),
            listening: vec!["10.244.2.7".parse().unwrap()],
            problem: text(),
            unseen: vec!["fe80::1".parse().unwrap()],
            ..NamesReport::default()
        }),
        namespace: NamespaceReport {
            closed: true,
            parts: vec![PartReport {
                part: "chains".into(),
                restored: 1,
                last_s: Some(2),
                found: text(),
                problem: text(),
            }],
        },
        ..report()
    }
}

/// A report in which everything is null that may be.
fn bare() -> StatusReport {
    let peer = PeerReport { address: None, generation: None, last_handshake_s: None, ..peer() };
    let identity = IdentityReport::default();
    let part = PartReport { part: "chains".into(), restored: 0, last_s: None, found: None, problem: None };
    let namespace = NamespaceReport { closed: false, parts: vec![part] };
    StatusReport { project: None, identity, names: None, namespace, peers: vec![peer], ..report() }
}

#[test]
fn status_and_peers_are_as_documented() {
    let (full, bare) = (full(), bare());
    assert_documented("status", &status(&full, true), &status(&bare, true));
    assert_documented("peers", &peers(&full.peers, true), &peers(&bare.peers, true));
}

#[test]
fn explain_is_as_documented() {
    let bare = ExplainReport {
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        verdict: "hold".into(),
        reason: None,
        peer: None,
        standing: "unknown".into(),
        fact: None,
        seen_internal: false,
        protected: true,
        own_source: true,
        around: None,
        because: vec!["standing: unknown".into()],
    };
    let fact = FactReport {
        prefix: "10.0.0.2/32".into(),
        class: "internal".into(),
        source: "dns".into(),
        name: Some("web".into()),
        owner: Some("00".into()),
        expires_s: Some(3),
    };
    let nameless = FactReport { name: None, owner: None, expires_s: None, ..fact.clone() };
    let text = || Some("text".to_owned());
    let full =
        ExplainReport { reason: text(), peer: text(), fact: Some(fact), around: Some(true), ..bare.clone() };
    assert_documented("explain", &explanation(&full, true), &explanation(&bare, true));
    let without_name = ExplainReport { fact: Some(nameless), ..bare };
    assert_documented("explain", &explanation(&full, true), &explanation(&without_name, true));
}

#[test]
fn list_and_check_are_as_documented() {
    let summary = Summary::new(full());
    assert!(
        summary.problems.iter().any(|problem| problem.starts_with("NOT protected: fd00::7")),
        "{summary:?}"
    );
    let tunnel = |state, status: Option<Summary>| Tunnel {
        netns: "shop-1".into(),
        state,
        status: status.map(Box::new),
    };
    let full = Listed { tunnels: vec![tunnel(State::Running, Some(summary.clone()))], unseen: 0 };
    let tunnels =
        vec![tunnel(State::Running, Some(Summary { project: None, ..summary })), tunnel(State::Closed, None)];
    let bare = Listed { tunnels, unseen: 2 };
    assert_documented("list", &list(&full, true), &list(&bare, true));
    let text = list(&bare, false);
    let closed = "shop-1  CLOSED   -        -           -      -        -    `tencrypt up` takes over";
    assert!(text.contains(closed), "{text}");
    assert!(text.ends_with("2 namespaces could not be looked into: ask as root\n"), "{text}");
    assert_eq!(list(&Listed::default(), false), "no tunnels\n");

    let finding = Finding { subject: "suite".into(), verdict: Verdict::Note, text: "text".into() };
    let checked = Checked { would_start: true, findings: vec![finding] };
    let document = findings(&checked, true);
    assert_documented("check", &document, &document);
    assert_eq!(findings(&checked, false), "note  suite  text\n");
}

#[test]
fn inspect_is_as_documented() {
    let all = [
        Inspected::Keys(KeyFileReport {
            tenant: "00".into(),
            send: 1,
            fingerprints: [(1, "3f9c12ab".to_owned())].into(),
        }),
        Inspected::Certificate { certificate: certificate_report(), verified: true },
        Inspected::Authority { public_key: "00".into() },
        Inspected::AuthorityKey { public_key: "00".into() },
        Inspected::Revocation { minimum_generation: 1, denied: 2 },
    ];
    let each = all.iter().map(|content| fields(&inspected(content, true)));
    let found: Fields = each.flatten().collect();
    assert_eq!(found, documented("inspect"));
}

#[test]
fn every_document_has_the_same_version() {
    for document in [status(&full(), true), peers(&[], true), list(&Listed::default(), true)] {
        assert!(document.starts_with("{\"version\":1,"), "{document}");
    }
}
