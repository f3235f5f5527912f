//! The part of `status` that no lane counts: the supervisor writes it, lanes copy it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::report::{
    ChainsReport, HardeningReport, IdentityReport, NamesReport, NamespaceReport, NetworkReport,
    RenewalReport, SuiteReport,
};

/// A value that the supervisor keeps up to date and lanes read.
pub(crate) type Shared<T> = Arc<Mutex<T>>;

/// Copies a shared value. A writer that panicked has left it whole: values are assigned in one step.
pub(crate) fn read<T: Clone>(shared: &Shared<T>) -> T {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Facts about the pod in `status`.
#[derive(Debug, Clone)]
pub(crate) struct PodStatus {
    /// The time of the start.
    pub since: Instant,
    /// The interface, and what is protected at it.
    pub network: Shared<NetworkReport>,
    /// The project, where it is known.
    pub project: Option<String>,
    /// The suite, the device's MTU, and why they do not fit each other.
    pub suite: Shared<SuiteReport>,
    /// Packets that the chains have dropped.
    pub chains: Shared<ChainsReport>,
    /// Names that were asked for, if DNS is captured.
    pub names: Shared<Option<NamesReport>>,
    /// The pod's identity.
    pub identity: Shared<IdentityReport>,
    /// The reason why the key file is not what is in force.
    pub key_fault: Shared<Option<String>>,
    /// The times when keys were made anew.
    pub renewal: Shared<RenewalReport>,
    /// `drop` or `plain`.
    pub unknown: &'static str,
    /// True if the configuration asks for the chains.
    pub enforce: bool,
    /// State of what is installed.
    pub namespace: Shared<NamespaceReport>,
    /// Rights that the program has given up.
    pub hardening: HardeningReport,
}
