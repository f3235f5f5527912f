//! Due times, ordered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// At most one due time per timer. Re-arming to a later time is left to the owner, when the earlier one fires: the
/// data path never moves an entry.
#[derive(Debug)]
pub(super) struct Timers<T> {
    order: BTreeMap<(Instant, T), ()>,
    due: BTreeMap<T, Instant>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { order: BTreeMap::new(), due: BTreeMap::new() }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// Makes `timer` fire at `at`, or earlier if it is set to already.
    pub(super) fn arm(&mut self, timer: T, at: Instant) {
        match self.due.get(&timer).copied() {
            Some(set) if set <= at => return,
            Some(set) => {
                self.order.remove(&(set, timer));
            }
            None => {}
        }
        self.due.insert(timer, at);
        self.order.insert((at, timer), ());
    }

    pub(super) fn cancel(&mut self, timer: T) {
        if let Some(set) = self.due.remove(&timer) {
            self.order.remove(&(set, timer));
        }
    }

    /// The first timer due at `now`, taken out.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<T> {
        let (&(at, timer), ()) = self.order.first_key_value()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((at, _), ())| *at)
    }
}

/// Doubling delays with jitter: `first`, twice that, up to `most`, each lengthened by up to a third so that members
/// that lost the same peer do not come back in step.
pub(super) fn backoff(attempt: u32, first: Duration, most: Duration, random: u32) -> Duration {
    let delay = first.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(most);
    delay + delay.mul_f64(f64::from(random) / f64::from(u32::MAX) / 3.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_in_order_and_keep_the_earlier_time() {
        // The epoch of an Instant is arbitrary, so tests count from one the caller cannot see.
        let start = crate::testing::start();
        let ms = Duration::from_millis;
        let mut timers = Timers::default();
        timers.arm('n', start + ms(20));
        timers.arm('h', start + ms(10));
        timers.arm('n', start + ms(5));
        timers.arm('n', start + ms(30));
        assert_eq!(timers.next(), Some(start + ms(5)));
        assert_eq!(timers.take_due(start), None);
        assert_eq!(timers.take_due(start + ms(50)), Some('n'));
        assert_eq!(timers.take_due(start + ms(50)), Some('h'));
        assert_eq!(timers.take_due(start + ms(50)), None);
    }

    #[test]
    fn backoff_doubles_to_its_limit_and_adds_at_most_a_third() {
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(5));
        assert_eq!(backoff(0, first, most, 0), first);
        assert_eq!(backoff(1, first, most, 0), first * 2);
        assert_eq!(backoff(40, first, most, 0), most);
        assert!(backoff(40, first, most, u32::MAX) <= most + most / 3 + Duration::from_millis(1));
    }
}
