//! Pace of INITs to addresses that have not proven that a member is there.

use std::time::{Duration, Instant};

use super::bucket::TokenBucket;
use crate::tunnel::limits::{CONTACT_BURST, CONTACT_INTERVAL};

/// Kind of a contact with an address, which says what bounds its INITs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// It was not asked before, or answered then.
    First,
    /// It was silent when it was asked last.
    Silent,
    /// The same, and it is known to be of the tenant: it will come up, and shall be found when it does.
    Expected,
    /// There is a session with a peer there.
    Peer,
}

/// A bucket for each kind: a thousand silent addresses delay neither a new pod nor one that comes back. A token comes back
/// with the answer, so what is bounded is what goes to addresses where nobody answers.
#[derive(Debug)]
pub(super) struct Pace {
    first: TokenBucket,
    silent: TokenBucket,
    expected: TokenBucket,
}

impl Default for Pace {
    fn default() -> Self {
        let bucket = TokenBucket::new(CONTACT_INTERVAL, CONTACT_BURST);
        Self { first: bucket, silent: bucket, expected: bucket }
    }
}

impl Pace {
    /// Takes the place of an INIT at the time that is returned, `longest` from now at most. `None`: there are too many.
    pub(super) fn reserve(&mut self, contact: Contact, longest: Duration, now: Instant) -> Option<Instant> {
        self.bucket(contact).map_or(Some(now), |bucket| bucket.reserve(longest, now))
    }

    /// Takes the place of an INIT now. False: there were too many.
    pub(super) fn take(&mut self, contact: Contact, now: Instant) -> bool {
        self.bucket(contact).is_none_or(|bucket| bucket.take(now))
    }

    /// Gives the places of INITs back that were answered.
    pub(super) fn give_back(&mut self, contact: Contact, inits: u32) {
        if let Some(bucket) = self.bucket(contact) {
            bucket.give_back(inits);
        }
    }

    #[cfg(test)]
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.first.is_full(now) && self.silent.is_full(now) && self.expected.is_full(now)
    }

    fn bucket(&mut self, contact: Contact) -> Option<&mut TokenBucket> {
        match contact {
            Contact::First => Some(&mut self.first),
            Contact::Silent => Some(&mut self.silent),
            Contact::Expected => Some(&mut self.expected),
            Contact::Peer => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    #[test]
    fn each_kind_has_two_hundred_a_second_and_64_at_once_beside_the_others() {
        let kinds = [Contact::First, Contact::Silent, Contact::Expected];
        for (contact, other) in kinds.into_iter().zip([Contact::Silent, Contact::Expected, Contact::First]) {
            let (mut pace, start) = (Pace::default(), start());
            let at_once = (0..1_000).filter(|_| pace.take(contact, start)).count();
            let second = (1..=1_000).filter(|ms| pace.take(contact, start + Duration::from_millis(*ms)));
            assert_eq!((at_once, second.count()), (64, 200));
            assert!(pace.take(other, start));
        }
    }

    #[test]
    fn those_that_wait_leave_one_by_one_and_no_more_wait_than_a_second_takes() {
        let (mut pace, start) = (Pace::default(), start());
        let second = Duration::from_secs(1);
        let times: Vec<Instant> =
            (0..1_000).map_while(|_| pace.reserve(Contact::First, second, start)).collect();
        assert_eq!(times.len(), 64 + 200);
        assert!(times[..64].iter().all(|at| *at == start));
        assert!(times[63..].windows(2).all(|pair| pair[1] - pair[0] == CONTACT_INTERVAL));
        // With an answer a place is free again.
        pace.give_back(Contact::First, 1);
        assert_eq!(pace.reserve(Contact::First, second, start), Some(start + second));
        assert_eq!(pace.reserve(Contact::First, second, start), None);
    }

    #[test]
    fn peers_are_asked_at_any_pace() {
        let mut pace = Pace::default();
        assert!((0..10_000).all(|_| pace.take(Contact::Peer, start())));
    }
}
