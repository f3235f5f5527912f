//! The decision to give way to others before a lane sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

/// A yield that took this long met somebody who keeps the processor: a time slice is 3 ms (Linux 6.18,
/// kernel/sched/fair.c, `sysctl_sched_base_slice`), applications that move data mostly give it back sooner.
const SLOW_YIELD: Duration = Duration::from_millis(2);

/// The time without a yield after a slow one: so it costs 1 %.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// A record of slow yields: giving way is not worth it where others keep the processor.
#[derive(Default)]
pub(super) struct Patience {
    /// No more until then.
    until: Option<Instant>,
}

impl Patience {
    /// Lets whoever waits for the processor have it; false if that is not to be done now.
    pub(super) fn yield_now(&mut self) -> bool {
        let begun = Instant::now();
        if self.until.is_some_and(|until| begun < until) {
            return false;
        }
        thread::yield_now();
        let taken = begun.elapsed();
        self.until = (taken >= SLOW_YIELD).then(|| begun + taken + IMPATIENCE);
        true
    }
}
