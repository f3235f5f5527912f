//! Freshness of the keys in use: two numbers that control plane and lanes share without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::time::ClockId;

use crate::os::clock;

/// The interval at which a lane whose keys may not be used looks for new ones.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A control plane that has not looked for longer than this stood still, and everything with it: the machine was
/// suspended, the program was stopped, or a virtual machine paused. It looks each second, and each 5 where a node has many of them.
pub(crate) const GAP: Duration = Duration::from_secs(60);

/// The time when the control plane looked last, and the generation of keys that may be used.
///
/// All times are of the boot clock (`CLOCK_BOOTTIME`, clock_gettime(2)), which goes on while the machine is suspended:
/// [`boot_clock`].
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Milliseconds.
    looked: AtomicU64,
    wanted: AtomicU64,
}

impl Freshness {
    /// Starts at generation 0.
    #[must_use]
    pub(crate) fn new(now: Duration) -> Self {
        Self { looked: AtomicU64::new(milliseconds(now)), wanted: AtomicU64::new(0) }
    }

    /// Notes that the control plane looks. If it has not for longer than [`GAP`], keys are to be made anew: returns their
    /// generation. A clock that went back is no sign of anything.
    pub(crate) fn look(&self, now: Duration) -> Option<u64> {
        let now = milliseconds(now);
        let gap = is_gap(now, self.looked.load(Ordering::Relaxed));
        let wanted = gap.then(|| self.want());
        // Last: who sees that it was looked at sees what was found too.
        self.looked.store(now, Ordering::Release);
        wanted
    }

    /// Demands new keys. Returns the new generation number; no lane seals another record with older ones.
    pub(crate) fn want(&self) -> u64 {
        self.wanted.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Returns true if a lane may use keys of `generation`. If not, either it is given others soon, or the control plane
    /// finds that it just looked in time.
    #[must_use]
    pub(crate) fn is_current(&self, generation: u64, now: Duration) -> bool {
        !is_gap(milliseconds(now), self.looked.load(Ordering::Acquire))
            && self.wanted.load(Ordering::Acquire) == generation
    }
}

/// Reads the boot clock.
#[must_use]
pub(crate) fn boot_clock() -> Duration {
    clock::read(ClockId::Boottime)
}

fn is_gap(now: u64, looked: u64) -> bool {
    now.saturating_sub(looked) > milliseconds(GAP)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn looks_within_a_minute_want_nothing_and_one_after_it_wants_new_keys_once() {
        let freshness = Freshness::new(START);
        let mut now = START;
        for step in [MOMENT, GAP, GAP / 2, GAP] {
            now += step;
            assert_eq!(freshness.look(now), None);
            assert!(freshness.is_current(0, now));
        }
        now += GAP + MOMENT;
        assert_eq!(freshness.look(now), Some(1));
        assert!(!freshness.is_current(0, now) && freshness.is_current(1, now));
        assert_eq!(freshness.look(now), None);
        assert_eq!(freshness.look(now + Duration::from_secs(600)), Some(2));
    }

    #[test]
    fn a_lane_finds_a_gap_before_the_control_plane_does_and_no_look_makes_up_for_it() {
        let freshness = Freshness::new(START);
        let late = START + GAP + MOMENT;
        assert!(freshness.is_current(0, START + GAP));
        assert!(!freshness.is_current(0, late));
        assert_eq!(freshness.look(late), Some(1));
        assert!(!freshness.is_current(0, late), "it waits for its new keys");
        assert!(freshness.is_current(1, late));
    }

    #[test]
    fn a_lane_goes_on_if_the_look_was_in_time_after_all() {
        let freshness = Freshness::new(START);
        // The control plane read the clock first and has not said so yet.
        assert!(!freshness.is_current(0, START + GAP + MOMENT));
        assert_eq!(freshness.look(START + GAP), None);
        assert!(freshness.is_current(0, START + GAP + MOMENT));
    }

    #[test]
    fn a_clock_that_goes_back_is_no_sign_and_hides_none() {
        let freshness = Freshness::new(START);
        assert_eq!(freshness.look(START / 2), None);
        assert!(freshness.is_current(0, START / 2) && freshness.is_current(0, Duration::ZERO));
        assert_eq!(freshness.look(START / 2 + GAP + MOMENT), Some(1));
        assert_eq!(freshness.look(Duration::ZERO), None);
        assert_eq!(freshness.look(Duration::MAX), Some(2));
    }

    #[test]
    fn every_sign_counts_and_keys_of_an_earlier_one_are_not_current() {
        let freshness = Freshness::new(START);
        assert_eq!((freshness.want(), freshness.want()), (1, 2));
        let current: Vec<u64> = (0..4).filter(|renewal| freshness.is_current(*renewal, START)).collect();
        assert_eq!(current, [2]);
    }

    #[test]
    fn the_boot_clock_goes_forward_and_is_not_the_wall_clock() {
        let before = boot_clock();
        assert!(boot_clock() >= before);
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((boot_clock().as_secs_f64() - uptime).abs() < 10.0, "uptime {uptime}");
    }
}
