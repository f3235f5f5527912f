//! The cluster, as its administrator sees it from a machine of his own: `tencrypt-node kube`, or `kubectl tencrypt`.

mod agents;
mod command;
mod judge;
mod kubectl;
mod lists;
mod pair;
mod report;
mod status;
mod verdict;
mod verify;

use tencrypt_agent::failure::{Exit, Failure};

use self::kubectl::KubectlError;
#[cfg(test)]
pub(crate) use self::report::Family;
pub(crate) use self::{
    command::{Arguments, Task},
    report::{Check, ClusterReport, End, NodeEntry, PodEntry, State, TenantEntry, Verdict, VerifyReport},
    status::status,
    verify::verify,
};

impl From<KubectlError> for Failure {
    fn from(error: KubectlError) -> Self {
        Self::new(Exit::Runtime, error)
    }
}
