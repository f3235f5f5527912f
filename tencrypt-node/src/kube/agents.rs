//! The agents of a cluster, and what they say of themselves and their pods.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    thread,
};

use super::{
    kubectl::{Kubectl, KubectlError},
    lists::{AgentPod, list},
};
use crate::{
    output::document::{read_pods, read_status},
    report::{NodeReport, PodReport},
};

/// The label of the agents' pods (deploy/base/daemonset.yaml).
const SELECTOR: &str = "app.kubernetes.io/name=tencrypt-node";

/// Agents that are asked at a time: each takes a process here and a stream through the API server.
const AT_A_TIME: usize = 8;

/// The answers of an agent.
#[derive(Debug)]
pub(super) struct Said {
    /// The agent of itself.
    pub(super) node: NodeReport,
    /// Its pods.
    pub(super) pods: Vec<PodReport>,
}

/// Answers by node; in place of one the reason why there is none.
pub(super) type Answers = BTreeMap<String, Result<Said, String>>;

/// Finds the agents in a namespace, by their nodes. Where one ends and another is there already, it is that one.
///
/// # Errors
/// See [`KubectlError`].
pub(super) fn agents(kubectl: &Kubectl, namespace: &str) -> Result<BTreeMap<String, AgentPod>, KubectlError> {
    let mut all: Vec<AgentPod> =
        list(kubectl, &format!("/api/v1/namespaces/{namespace}/pods"), Some(SELECTOR))?;
    all.sort_by_key(AgentPod::is_running);
    let placed = all.into_iter().filter(|agent| !agent.node().is_empty());
    Ok(placed.map(|agent| (agent.node().to_owned(), agent)).collect())
}

/// Asks these agents, some at a time.
pub(super) fn ask<'a>(kubectl: &Kubectl, agents: impl IntoIterator<Item = &'a AgentPod>) -> Answers {
    let waiting = Mutex::new(agents.into_iter().collect::<Vec<_>>());
    let answers = Mutex::new(Answers::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(agent) = next else { return };
                    let answer = ask_one(kubectl, agent);
                    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.insert(agent.node().to_owned(), answer);
                }
            });
        }
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn ask_one(kubectl: &Kubectl, agent: &AgentPod) -> Result<Said, String> {
    let name = &agent.metadata.name;
    if !agent.is_running() {
        return Err(format!("its agent {name} does not run"));
    }
    let said = |command: &str| {
        let words = [command.to_owned(), "--json".to_owned()];
        kubectl.exec(name, &words).map_err(|error| format!("its agent does not answer: {error}"))
    };
    let garbled = |error| format!("its agent {name}: {error}");
    let node = read_status(&said("status")?).map_err(garbled)?;
    let pods = read_pods(&said("pods")?).map_err(garbled)?;
    Ok(Said { node, pods })
}
