//! The pods of enrolled namespaces that run outside of the tunnel, as they were found last.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::report::StrayReport;

/// The pods that are outside of the tunnel, as they were found last.
#[derive(Debug, Default)]
pub(super) struct Strays {
    /// Those that are to be protected and are not.
    pub(super) unprotected: Vec<StrayReport>,
    /// Those that are not to be.
    pub(super) outside: Vec<StrayReport>,
    /// The time since which one is unprotected, by its id.
    pub(super) since: BTreeMap<String, Instant>,
    /// The names of those that were found unprotected, and are protected since.
    pub(super) found: BTreeSet<String>,
}
