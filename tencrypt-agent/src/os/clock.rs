//! One clock for everything that is looked at from time to time: what is due at the same moment wakes a pod at rest once.

use std::{
    os::fd::OwnedFd,
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::{
    io,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
        timerfd_create, timerfd_settime,
    },
};
use tokio::{
    io::unix::AsyncFd,
    time::{Interval, MissedTickBehavior, interval_at},
};

use crate::os::sys;

/// The interval of everything that is not looked at more often for a reason of its own.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The moment that all clocks count from, by the kernel's clock and by the runtime's.
static START: OnceLock<(Duration, Instant)> = OnceLock::new();

/// A clock that ticks at once, and then at the multiples of its period since the first clock was made. Ticks that were missed
/// are left out.
#[derive(Debug)]
pub(crate) struct Clock {
    is_new: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// timerfd_create(2).
    Kernel(AsyncFd<OwnedFd>),
    /// The runtime's timers, which wake up once more on the way where the period is longer than 64 ms.
    Runtime(Interval),
}

impl Clock {
    /// Returns a clock of this period, which is not zero. Must be called within a tokio runtime.
    pub(crate) fn each(period: Duration) -> Self {
        let (kernel, runtime) = *START.get_or_init(|| (read(ClockId::Monotonic), Instant::now()));
        let source = kernel_timer(kernel, period).map(Source::Kernel).unwrap_or_else(|error| {
            tracing::debug!(%error, "timerfd");
            let mut interval =
                interval_at((Instant::now() + until_next(runtime.elapsed(), period)).into(), period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            Source::Runtime(interval)
        });
        Self { is_new: true, source }
    }

    /// Waits for the next tick. May be cancelled.
    pub(crate) async fn tick(&mut self) {
        if std::mem::take(&mut self.is_new) {
            return;
        }
        match &mut self.source {
            Source::Runtime(interval) => {
                interval.tick().await;
            }
            Source::Kernel(timer) => loop {
                // A runtime that ends is no tick.
                let Ok(mut ready) = timer.readable().await else { return std::future::pending().await };
                let mut ticks = [0; 8];
                match io::read(timer.get_ref(), &mut ticks) {
                    Ok(_) => {
                        // Nothing is left to read; a tick since then is another readiness, which this does not end.
                        ready.clear_ready();
                        return;
                    }
                    Err(_) => ready.clear_ready(),
                }
            },
        }
    }
}

/// Returns the time from now, which is `since` the start, until the next multiple of `period`.
fn until_next(since: Duration, period: Duration) -> Duration {
    let into = since.as_nanos() % period.as_nanos().max(1);
    period.saturating_sub(Duration::from_nanos(into.try_into().unwrap_or(0)))
}

/// Reads a clock of the kernel. Costs no system call where its vDSO has the clock (lib/vdso/gettimeofday.c).
#[must_use]
pub(crate) fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Makes a timer that runs out at the multiples of `period` since `start`.
fn kernel_timer(start: Duration, period: Duration) -> std::io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let now = read(ClockId::Monotonic);
    let first = now + until_next(now.saturating_sub(start), period);
    let timespec =
        |time: Duration| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    let setting = Itimerspec { it_interval: timespec(period), it_value: timespec(first) };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &setting)?;
    sys::watch_readable(timer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_tick_is_the_next_multiple() {
        let [period, part] = [100, 30].map(Duration::from_millis);
        assert_eq!(until_next(Duration::ZERO, period), period);
        assert_eq!(until_next(part, period), period - part);
        assert_eq!(until_next(7 * period + part, period), period - part);
        assert_eq!(until_next(7 * period, period), period);
    }

    /// The ticks of two clocks in their order, until the slow one has ticked three times.
    async fn order(mut slow: Clock, mut fast: Clock) -> String {
        let mut order = String::new();
        while order.matches('s').count() < 3 {
            tokio::select! {
                biased;
                () = fast.tick() => order.push('f'),
                () = slow.tick() => order.push('s'),
            }
        }
        order
    }

    #[tokio::test]
    async fn clocks_that_were_made_at_different_moments_tick_together() {
        let period = Duration::from_millis(100);
        let mut slow = Clock::each(period);
        slow.tick().await;
        slow.tick().await;
        tokio::time::sleep(period * 3 / 10).await;
        let mut fast = Clock::each(period / 2);
        let made = Instant::now();
        fast.tick().await;
        assert!(made.elapsed() < period / 10, "at once");
        // Both are due together, the fast one once in between.
        assert!(order(slow, fast).await.ends_with("fsffs"));
    }

    #[tokio::test]
    async fn ticks_that_were_missed_are_left_out() {
        let mut clock = Clock::each(Duration::from_millis(20));
        clock.tick().await;
        std::thread::sleep(Duration::from_millis(110));
        clock.tick().await;
        let begun = Instant::now();
        clock.tick().await;
        assert!(begun.elapsed() > Duration::from_millis(1), "five were missed, and are one");
    }
}
