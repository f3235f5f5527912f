//! `kube status` and `kube verify` for people.

use std::collections::BTreeMap;

use tencrypt_agent::layout::table;

use super::table::{cut, joined};
use crate::{
    kube::{Check, ClusterReport, End, NodeEntry, PodEntry, State, TenantEntry, Verdict, VerifyReport},
    kubernetes::names::KeysEntry,
    probe::Counted,
};

/// Most characters of a name, of a list of names, and of a reason. `--json` has all of it.
const NAME: usize = 63;
const NAMES: usize = 80;
const REASON: usize = 160;

/// Lays out a summary, and tables of tenants, nodes and pods.
pub(super) fn status(report: &ClusterReport) -> String {
    let mut rows = vec![["protected".to_owned(), summary(report)]];
    rows.extend(
        report
            .problems
            .iter()
            .enumerate()
            .map(|(place, problem)| [if place == 0 { "problems" } else { "" }.to_owned(), problem.clone()]),
    );
    let mut text = table(&rows);
    text.push('\n');
    text.push_str(&tenants(&report.tenants));
    text.push('\n');
    text.push_str(&nodes(&report.nodes));
    text.push('\n');
    text.push_str(&pods(&report.pods));
    text
}

/// The word, and pods by their states.
fn summary(report: &ClusterReport) -> String {
    let mut counts: BTreeMap<State, usize> = BTreeMap::new();
    for pod in &report.pods {
        *counts.entry(pod.state).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(state, count)| format!("{} {count}", word(*state))).collect();
    let counts = if counts.is_empty() { "no pods of tenants".to_owned() } else { counts.join(", ") };
    format!("{}: {counts}", if report.protected { "yes" } else { "NO" })
}

/// Capitals catch the eye where something is to be done.
fn word(state: State) -> String {
    match state {
        State::Open | State::Waiting | State::Unknown => state.as_str().to_uppercase(),
        state => state.as_str().to_owned(),
    }
}

fn tenants(tenants: &[TenantEntry]) -> String {
    if tenants.is_empty() {
        return "no tenants\n".to_owned();
    }
    let mut rows = vec![["TENANT", "NAMESPACES", "REFUSED", "UNLABELLED", "PROBLEM"].map(ToOwned::to_owned)];
    let names = |names: &[String]| cut(&joined(names, ","), NAMES);
    rows.extend(tenants.iter().map(|tenant| {
        [
            cut(&tenant.name, NAME),
            names(&tenant.namespaces),
            names(&tenant.refused),
            names(&tenant.unlabelled),
            reason(tenant.problem.as_deref()),
        ]
    }));
    table(&rows)
}

fn nodes(nodes: &[NodeEntry]) -> String {
    if nodes.is_empty() {
        return "no nodes\n".to_owned();
    }
    let mut rows = vec![["NODE", "AGENT", "READY", "VERSION", "KEYS", "PROBLEM"].map(ToOwned::to_owned)];
    let dash = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), |text| cut(text, NAME));
    rows.extend(nodes.iter().map(|node| {
        [
            cut(&node.name, NAME),
            dash(node.agent.as_deref()),
            if node.ready { "yes" } else { "NO" }.to_owned(),
            dash(node.version.as_deref()),
            cut(&joined(node.keys.iter().map(keys), " "), NAMES),
            reason(node.problem.as_deref()),
        ]
    }));
    table(&rows)
}

/// The epochs that a tenant's pods on a node send, and accept.
fn keys((tenant, keys): (&String, &KeysEntry)) -> String {
    format!("{tenant}:{}/{}", joined(&keys.send, ","), joined(&keys.accept, ","))
}

fn pods(pods: &[PodEntry]) -> String {
    if pods.is_empty() {
        return "no pods of tenants\n".to_owned();
    }
    let mut rows = vec![["POD", "TENANT", "NODE", "STATE", "REASON"].map(ToOwned::to_owned)];
    rows.extend(pods.iter().map(|pod| {
        [
            cut(&format!("{}/{}", pod.namespace, pod.name), NAME),
            cut(&pod.tenant, NAME),
            pod.node.as_deref().map_or_else(|| "-".to_owned(), |node| cut(node, NAME)),
            word(pod.state),
            reason(pod.reason.as_deref()),
        ]
    }));
    table(&rows)
}

fn reason(reason: Option<&str>) -> String {
    reason.map(|reason| cut(reason, REASON)).unwrap_or_default()
}

/// Lays out the two pods, and a row for each check.
pub(super) fn verify(report: &VerifyReport) -> String {
    let end = |end: &End| {
        format!("{}/{} on {} ({})", report.namespace, end.pod, end.node, joined(&end.addresses, ", "))
    };
    let fine = report.checks.iter().filter(|check| check.verdict == Verdict::Encrypted).count();
    let result =
        format!("{}: {fine} of {} checks", if report.encrypted { "yes" } else { "NO" }, report.checks.len());
    let mut text = table(&[
        ["from".to_owned(), end(&report.from)],
        ["to".to_owned(), end(&report.to)],
        ["encrypted".to_owned(), result],
    ]);
    text.push('\n');
    let head = ["FAMILY", "PROTOCOL", "VERDICT", "ANSWER", "RECORDS", "IN PLAIN", "PROBLEM"];
    let mut rows = vec![head.map(ToOwned::to_owned)];
    rows.extend(report.checks.iter().map(check));
    text.push_str(&table(&rows));
    text
}

fn check(check: &Check) -> [String; 7] {
    let seen = || check.source.iter().chain(&check.destination);
    let sum = |number: &dyn Fn(&Counted) -> u64| {
        if seen().next().is_none() { "-".to_owned() } else { seen().map(number).sum::<u64>().to_string() }
    };
    let verdict = check.verdict.as_str();
    [
        check.family.to_string(),
        check.protocol.to_string(),
        if check.verdict == Verdict::Encrypted { verdict.to_owned() } else { verdict.to_uppercase() },
        cut(check.answer.as_deref().unwrap_or("-"), NAME),
        sum(&|counted| counted.records_in + counted.records_out),
        sum(&|counted| counted.plain.max(counted.canary)),
        reason(check.problem.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kube::Family,
        output::{cluster as shown, verification},
        probe::Protocol,
        samples::cluster::{cluster, proof},
    };

    #[test]
    fn status_is_a_summary_and_three_tables() {
        let expected = "\
protected  NO: protected 1, OPEN 1, outside 1
problems   keys are not known: no

TENANT  NAMESPACES  REFUSED   UNLABELLED  PROBLEM
bank    -           -         -           tencrypt-tenants: bank.toml: line 1
shop    shop        intruder  later

NODE   AGENT            READY  VERSION  KEYS        PROBLEM
node1  tencrypt-node-a  yes    0.1.0    shop:1/1,2
node2  -                NO     -        -           no agent is on its node

POD         TENANT  NODE   STATE      REASON
shop/db-0   shop    node1  OPEN       the agent of its node does not know it
shop/net-0  shop    node2  outside    it has the node's own network
shop/web-0  shop    node1  protected
";
        assert_eq!(status(&cluster()), expected);
        let nothing = status(&ClusterReport { protected: true, ..ClusterReport::default() });
        assert_eq!(
            nothing,
            "protected  yes: no pods of tenants\n\nno tenants\n\nno nodes\n\nno pods of tenants\n"
        );
        assert!(shown(&cluster(), true).ends_with("}\n"));
    }

    #[test]
    fn a_proof_is_two_pods_and_a_row_for_each_check() {
        let mut report = proof();
        report.checks.push(Check {
            family: Family::Ipv6,
            protocol: Protocol::Udp,
            verdict: Verdict::Plain,
            answer: None,
            source: Some(Counted { plain: 2, canary: 1, ..Counted::default() }),
            destination: Some(Counted::default()),
            problem: Some("at the sender 2 frames in plain".into()),
        });
        report.checks.push(Check {
            verdict: Verdict::Failed,
            source: None,
            destination: None,
            ..report.checks[1].clone()
        });
        let expected = "\
from       shop/web-0 on node1 (10.244.1.7, fd00::7)
to         shop/web-1 on node2 (10.244.2.8)
encrypted  NO: 1 of 3 checks

FAMILY  PROTOCOL  VERDICT    ANSWER   RECORDS  IN PLAIN  PROBLEM
ipv4    tcp       encrypted  refused  10       0
ipv6    udp       PLAIN      -        0        2         at the sender 2 frames in plain
ipv6    udp       FAILED     -        -        -         at the sender 2 frames in plain
";
        report.encrypted = false;
        assert_eq!(verify(&report), expected);
        assert!(
            verification(&report, true).starts_with("{\"version\":1,\"verification\":{\"encrypted\":false,")
        );
    }
}
