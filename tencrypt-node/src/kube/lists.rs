//! Lists of the API, page by page, and the objects in them that the agents themselves do not read.

use std::fmt::Write as _;

use serde::{Deserialize, de::DeserializeOwned};

use super::kubectl::{Kubectl, KubectlError};
use crate::kubernetes::{PAGE, escaped, objects::Meta};

/// Most pages of a list: a million objects.
const PAGES: usize = 2_000;

/// Times that a list is begun. A page cannot be had any more when the API server has forgotten the version of the first
/// (410, <https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks>).
const BEGINNINGS: usize = 3;

/// A pod of an agent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentPod {
    /// Its metadata.
    pub(super) metadata: Meta,
    spec: AgentSpec,
    status: AgentStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AgentSpec {
    node_name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AgentStatus {
    phase: String,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl AgentPod {
    /// The node that it is on; empty until there is one.
    pub(super) fn node(&self) -> &str {
        &self.spec.node_name
    }

    /// Tells if it runs and does not end.
    pub(super) fn is_running(&self) -> bool {
        self.status.phase == "Running" && self.metadata.deletion_timestamp.is_none()
    }

    /// Tells if the kubelet has found it ready.
    pub(super) fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter().flatten();
        conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

/// An object of which the metadata are read alone.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bare {
    /// They.
    pub(super) metadata: Meta,
}

#[derive(Deserialize)]
struct Page<T> {
    kind: String,
    #[serde(default)]
    metadata: PageMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Gets all objects of the collection at `path`, those with the label `selector` if there is one.
///
/// # Errors
/// See [`KubectlError`].
pub(super) fn list<T: DeserializeOwned>(
    kubectl: &Kubectl,
    path: &str,
    selector: Option<&str>,
) -> Result<Vec<T>, KubectlError> {
    let mut first = format!("{path}?limit={PAGE}");
    if let Some(selector) = selector {
        let _ = write!(first, "&labelSelector={}", escaped(selector));
    }
    let mut begun = 0;
    'begin: loop {
        begun += 1;
        let (mut all, mut path) = (Vec::new(), first.clone());
        for page in 0..PAGES {
            let text = match kubectl.get(&path) {
                Err(KubectlError::Failed { .. }) if page > 0 && begun < BEGINNINGS => continue 'begin,
                got => got?,
            };
            let Page { kind, metadata, items } = parse(&path, &text)?;
            if !kind.ends_with("List") {
                return Err(garbled(&path, format!("a {kind}, and no list")));
            }
            all.extend(items.unwrap_or_default());
            match metadata.next.filter(|next| !next.is_empty()) {
                Some(next) => path = format!("{first}&continue={}", escaped(&next)),
                None => return Ok(all),
            }
        }
        return Err(garbled(&first, format!("it has more than {PAGES} pages")));
    }
}

/// Gets the object at `path`.
///
/// # Errors
/// See [`KubectlError`].
pub(super) fn object<T: DeserializeOwned>(kubectl: &Kubectl, path: &str) -> Result<T, KubectlError> {
    parse(path, &kubectl.get(path)?)
}

fn parse<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, KubectlError> {
    serde_json::from_str(text).map_err(|error| garbled(path, error.to_string()))
}

fn garbled(path: &str, reason: String) -> KubectlError {
    KubectlError::Garbled { command: format!("get --raw {path}"), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_a_query_has_no_signs_of_its_own() {
        assert_eq!(escaped("tencrypt.io/tenant"), "tencrypt.io%2Ftenant");
        assert_eq!(escaped("aZ09-._~=&+ ä"), "aZ09-._~%3D%26%2B%20%C3%A4");
    }

    #[test]
    fn an_agent_is_ready_by_its_condition_and_runs_until_it_is_deleted() {
        let read = |text: &str| serde_json::from_str::<AgentPod>(text).unwrap();
        let ready = read(
            r#"{"metadata":{"name":"a"},"spec":{"nodeName":"n"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#,
        );
        assert!(ready.is_ready() && ready.is_running() && ready.node() == "n");
        let ending = read(
            r#"{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"},"status":{"phase":"Running","conditions":[{"type":"Ready","status":"False"}]}}"#,
        );
        assert!(!ending.is_ready() && !ending.is_running());
        assert!(!read(r#"{"status":{"conditions":null}}"#).is_ready());
    }
}
