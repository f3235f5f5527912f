//! Reports of a cluster for tests.

use crate::{
    kube::{
        Check, ClusterReport, End, Family, NodeEntry, PodEntry, State, TenantEntry, Verdict, VerifyReport,
    },
    kubernetes::names::KeysEntry,
    probe::{Counted, Protocol},
};

/// A cluster with two nodes, one of which has no agent, and a pod of each of three states.
pub(crate) fn cluster() -> ClusterReport {
    let pod = |name: &str, node: &str, state, reason: Option<&str>| PodEntry {
        namespace: "shop".into(),
        name: name.into(),
        tenant: "shop".into(),
        node: Some(node.into()),
        state,
        reason: reason.map(ToOwned::to_owned),
    };
    ClusterReport {
        protected: false,
        problems: vec!["keys are not known: no".into()],
        tenants: vec![
            TenantEntry {
                name: "bank".into(),
                problem: Some("tencrypt-tenants: bank.toml: line 1".into()),
                ..TenantEntry::default()
            },
            TenantEntry {
                name: "shop".into(),
                namespaces: vec!["shop".into()],
                refused: vec!["intruder".into()],
                unlabelled: vec!["later".into()],
                problem: None,
            },
        ],
        nodes: vec![
            NodeEntry {
                name: "node1".into(),
                agent: Some("tencrypt-node-a".into()),
                ready: true,
                version: Some("0.1.0".into()),
                keys: [("shop".to_owned(), KeysEntry { pods: 3, send: [1].into(), accept: [1, 2].into() })]
                    .into(),
                problem: None,
            },
            NodeEntry {
                name: "node2".into(),
                problem: Some("no agent is on its node".into()),
                ..NodeEntry::default()
            },
        ],
        pods: vec![
            pod("db-0", "node1", State::Open, Some("the agent of its node does not know it")),
            pod("net-0", "node2", State::Outside, Some("it has the node's own network")),
            pod("web-0", "node1", State::Protected, None),
        ],
    }
}

/// A proof with one check, which is good.
pub(crate) fn proof() -> VerifyReport {
    let end = |pod: &str, node: &str, addresses: &[&str]| End {
        pod: pod.into(),
        node: node.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    };
    let counted = |records_out, records_in| Counted { records_out, records_in, ..Counted::default() };
    VerifyReport {
        encrypted: true,
        namespace: "shop".into(),
        from: end("web-0", "node1", &["10.244.1.7", "fd00::7"]),
        to: end("web-1", "node2", &["10.244.2.8"]),
        checks: vec![Check {
            family: Family::Ipv4,
            protocol: Protocol::Tcp,
            verdict: Verdict::Encrypted,
            answer: Some("refused".into()),
            source: Some(counted(3, 2)),
            destination: Some(counted(2, 3)),
            problem: None,
        }],
    }
}
