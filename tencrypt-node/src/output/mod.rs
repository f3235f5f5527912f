//! The output of the commands that show something: tables for people, one JSON document for programs.
//!
//! docs/json.md has every field of the documents; a test holds it.

mod cluster;
pub(crate) mod document;
mod pods;
mod status;
mod table;

use crate::{
    kube::{ClusterReport, VerifyReport},
    report::{NodeReport, PodReport},
};

/// `tencrypt-node status`.
#[must_use]
pub(crate) fn status(report: &NodeReport, as_json: bool) -> String {
    if as_json { document::status(report) } else { status::text(report) }
}

/// `tencrypt-node pods`.
#[must_use]
pub(crate) fn pods(pods: &[PodReport], as_json: bool) -> String {
    if as_json { document::pods(pods) } else { pods::text(pods) }
}

/// `tencrypt-node kube status`.
#[must_use]
pub(crate) fn cluster(report: &ClusterReport, as_json: bool) -> String {
    if as_json { document::cluster(report) } else { cluster::status(report) }
}

/// `tencrypt-node kube verify`.
#[must_use]
pub(crate) fn verification(report: &VerifyReport, as_json: bool) -> String {
    if as_json { document::verification(report) } else { cluster::verify(report) }
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod tests;
