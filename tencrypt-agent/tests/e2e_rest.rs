//! The work of a program that has nothing to do: how often it is woken, and the processor's time that it takes.

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use support::{Cluster, Running};
use tencrypt_lab::{UdpEcho, test_within, udp_echo};

const PORT: u16 = 9001;
/// Time until all that begins with the start is over: addresses that are announced, files that were just written, probes of neighbours.
const SETTLING: Duration = Duration::from_secs(8);

/// Counts of the kernel for a process, since its start.
#[derive(Debug, Clone, Copy)]
struct Work {
    /// Times that one of its threads went to sleep of itself (proc(5), `voluntary_ctxt_switches`).
    sleeps: u64,
    /// Nanoseconds on a processor (Documentation/scheduler/sched-stats.rst).
    nanoseconds: u64,
}

impl Work {
    fn of(running: &Running) -> Self {
        let mut work = Self { sleeps: 0, nanoseconds: 0 };
        for task in fs::read_dir(format!("/proc/{}/task", running.program.id())).unwrap() {
            let task = task.unwrap().path();
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            work.sleeps += line.unwrap().trim().parse::<u64>().unwrap();
            let times = fs::read_to_string(task.join("schedstat")).unwrap();
            work.nanoseconds += times.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
        work
    }
}

/// Seconds that are looked at: those of `TENCRYPT_TEST_REST`, 10 without it.
fn seconds() -> u64 {
    std::env::var("TENCRYPT_TEST_REST").map_or(10, |seconds| seconds.parse().unwrap())
}

/// Lets two programs with a session rest, and panics if one is woken more often than this.
fn assert_rest(cluster: &Cluster, programs: &[Running; 2], seconds: u64, most: u64) {
    for to in cluster.b.addresses() {
        assert!(udp_echo(cluster.a.netns(), (to, PORT).into(), [100], support::LIMIT).unwrap().is_empty());
    }
    thread::sleep(SETTLING);
    let before = programs.each_ref().map(Work::of);
    thread::sleep(Duration::from_secs(seconds));
    for (running, before) in programs.iter().zip(before) {
        let after = Work::of(running);
        let sleeps = after.sleeps - before.sleeps;
        let share = (after.nanoseconds - before.nanoseconds) as f64 / 1e7 / seconds as f64;
        println!("{:.2} times a second, {share:.4} % of a processor", sleeps as f64 / seconds as f64);
        assert!(sleeps <= most, "woken {sleeps} times in {seconds} s: {}", running.log());
    }
}

/// Of a pod with a session, a captured interface and a key file, nobody of which says anything.
#[test]
fn a_pod_at_rest_is_woken_about_once_a_second() {
    let seconds = seconds();
    let limit = Duration::from_secs(60 + seconds);
    test_within("a_pod_at_rest_is_woken_about_once_a_second", limit, || {
        let cluster = Cluster::on_one_node();
        let _echo = UdpEcho::start(&cluster.b, PORT).unwrap();
        let programs = [cluster.up(&cluster.a, ""), cluster.up(&cluster.b, "")];
        // Lines of the kernel's log wake it too, and are others' doing.
        assert_rest(&cluster, &programs, seconds, 4 * seconds);
    });
}

/// Of pods whose agent is there and says nothing.
#[test]
fn a_supervised_pod_at_rest_is_woken_less_than_once_a_second() {
    let seconds = seconds();
    let limit = Duration::from_secs(60 + seconds);
    test_within("a_supervised_pod_at_rest_is_woken_less_than_once_a_second", limit, || {
        let cluster = Cluster::on_one_node();
        let _echo = UdpEcho::start(&cluster.b, PORT).unwrap();
        let ((a, _one), (b, _other)) =
            (cluster.supervised(&cluster.a, ""), cluster.supervised(&cluster.b, ""));
        assert_rest(&cluster, &[a, b], seconds, seconds - 1);
    });
}
