//! Token buckets.

use std::time::{Duration, Instant};

/// A token bucket, kept as the time at which it is full again.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenBucket {
    interval: Duration,
    burst: u32,
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens, to which one comes back each `interval`.
    pub(super) const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst, full_at: None }
    }

    /// Takes a token. False: there is none.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.take_leaving(0, now)
    }

    /// Takes a token if `left` remain behind it.
    pub(super) fn take_leaving(&mut self, left: u32, now: Instant) -> bool {
        let full_at = self.full_at(now);
        let fits = full_at.saturating_duration_since(now) <= self.interval * self.before_last(left);
        if fits {
            self.full_at = Some(full_at + self.interval);
        }
        fits
    }

    /// Takes a token for the time that is returned, at which it will be there: `longest` from now at most, else none.
    pub(super) fn reserve(&mut self, longest: Duration, now: Instant) -> Option<Instant> {
        let full_at = self.full_at(now);
        let missing = full_at.saturating_duration_since(now);
        let wait = missing.saturating_sub(self.interval * self.before_last(0));
        (wait <= longest).then(|| {
            self.full_at = Some(full_at + self.interval);
            now + wait
        })
    }

    /// Takes a token that has to be there sooner or later, however many are missing, up to twice the burst.
    pub(super) fn owe(&mut self, now: Instant) {
        let most = now + self.interval * self.burst * 2;
        self.full_at = Some((self.full_at(now) + self.interval).min(most));
    }

    /// Puts tokens back.
    pub(super) fn give_back(&mut self, tokens: u32) {
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(self.interval * tokens));
    }

    /// Tells if there are as many tokens as there can be.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|full_at| full_at <= now)
    }

    fn full_at(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |full_at| full_at.max(now))
    }

    /// Tokens that may be missing for one to be taken that leaves `left`.
    fn before_last(&self, left: u32) -> u32 {
        self.burst.saturating_sub(1).saturating_sub(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_its_rate_for_ever() {
        let (mut bucket, start) = (TokenBucket::new(TENTH, 5), start());
        assert_eq!((0..50).filter(|_| bucket.take(start)).count(), 5);
        let taken = (0..=10_000).filter(|at| bucket.take(start + Duration::from_millis(*at))).count();
        assert_eq!(taken, 100);
        assert!(!bucket.is_full(start + TENTH * 100) && bucket.is_full(start + TENTH * 105));
    }

    #[test]
    fn a_token_is_left_for_those_who_go_first() {
        let (mut bucket, start) = (TokenBucket::new(TENTH, 5), start());
        assert_eq!((0..50).filter(|_| bucket.take_leaving(2, start)).count(), 3);
        assert_eq!((0..50).filter(|_| bucket.take(start)).count(), 2);
    }
}
