//! Attachments that a runtime has taken back, while its notes still have them.
//!
//! Plugins are asked to delete in the reverse of their order, and libcni removes its note when all of them have (`DelNetworkList`,
//! containernetworking/cni libcni/api.go). So the note outlives the pod's data path by as long as the other plugins take.

use std::collections::BTreeSet;

use tencrypt_cni::call::Attachment;

/// Most attachments that are kept: ten thousand notes of a folder are read at most.
const MOST: usize = 10_000;

/// The attachments.
#[derive(Debug, Default)]
pub(super) struct Detached(BTreeSet<Attachment>);

impl Detached {
    /// Takes note of one that was taken back. Where too many are kept, another one is forgotten.
    pub(super) fn insert(&mut self, attachment: Attachment) {
        self.0.insert(attachment);
        if self.0.len() > MOST {
            self.0.pop_first();
        }
    }

    /// Forgets one that is made again.
    pub(super) fn remove(&mut self, attachment: &Attachment) {
        self.0.remove(attachment);
    }

    /// Tells if it was taken back.
    pub(super) fn contains(&self, attachment: &Attachment) -> bool {
        self.0.contains(attachment)
    }

    /// Forgets those that the runtime has no note of any more.
    pub(super) fn keep_noted<'n>(&mut self, noted: impl Iterator<Item = &'n Attachment>) {
        self.0 = noted.filter(|attachment| self.0.contains(*attachment)).cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container: usize) -> Attachment {
        Attachment { network: "pods".into(), container: container.to_string(), interface: "eth0".into() }
    }

    #[test]
    fn what_was_taken_back_is_known_as_long_as_a_note_has_it() {
        let mut detached = Detached::default();
        detached.insert(attachment(1));
        detached.insert(attachment(2));
        detached.keep_noted([attachment(2), attachment(3)].iter());
        assert_eq!(
            [1, 2, 3].map(|container| detached.contains(&attachment(container))),
            [false, true, false]
        );
        detached.keep_noted([].iter());
        assert!(!detached.contains(&attachment(2)));
    }

    #[test]
    fn what_is_made_again_is_not_taken_back() {
        let mut detached = Detached::default();
        detached.insert(attachment(1));
        detached.remove(&attachment(1));
        assert!(!detached.contains(&attachment(1)));
    }

    #[test]
    fn no_more_are_kept_than_there_may_be_notes() {
        let mut detached = Detached::default();
        (0..=MOST).for_each(|container| detached.insert(attachment(container)));
        assert_eq!(detached.0.len(), MOST);
    }
}
