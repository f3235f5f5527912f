//! Pauses between attempts to put something back that does not stay.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Changes in [`WINDOW`] above which somebody else is taken to put its own state back as often as this program does.
const BURST: usize = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// The pause after that, and after a failure; each doubles until one is [`LONGEST`].
const FIGHT: Duration = Duration::from_secs(5);
const FAILURE: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);

/// Attempts to put one thing back, and the pause they are in.
#[derive(Debug, Clone, Default)]
pub(crate) struct BackOff {
    recent: VecDeque<Instant>,
    pause: Option<Duration>,
    until: Option<Instant>,
    is_fight: bool,
}

impl BackOff {
    /// Returns true if nothing is to be tried now.
    pub(crate) fn is_pausing(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Returns the end of the pause.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Notes that it was put back. Returns true if a pause begins, for it does not stay.
    pub(crate) fn restored(&mut self, now: Instant) -> bool {
        self.recent.retain(|earlier| now.saturating_duration_since(*earlier) < WINDOW);
        self.recent.push_back(now);
        // After a pause one change is enough to begin the next: whoever it is has not ended.
        self.is_fight |= self.recent.len() > BURST;
        if self.is_fight {
            self.begin(FIGHT, now);
        } else {
            (self.pause, self.until) = (None, None);
        }
        self.is_fight
    }

    /// Notes that it could not be put back.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.begin(FAILURE, now);
    }

    /// Notes that it was seen to stand, and returns true unless that says nothing, in the pause of a fight. A failure is over
    /// then; a fight when it has stood as long as the last pause was.
    pub(crate) fn stood(&mut self, now: Instant) -> bool {
        let Some((until, pause)) = self.until.zip(self.pause) else { return true };
        if !self.is_fight || now.saturating_duration_since(until) >= pause.max(WINDOW) {
            self.recent.retain(|earlier| now.saturating_duration_since(*earlier) < WINDOW);
            *self = Self { recent: std::mem::take(&mut self.recent), ..Self::default() };
        }
        !self.is_pausing(now)
    }

    fn begin(&mut self, first: Duration, now: Instant) {
        let pause = self.pause.map_or(first, |pause| (pause * 2).clamp(first, LONGEST));
        (self.pause, self.until) = (Some(pause), Some(now + pause));
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn changes_now_and_then_are_put_back_at_once_for_ever() {
        let (mut back_off, start) = (BackOff::default(), Instant::now());
        for number in 0..10_000 {
            let now = start + number * SECOND;
            assert!(!back_off.is_pausing(now), "{number}");
            assert!(!back_off.restored(now), "{number}");
            back_off.stood(now);
        }
    }

    #[test]
    fn who_changes_it_all_the_time_meets_pauses_that_grow_to_a_minute() {
        let (mut back_off, mut now) = (BackOff::default(), Instant::now());
        let end = now + 3600 * SECOND;
        let (mut pauses, mut restored) = (Vec::new(), 0);
        while now < end {
            if !back_off.is_pausing(now) {
                restored += 1;
                if back_off.restored(now) {
                    pauses.push(back_off.until().expect("a pause") - now);
                }
            }
            now += SECOND / 10;
        }
        let seconds = |seconds: u32| seconds * SECOND;
        assert_eq!(pauses[..5], [5, 10, 20, 40, 60].map(seconds));
        assert!(restored < 21 + 70, "{restored} in an hour");
    }

    #[test]
    fn a_fight_is_over_when_it_has_stood_as_long_as_the_pause() {
        let (mut back_off, mut now) = (BackOff::default(), Instant::now());
        while !back_off.restored(now) {
            now += SECOND / 100;
        }
        let until = back_off.until().expect("a pause");
        back_off.stood(until + SECOND);
        assert!(back_off.restored(until + SECOND), "it goes on");
        let until = back_off.until().expect("a pause");
        back_off.stood(until + 10 * SECOND);
        assert!(!back_off.restored(until + 11 * SECOND), "another story");
    }

    #[test]
    fn failures_are_tried_again_soon_and_then_each_minute() {
        let (mut back_off, start) = (BackOff::default(), Instant::now());
        let mut now = start;
        let mut tries = 0;
        while now < start + 600 * SECOND {
            assert!(!back_off.is_pausing(now));
            back_off.failed(now);
            tries += 1;
            now = back_off.until().expect("a pause");
            assert!(now > start);
        }
        assert!((10..25).contains(&tries), "{tries}");
        back_off.stood(now);
        assert!(!back_off.restored(now), "it can be put back now");
    }
}
