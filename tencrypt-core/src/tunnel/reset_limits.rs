//! Limits of RESETs.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::limits::{MAX_RESETS, REJECT_AFTER, RESET_INTERVAL, RESET_SEARCHES, RESET_TAKEN, RESET_WAIT};

/// Limits of RESETs, sent and searched for.
#[derive(Debug)]
pub(super) struct ResetLimits {
    /// Time at which this side had no session, for it had just started or forgotten all.
    started: Instant,
    /// Addresses that were sent one within the last [`RESET_WAIT`] and have not answered it, and when that was last. Some
    /// may be older.
    sent: BTreeMap<IpAddr, Instant>,
    /// Time at which there is room among them again.
    full_until: Option<Instant>,
    /// Searches among all peers, and since when they are counted.
    searches: u32,
    searches_since: Option<Instant>,
}

impl ResetLimits {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, sent: BTreeMap::new(), full_until: None, searches: 0, searches_since: None }
    }

    /// Notes that this side has forgotten its sessions.
    pub(super) fn started_over(&mut self, now: Instant) {
        self.started = now;
    }

    /// Tells if there may be peers that still send on sessions of before this side started.
    pub(super) fn has_just_started(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < REJECT_AFTER
    }

    /// Tells if `to` may be sent one now; if so, it was.
    pub(super) fn may_send(&mut self, to: IpAddr, now: Instant) -> bool {
        let before = self.sent.get(&to).copied();
        if before.is_some_and(|at| now.saturating_duration_since(at) < RESET_INTERVAL)
            || (before.is_none() && !self.has_room(now))
        {
            return false;
        }
        self.sent.insert(to, now);
        true
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.sent.len() < MAX_RESETS {
            return true;
        }
        // In between nothing is searched.
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        self.sent.retain(|_, at| now.saturating_duration_since(*at) < RESET_WAIT);
        self.full_until = self.sent.values().min().map(|at| *at + RESET_WAIT);
        self.sent.len() < MAX_RESETS
    }

    /// A handshake with `from` is complete: it is there, and its place is free for another.
    pub(super) fn came_back(&mut self, from: IpAddr) {
        if self.sent.remove(&from).is_some() {
            self.full_until = None;
        }
    }

    /// Tells if all peers may be searched now; if so, they were.
    pub(super) fn may_search(&mut self, now: Instant) -> bool {
        if self.searches_since.is_none_or(|since| now.saturating_duration_since(since) >= RESET_TAKEN) {
            (self.searches, self.searches_since) = (0, Some(now));
        }
        self.searches += 1;
        self.searches <= RESET_SEARCHES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::start;

    fn address(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    #[test]
    fn a_source_is_answered_ten_times_a_second_and_all_of_them_together_are_bounded() {
        let (mut resets, start, ms) = (ResetLimits::new(start()), start(), Duration::from_millis);
        let answered = (0..1_000).filter(|at| resets.may_send(address(1), start + ms(*at))).count();
        assert_eq!(answered, 10);
        let later = start + ms(5_000);
        let answered = (0..10_000).filter(|number| resets.may_send(address(*number), later)).count();
        assert_eq!((answered, resets.sent.len()), (MAX_RESETS, MAX_RESETS));
        // Those who were told already are told again; others have to wait for a second.
        assert!(resets.may_send(address(2), later + RESET_INTERVAL));
        assert!(!resets.may_send(address(9_999), later + RESET_WAIT - ms(1)));
        assert!(resets.may_send(address(9_999), later + RESET_WAIT));
        assert_eq!(resets.sent.len(), 2);
    }

    #[test]
    fn who_comes_back_makes_room_for_another() {
        let mut resets = ResetLimits::new(start());
        for number in 0..10_000 {
            assert!(resets.may_send(address(number), start()), "{number}");
            // All but the first hundred.
            if number >= 100 {
                resets.came_back(address(number));
            }
        }
        assert_eq!(resets.sent.len(), 100);
    }

    #[test]
    fn searches_are_bounded_a_second() {
        let (mut resets, start) = (ResetLimits::new(start()), start());
        let searched = (0..1_000).filter(|_| resets.may_search(start)).count();
        assert_eq!(searched, RESET_SEARCHES as usize);
        assert!(resets.may_search(start + RESET_TAKEN));
    }
}
