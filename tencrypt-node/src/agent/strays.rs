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
    /// The names of those that were found unprotected.
    pub(super) found: BTreeSet<String>,
    /// The ids of those that were deleted, by their controllers'.
    deleted: BTreeMap<String, BTreeSet<String>>,
}

/// Most pods of one controller that are deleted: where the next ones are unprotected too, deleting more mends nothing.
const MOST_OF_ONE: usize = 3;

/// Most controllers of which pods are deleted, while the agent runs.
const MOST: usize = 1_000;

impl Strays {
    /// Notes that a pod is deleted. Returns false if it is not to be, since so many others of its controller's were.
    pub(super) fn note_deletion(&mut self, controller: &str, uid: &str) -> bool {
        let count = self.deleted.len();
        match self.deleted.get_mut(controller) {
            Some(uids) if uids.contains(uid) => true,
            Some(uids) if uids.len() < MOST_OF_ONE => uids.insert(uid.to_owned()),
            None if count < MOST => {
                self.deleted.insert(controller.to_owned(), BTreeSet::from([uid.to_owned()]));
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_controller_a_few_pods_are_deleted_and_no_more() {
        let mut strays = Strays::default();
        assert!(["1", "2", "3", "2"].iter().all(|uid| strays.note_deletion("set", uid)));
        assert!(!strays.note_deletion("set", "4"));
        assert!(strays.note_deletion("other", "4"));
    }
}
