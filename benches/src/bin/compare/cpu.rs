//! Time that processors have spent (proc_pid_stat(5), proc_stat(5)).

use std::{
    fs, io, iter, thread,
    time::{Duration, Instant},
};

/// Milliseconds of a tick of user space: USER_HZ is 100 (include/asm-generic/param.h) but on Alpha and ia64.
const TICK: u64 = 10;

/// Processor time so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    /// Of the processes asked about, all their threads, in user space and in the kernel.
    pub(crate) processes: Duration,
    /// Of the whole machine: everything but idle, waiting for disks and stolen time.
    pub(crate) machine: Duration,
    /// Of the whole machine without interrupts: of all processes.
    pub(crate) all_processes: Duration,
}

impl Spent {
    /// Until now, of `processes`.
    ///
    /// # Errors
    ///
    /// One of them has ended.
    pub(crate) fn until_now(processes: impl Iterator<Item = u32>) -> io::Result<Self> {
        let mut sum = Duration::ZERO;
        for process in processes {
            let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
            sum += of_process(&text).ok_or(io::ErrorKind::InvalidData)?;
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let (all_processes, interrupts) = of_machine(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { processes: sum, machine: all_processes + interrupts, all_processes })
    }

    /// The time spent since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            processes: self.processes.saturating_sub(earlier.processes),
            machine: self.machine.saturating_sub(earlier.machine),
            all_processes: self.all_processes.saturating_sub(earlier.all_processes),
        }
    }

    /// The part of all processors, from 0 to 1, that processes not asked about had during `elapsed`.
    pub(crate) fn of_others(self, elapsed: Duration) -> f64 {
        part(self.all_processes.saturating_sub(self.processes), elapsed)
    }
}

/// The part of all processors that is busy during `duration`, from 0 to 1.
///
/// # Errors
///
/// /proc cannot be read.
pub(crate) fn busy(duration: Duration) -> io::Result<f64> {
    let (start, before) = (Instant::now(), Spent::until_now(iter::empty())?);
    thread::sleep(duration);
    let spent = Spent::until_now(iter::empty())?.since(before).machine;
    Ok(part(spent, start.elapsed()))
}

fn part(spent: Duration, elapsed: Duration) -> f64 {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    (spent.as_secs_f64() / elapsed.as_secs_f64().max(1e-9) / processors).min(1.0)
}

/// Fields 14 and 15 of /proc/PID/stat: utime and stime.
fn of_process(stat: &str) -> Option<Duration> {
    // The second field is the name in parentheses, and a name may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    ticks(rest.split_whitespace().skip(11).take(2), 2)
}

/// Time in processes and in interrupts, by the first line of /proc/stat: user, nice, system, (idle, iowait,) irq,
/// softirq. Guests are part of user.
fn of_machine(stat: &str) -> Option<(Duration, Duration)> {
    let fields: Vec<&str> = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().collect();
    let sum = |indices: &[usize]| {
        ticks(indices.iter().filter_map(|&index| fields.get(index).copied()), indices.len())
    };
    Some((sum(&[0, 1, 2])?, sum(&[5, 6])?))
}

fn ticks<'a>(fields: impl Iterator<Item = &'a str>, expected: usize) -> Option<Duration> {
    let numbers = fields.map(|field| field.parse::<u64>().ok()).collect::<Option<Vec<u64>>>()?;
    let sum = numbers.iter().try_fold(0u64, |sum, number| sum.checked_add(*number))?;
    (numbers.len() == expected).then(|| Duration::from_millis(sum.saturating_mul(TICK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "4711 (a) 9 (b) S 1 4711 4711 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 4 0 100 0";
        assert_eq!(of_process(stat), Some(Duration::from_secs(3)));
        assert_eq!(of_process("4711 (a) S 1 2 3"), None);
        assert_eq!(of_process("4711"), None);
    }

    #[test]
    fn the_machine_is_busy_when_it_is_neither_idle_nor_waiting_nor_stolen() {
        let stat = "cpu  100 10 200 5000 600 40 50 7000 30 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(of_machine(stat), Some((Duration::from_millis(3100), Duration::from_millis(900))));
        assert_eq!(of_machine("cpu0 1 2 3 4 5 6 7"), None);
        assert_eq!(of_machine("cpu  1 2 3 x 5 6 seven"), None);
    }

    #[test]
    fn others_have_what_is_neither_ours_nor_an_interrupts() {
        let [processes, machine, all_processes] = [1, 9, 2].map(Duration::from_secs);
        let spent = Spent { processes, machine, all_processes };
        assert!(spent.of_others(Duration::from_secs(4)) <= 0.25);
        assert_eq!(Spent { processes: machine, ..spent }.of_others(Duration::from_secs(4)), 0.0);
    }

    #[test]
    fn this_process_spends() {
        let own = || Spent::until_now(iter::once(std::process::id())).unwrap();
        let earlier = own();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        // Of 100 ms at least some on any machine; what else ran is in the machine's.
        assert!(own().since(earlier).processes >= Duration::from_millis(TICK));
    }
}
