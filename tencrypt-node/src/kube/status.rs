//! `kube status`: the cluster, by what its API and its agents say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    agents::{Answers, Said, agents, ask},
    command::Reach,
    judge::{Standing, judge},
    kubectl::{Kubectl, KubectlError},
    lists::{AgentPod, Bare, list, object},
    report::{ClusterReport, NodeEntry, PodEntry, TenantEntry},
};
use crate::{
    kubernetes::{
        names::{KEYS, KeysByTenant, LABEL},
        objects::{ConfigMap, Namespace, Node, Pod},
    },
    tenant::{Enrolled, TenantError},
};

/// The ConfigMap with the tenants' files, beside the agents.
const TENANTS: &str = "tencrypt-tenants";

/// The namespaces that each tenant admits; in their place the reason why that is not known.
type Admitted = BTreeMap<String, Result<BTreeSet<String>, String>>;

/// Looks at the cluster.
///
/// # Errors
/// See [`KubectlError`]: a list cannot be had, without which nothing can be said.
pub(crate) fn status(reach: &Reach) -> Result<ClusterReport, KubectlError> {
    let kubectl = Kubectl::new(reach);
    let labelled: Vec<Namespace> = list(&kubectl, "/api/v1/namespaces", Some(LABEL))?;
    let nodes: Vec<Node> = list(&kubectl, "/api/v1/nodes", None)?;
    let agents = agents(&kubectl, &reach.agents)?;
    let mut pods: Vec<Pod> = Vec::new();
    for namespace in &labelled {
        pods.extend(list::<Pod>(&kubectl, &pods_of(&namespace.metadata.name), None)?);
    }
    let mut problems = Vec::new();
    let mut told = |what: &str, error: &dyn std::fmt::Display| problems.push(format!("{what}: {error}"));
    let leases =
        list::<Bare>(&kubectl, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", None);
    let leases = leases.unwrap_or_else(|error| {
        told("keys are not known", &error);
        Vec::new()
    });
    let path = format!("/api/v1/namespaces/{}/configmaps/{TENANTS}", reach.agents);
    let map = object::<ConfigMap>(&kubectl, &path).map_err(|error| error.to_string());
    let admitted = map.and_then(|map| admitted(&map.data).map_err(|error| error.to_string()));
    let admitted = admitted.map_err(|error| told("tenants are not known", &error)).ok();
    if agents.is_empty() {
        problems.push(format!("no agent is in namespace `{}`", reach.agents));
    }
    let answers = ask(&kubectl, agents.values());
    let pods = judged(&labelled, &pods, admitted.as_ref(), &answers);
    Ok(ClusterReport {
        protected: !agents.is_empty() && pods.iter().all(|pod| pod.state.is_fine()),
        problems,
        tenants: tenants(&labelled, admitted.as_ref()),
        nodes: nodes.iter().map(|node| entry(node, &agents, &answers, &leases)).collect(),
        pods,
    })
}

/// The path of the pods of a namespace.
pub(super) fn pods_of(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// The answer of the agent of a node, or the reason why there is none.
pub(super) fn answer_of<'a>(answers: &'a Answers, node: &str) -> Result<&'a Said, &'a str> {
    match answers.get(node) {
        Some(answer) => answer.as_ref().map_err(String::as_str),
        None => Err("no agent is on its node"),
    }
}

/// Reads the tenants' files as the agents do.
///
/// # Errors
/// There are too many.
fn admitted(files: &BTreeMap<String, String>) -> Result<Admitted, TenantError> {
    let read = Enrolled::read_map(TENANTS, files)?;
    let tenants = read
        .into_iter()
        .map(|(name, file)| (name, file.map(|tenant| tenant.admits).map_err(|error| error.to_string())));
    Ok(tenants.collect())
}

/// The standing of a namespace with the label. Where nobody knows what tenants admit, its pods say how it is.
fn standing(namespace: &Namespace, admitted: Option<&Admitted>) -> Standing {
    let (name, labels) = (&namespace.metadata.name, &namespace.metadata.labels);
    let tenant = labels.get(LABEL).cloned().unwrap_or_default();
    let refusal = match admitted.map(|admitted| admitted.get(&tenant)) {
        None => None,
        Some(Some(Ok(namespaces))) if namespaces.contains(name) => None,
        Some(Some(Ok(_))) => Some(format!("tenant {tenant} does not admit its namespace")),
        Some(Some(Err(reason))) => Some(reason.clone()),
        Some(None) => Some(format!("there is no tenant {tenant}")),
    };
    Standing { tenant, refusal }
}

fn tenants(labelled: &[Namespace], admitted: Option<&Admitted>) -> Vec<TenantEntry> {
    let mut tenants: BTreeMap<String, TenantEntry> = BTreeMap::new();
    for (name, file) in admitted.into_iter().flatten() {
        let (unlabelled, problem) = match file {
            Ok(namespaces) => (namespaces.iter().cloned().collect(), None),
            Err(reason) => (Vec::new(), Some(reason.clone())),
        };
        tenants.insert(name.clone(), TenantEntry { unlabelled, problem, ..TenantEntry::default() });
    }
    for namespace in labelled {
        let Standing { tenant, refusal } = standing(namespace, admitted);
        let is_known = tenants.contains_key(&tenant);
        let entry = tenants.entry(tenant).or_default();
        if admitted.is_some() && !is_known {
            entry.problem.clone_from(&refusal);
        }
        let name = &namespace.metadata.name;
        entry.unlabelled.retain(|unlabelled| unlabelled != name);
        if refusal.is_none() { &mut entry.namespaces } else { &mut entry.refused }.push(name.clone());
    }
    tenants.into_iter().map(|(name, entry)| TenantEntry { name, ..entry }).collect()
}

fn entry(node: &Node, agents: &BTreeMap<String, AgentPod>, answers: &Answers, leases: &[Bare]) -> NodeEntry {
    let name = node.metadata.name.clone();
    let lease = leases.iter().find(|lease| lease.metadata.name == name);
    let keys = lease.and_then(|lease| lease.metadata.annotations.get(KEYS));
    let keys = keys.map(|text| serde_json::from_str::<KeysByTenant>(text));
    let unread =
        matches!(keys, Some(Err(_))).then(|| format!("the annotation {KEYS} of its Lease makes no sense"));
    let agent = agents.get(&name);
    let answer = answer_of(answers, &name);
    let of_agent = match answer {
        Ok(said) => {
            let faults =
                said.node.tenants.iter().filter_map(|tenant| {
                    Some(format!("tenant {}: {}", tenant.name, tenant.problem.as_ref()?))
                });
            said.node.problems.iter().cloned().chain(faults).collect()
        }
        Err(reason) => vec![reason.to_owned()],
    };
    let problems: Vec<String> = of_agent.into_iter().chain(unread).collect();
    NodeEntry {
        agent: agent.map(|agent| agent.metadata.name.clone()),
        ready: agent.is_some_and(AgentPod::is_ready) && answer.is_ok_and(|said| said.node.ready),
        version: answer.ok().map(|said| said.node.version.clone()),
        keys: keys.and_then(Result::ok).unwrap_or_default(),
        problem: (!problems.is_empty()).then(|| problems.join("; ")),
        name,
    }
}

fn judged(
    labelled: &[Namespace],
    pods: &[Pod],
    admitted: Option<&Admitted>,
    answers: &Answers,
) -> Vec<PodEntry> {
    let standings: BTreeMap<&str, Standing> =
        labelled.iter().map(|namespace| (&*namespace.metadata.name, standing(namespace, admitted))).collect();
    let entry = |pod: &Pod| {
        let standing = standings.get(&*pod.metadata.namespace)?;
        let (state, reason) = judge(pod, standing, answer_of(answers, &pod.spec.node_name))?;
        Some(PodEntry {
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            tenant: standing.tenant.clone(),
            node: Some(pod.spec.node_name.clone()).filter(|node| !node.is_empty()),
            state,
            reason,
        })
    };
    pods.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, tenant: &str) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {(LABEL): tenant}}})).unwrap()
    }

    #[test]
    fn namespaces_are_a_tenants_if_it_admits_them_and_they_have_its_label() {
        let files = [
            ("shop.toml", "namespaces = [\"shop\", \"later\"]\n[limits]\nmemory_mib = 64\n"),
            ("bank.toml", "namespaces = [\n"),
            ("README", "no tenant"),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let admitted = admitted(&files.into()).unwrap();
        let labelled = [namespace("shop", "shop"), namespace("intruder", "shop"), namespace("x", "nobody")];
        let entries = tenants(&labelled, Some(&admitted));
        let names: Vec<&str> = entries.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names, ["bank", "nobody", "shop"]);
        assert!(entries[0].problem.as_ref().unwrap().starts_with("tencrypt-tenants: bank.toml: line 1: "));
        assert_eq!(entries[1].problem.as_deref(), Some("there is no tenant nobody"));
        let shop = &entries[2];
        assert_eq!(
            (&shop.namespaces, &shop.refused, &shop.unlabelled, &shop.problem),
            (&vec!["shop".to_owned()], &vec!["intruder".to_owned()], &vec!["later".to_owned()], &None)
        );
        assert_eq!(
            standing(&labelled[1], Some(&admitted)).refusal.as_deref(),
            Some("tenant shop does not admit its namespace")
        );
        // Without the tenants' files nothing is said against a namespace.
        assert_eq!(standing(&labelled[2], None).refusal, None);
        assert_eq!(tenants(&labelled, None).len(), 2);
    }
}
