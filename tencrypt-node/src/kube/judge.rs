//! The state of a pod, by what the API and the agent of its node say of it.

use super::{agents::Said, report::State};
use crate::{
    kubernetes::objects::Pod,
    report::{PodReport, PodState, StrayReport},
};

/// The standing of the pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The tenant that its label names.
    pub(super) tenant: String,
    /// The reason why it is not that tenant's.
    pub(super) refusal: Option<String>,
}

/// Judges a pod; none: it has ended.
pub(super) fn judge(
    pod: &Pod,
    standing: &Standing,
    answer: Result<&Said, &str>,
) -> Option<(State, Option<String>)> {
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    if pod.spec.host_network {
        return Some((State::Outside, Some("it has the node's own network".to_owned())));
    }
    if pod.spec.node_name.is_empty() {
        return Some((State::Unscheduled, None));
    }
    let said = match answer {
        Ok(said) => said,
        Err(reason) => return Some((State::Unknown, Some(reason.to_owned()))),
    };
    let name = pod.metadata.full_name();
    let Some(report) = said.pods.iter().find(|report| report.name == name) else {
        return Some(without(pod, standing, said));
    };
    Some(match report.state {
        PodState::Protected => protected(pod, report),
        PodState::Starting => (State::Starting, report.problem.clone()),
        PodState::Waiting => (State::Waiting, report.problem.clone()),
        PodState::Ending => (State::Ending, report.problem.clone()),
    })
}

/// A pod without a data path. One that does not run has no process that could send. The agent says of those of its node which are not
/// to be protected, and which it cannot protect.
fn without(pod: &Pod, standing: &Standing, said: &Said) -> (State, Option<String>) {
    let name = pod.metadata.full_name();
    let told = |strays: &[StrayReport]| {
        strays.iter().find(|stray| stray.name == name).map(|stray| stray.reason.clone())
    };
    if let Some(reason) = told(&said.node.outside) {
        return (State::Outside, Some(reason));
    }
    if let Some(reason) = told(&said.node.unprotected) {
        return (State::Open, Some(reason));
    }
    let state = match pod.status.phase.as_str() {
        // Its network may be gone already, or its data path.
        "Running" if pod.metadata.deletion_timestamp.is_some() => State::Ending,
        "Running" => State::Open,
        _ => State::Waiting,
    };
    let tenant = said.node.tenants.iter().find(|tenant| tenant.name == standing.tenant);
    let fault = tenant.and_then(|tenant| tenant.problem.clone());
    let unknown = match state {
        State::Open => "the agent of its node does not know it",
        State::Ending => "it is being deleted, and the agent of its node does not know it",
        _ => "it was not started yet",
    };
    (state, standing.refusal.clone().or(fault).or_else(|| Some(unknown.to_owned())))
}

/// A pod with a data path. What it says of its addresses is compared with what the API says: a pod of before may have had the name.
fn protected(pod: &Pod, report: &PodReport) -> (State, Option<String>) {
    let Some(status) = &report.status else {
        return (State::Unknown, Some("its data path has not said yet how it is".to_owned()));
    };
    if let Some(address) = status.network.unprotected.first() {
        return (State::Open, Some(format!("no protected range holds {address}")));
    }
    let unknown = pod.status.addresses().find(|address| !report.addresses.contains(address));
    if let Some(address) = unknown {
        return (State::Open, Some(format!("its data path does not know its address {address}")));
    }
    let closed = status.namespace.closed.then(|| "CLOSED: protected destinations are unreachable".to_owned());
    let problems: Vec<String> =
        closed.into_iter().chain(report.problem.clone()).chain(status.problems()).collect();
    (State::Protected, (!problems.is_empty()).then(|| problems.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    fn pod(more: serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {"nodeName": "node1"},
            "status": {"phase": "Running", "podIP": "10.244.1.7", "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00::7"}]}
        });
        for (part, fields) in more.as_object().unwrap() {
            pod[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        serde_json::from_value(pod).unwrap()
    }

    fn standing(refusal: Option<&str>) -> Standing {
        Standing { tenant: "shop".into(), refusal: refusal.map(ToOwned::to_owned) }
    }

    fn said(change: impl FnOnce(&mut Said)) -> Said {
        let mut said = Said { node: samples::node(), pods: vec![samples::pod("shop/web-0", "shop")] };
        change(&mut said);
        said
    }

    fn state(pod: &Pod, said: &Said) -> (State, String) {
        let (state, reason) = judge(pod, &standing(None), Ok(said)).unwrap();
        (state, reason.unwrap_or_default())
    }

    #[test]
    fn a_pod_with_a_data_path_for_all_of_its_addresses_is_protected() {
        assert_eq!(state(&pod(json!({})), &said(|_| {})), (State::Protected, String::new()));
        let closed = said(|said| said.pods[0].status.as_mut().unwrap().namespace.closed = true);
        assert_eq!(state(&pod(json!({})), &closed).0, State::Protected);
        assert!(state(&pod(json!({})), &closed).1.starts_with("CLOSED: "));
        // It has no address yet.
        let new = pod(json!({"status": {"phase": "Pending", "podIP": "", "podIPs": null}}));
        assert_eq!(state(&new, &said(|_| {})).0, State::Protected);
    }

    #[test]
    fn an_address_that_is_not_its_data_paths_makes_it_open() {
        let elsewhere = pod(json!({"status": {"podIPs": [{"ip": "10.244.1.9"}]}}));
        assert_eq!(
            state(&elsewhere, &said(|_| {})),
            (State::Open, "its data path does not know its address 10.244.1.9".into())
        );
        let first = pod(json!({"status": {"podIP": "10.244.1.8", "podIPs": null}}));
        assert_eq!(state(&first, &said(|_| {})).0, State::Open);
        let bare = said(|said| {
            said.pods[0].status.as_mut().unwrap().network.unprotected = vec!["fd00::7".parse().unwrap()];
        });
        assert_eq!(state(&pod(json!({})), &bare), (State::Open, "no protected range holds fd00::7".into()));
        let silent = said(|said| said.pods[0].status = None);
        assert_eq!(state(&pod(json!({})), &silent).0, State::Unknown);
    }

    #[test]
    fn the_agents_word_counts_for_what_is_not_protected() {
        for (agents, expected) in [
            (PodState::Starting, State::Starting),
            (PodState::Waiting, State::Waiting),
            (PodState::Ending, State::Ending),
        ] {
            let said = said(|said| {
                (said.pods[0].state, said.pods[0].problem) = (agents, Some("no key".into()));
            });
            assert_eq!(state(&pod(json!({})), &said), (expected, "no key".into()));
        }
    }

    #[test]
    fn a_pod_that_the_agent_does_not_know_is_open_once_it_runs() {
        let nobody = said(|said| said.pods[0].name = "shop/web-1".into());
        assert_eq!(
            state(&pod(json!({})), &nobody),
            (State::Open, "the agent of its node does not know it".into())
        );
        let ending = pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert_eq!(state(&ending, &nobody).0, State::Ending);
        let new = pod(json!({"status": {"phase": "Pending"}}));
        assert_eq!(state(&new, &nobody), (State::Waiting, "it was not started yet".into()));
        let faulty = said(|said| {
            said.pods.clear();
            said.node.tenants[0].problem = Some("tenant shop has no keys".into());
        });
        assert_eq!(state(&new, &faulty), (State::Waiting, "tenant shop has no keys".into()));
        let refused = judge(&pod(json!({})), &standing(Some("not admitted")), Ok(&nobody));
        assert_eq!(refused, Some((State::Open, Some("not admitted".into()))));
    }

    #[test]
    fn the_agent_says_which_pods_stay_out_and_which_it_cannot_protect() {
        let stray = || vec![StrayReport::of("shop/web-0", "its annotation")];
        let outside = said(|said| {
            said.pods.clear();
            said.node.outside = stray();
        });
        assert_eq!(state(&pod(json!({})), &outside), (State::Outside, "its annotation".into()));
        let unprotected = said(|said| {
            said.pods.clear();
            said.node.unprotected = stray();
        });
        assert_eq!(state(&pod(json!({})), &unprotected), (State::Open, "its annotation".into()));
        let of_another = said(|said| {
            said.pods.clear();
            said.node.outside = vec![StrayReport::of("shop/web-01", "its annotation")];
        });
        assert_eq!(state(&pod(json!({})), &of_another).0, State::Open);
    }

    #[test]
    fn what_cannot_be_protected_and_what_nobody_knows_have_states_of_their_own() {
        let nothing = |more| judge(&pod(more), &standing(None), Err("no agent")).map(|(state, _)| state);
        assert_eq!(nothing(json!({})), Some(State::Unknown));
        assert_eq!(nothing(json!({"spec": {"hostNetwork": true}})), Some(State::Outside));
        assert_eq!(nothing(json!({"spec": {"nodeName": ""}})), Some(State::Unscheduled));
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(nothing(json!({"status": {"phase": phase}})), None);
        }
    }
}
