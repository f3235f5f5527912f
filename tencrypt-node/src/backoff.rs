//! The pause before a data path is started again.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// The first pause, after the second failure in a row.
const FIRST: Duration = Duration::from_millis(100);

/// The longest pause: a pod is closed meanwhile, so whatever stood in the way is to be noticed soon after it has gone.
const LONGEST: Duration = Duration::from_secs(10);

/// Time that a data path has to have been ready for what was before not to count any more.
const SETTLED: Duration = Duration::from_secs(10);

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes that a data path which was ready for this long has ended, or that a start has failed (no time at all). Returns the
    /// pause before the next start: none after the first failure, then [`FIRST`], doubled each time up to [`LONGEST`]. Up to a half
    /// of it is taken off by `random`, so that many pods with one fault do not start at the same moments.
    pub(crate) fn after(&mut self, ready_for: Duration, random: u64) -> Duration {
        if ready_for >= SETTLED {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = self.failures.checked_sub(2) else { return Duration::ZERO };
        let pause = FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST);
        let half = u64::try_from(pause.as_micros() / 2).unwrap_or(u64::MAX).max(1);
        pause - Duration::from_micros(random % half)
    }

    /// Forgets what was before: another program or other settings are tried.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number that another agent does not have at the same time. No secret depends on it.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_each_further_one_twice_as_late() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(Duration::from_secs(3600), 0), Duration::ZERO);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.after(Duration::ZERO, 0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(backoff.after(SETTLED / 2, 0), LONGEST, "not for long enough");
        assert_eq!(backoff.after(SETTLED, 0), Duration::ZERO);
        for _ in 0..100 {
            backoff.after(Duration::ZERO, 0);
        }
        backoff.reset();
        assert_eq!(backoff.after(Duration::ZERO, 0), Duration::ZERO);
    }

    #[test]
    fn chance_takes_off_less_than_a_half() {
        for number in [1, 49_999, 50_000, u64::MAX, random()] {
            let mut backoff = Backoff { failures: 1 };
            let pause = backoff.after(Duration::ZERO, number);
            assert!(pause > FIRST / 2 && pause <= FIRST, "{number}: {pause:?}");
        }
        assert_ne!(random(), random());
    }
}
