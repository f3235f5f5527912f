//! Documents for programs, as the agent serves them and `--json` prints them, and their reading.

use serde::{Deserialize, Serialize};

use crate::{
    kube::{ClusterReport, VerifyReport},
    report::{NodeReport, PodReport},
};

/// Version of the documents. It is raised when a field goes or means something else; a new field leaves it.
const VERSION: u32 = 1;

/// A document, its version beside what it holds: a report has a `version` of its own.
#[derive(Serialize)]
struct Document<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

#[derive(Serialize, Deserialize)]
struct Status<T> {
    node: T,
}

#[derive(Serialize, Deserialize)]
struct Pods<T> {
    pods: T,
}

/// The reason why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    /// It is of another version.
    #[error("the agent's document has version {0}, this program reads {VERSION}")]
    Version(u32),
    /// It is no such document.
    #[error("the agent's document makes no sense: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Makes the document of `tencrypt-node status`.
pub(super) fn status(report: &NodeReport) -> String {
    document(Status { node: report })
}

/// Makes the document of `tencrypt-node pods`.
pub(super) fn pods(pods: &[PodReport]) -> String {
    document(Pods { pods })
}

/// Makes the document of `tencrypt-node kube status`.
pub(super) fn cluster(report: &ClusterReport) -> String {
    #[derive(Serialize)]
    struct Cluster<T> {
        cluster: T,
    }
    document(Cluster { cluster: report })
}

/// Makes the document of `tencrypt-node kube verify`.
pub(super) fn verification(report: &VerifyReport) -> String {
    #[derive(Serialize)]
    struct Verification<T> {
        verification: T,
    }
    document(Verification { verification: report })
}

/// Reads the document of `tencrypt-node status`. Fields that are not known are passed over.
///
/// # Errors
/// See [`DocumentError`].
pub(crate) fn read_status(text: &str) -> Result<NodeReport, DocumentError> {
    check_version(text)?;
    Ok(serde_json::from_str::<Status<_>>(text)?.node)
}

/// Reads the document of `tencrypt-node pods`. Fields that are not known are passed over.
///
/// # Errors
/// See [`DocumentError`].
pub(crate) fn read_pods(text: &str) -> Result<Vec<PodReport>, DocumentError> {
    check_version(text)?;
    Ok(serde_json::from_str::<Pods<_>>(text)?.pods)
}

/// Looks at the version before anything else, which may mean something else in another one.
fn check_version(text: &str) -> Result<(), DocumentError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_str::<Version>(text)?.version {
        VERSION => Ok(()),
        other => Err(DocumentError::Version(other)),
    }
}

fn document(value: impl Serialize) -> String {
    // The reports hold nothing that JSON cannot: no map has keys but text.
    let mut text =
        serde_json::to_string(&Document { version: VERSION, value }).unwrap_or_else(|_| "null".to_owned());
    text.push('\n');
    text
}
