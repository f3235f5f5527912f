//! Rights that a running `up` has given up, as the kernel says it, and that `status` says the same.

mod support;

use std::{
    collections::BTreeMap, fs, net::SocketAddr, os::unix::process::ExitStatusExt as _, thread, time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Cluster, Running};
use tencrypt_lab::{Program, Signal, UdpEcho, test, udp_echo};

/// Port at which pod `b` sends everything back.
const ECHO: u16 = 9001;

/// `capget(2)`'s numbers (include/uapi/linux/capability.h).
const NETWORK: u64 = 1 << 12 | 1 << 13;

/// The fields of `/proc/PID/task/TID/status` for every thread, by the thread's name.
fn threads(running: &Running) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.program.id())).unwrap();
    tasks
        .map(|task| {
            let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            let fields: BTreeMap<String, String> =
                fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
            (fields["Name"].clone(), fields)
        })
        .collect()
}

#[test]
fn a_running_program_has_given_up_what_it_does_not_need() {
    test("a_running_program_has_given_up_what_it_does_not_need", || {
        let cluster = Cluster::on_one_node();
        let running = cluster.up(&cluster.a, "");
        // Answered by the lanes, which have begun then.
        let hardening = &running.status()["hardening"];
        let threads = threads(&running);
        let filters = |field: &str| field.parse::<u32>().unwrap();
        let own = fs::read_to_string("/proc/thread-self/status").unwrap();
        let before = own.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).unwrap();
        let before = filters(before.trim());
        assert!(threads.iter().any(|(name, _)| name.starts_with("tencrypt-lane")), "{threads:?}");
        for (name, fields) in &threads {
            let capabilities = |set: &str| u64::from_str_radix(&fields[set], 16).unwrap();
            let allowed = if name == "control" || name == "tencrypt-watch" { NETWORK } else { 0 };
            for set in ["CapPrm", "CapEff", "CapInh"] {
                assert_eq!(capabilities(set) & !allowed, 0, "{name}: {set}");
            }
            assert_eq!(fields["Seccomp"], "2", "{name}");
            // One that refuses what is not needed, one before it that has libc make threads in a way that can be judged.
            assert_eq!(filters(&fields["Seccomp_filters"]), before + 2, "{name}");
            let waits = name == "tencrypt";
            assert!(waits || fields["NoNewPrivs"] == "1", "{name}");
        }
        for measure in ["not_dumpable", "no_new_privs", "seccomp"] {
            assert_eq!(hardening[measure], true, "{hardening}");
        }
        let named: Vec<&str> =
            hardening["capabilities"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
        assert_eq!(named, ["net_admin", "net_raw"]);
        let locked = threads.iter().any(|(_, fields)| fields["VmLck"] != "0 kB");
        assert_eq!(hardening["memory_locked"], locked, "{hardening}");
    });
}

#[test]
fn a_crash_leaves_no_core_dump() {
    test("a_crash_leaves_no_core_dump", || {
        let cluster = Cluster::on_one_node();
        let _echo = UdpEcho::start(&cluster.b, ECHO).unwrap();
        // The program starts with as large a limit as the test may give it. Another that crashes with it leaves a dump,
        // if anything does on this machine.
        let most = getrlimit(Resource::Core).maximum;
        setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).unwrap();
        let there = cluster.directory.display();
        let mut other = Program::start(
            "/bin/sh".as_ref(),
            ["-c", &format!("cd {there} && echo ready && exec sleep 60")],
            None,
        )
        .unwrap();
        other.wait_ready(support::LIMIT).unwrap();
        other.signal(Signal::Fault).unwrap();
        let control = other.wait(support::LIMIT).unwrap().status.core_dumped();
        println!("another program's crash left a dump: {control}");
        assert!(
            control || most == Some(0),
            "a program without protection leaves no dump either: nothing is shown"
        );

        for signal in [Signal::Abort, Signal::Fault] {
            let mut running = cluster.up(&cluster.a, "");
            let _peer = cluster.up(&cluster.b, "");
            let limits = fs::read_to_string(format!("/proc/{}/limits", running.program.id())).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
            // In the middle of traffic.
            let to = SocketAddr::new(cluster.b.v4(), ECHO);
            let echo =
                |count, wait| udp_echo(cluster.a.netns(), to, (0..count).map(|_| 1_000), wait).unwrap();
            assert!(echo(1, support::LIMIT).is_empty());
            let ended = thread::scope(|scope| {
                // Those that nobody answers any more, at the end, are a second's.
                scope.spawn(|| echo(2_000, Duration::from_millis(1)));
                // Once more at least: the runtime's handler looks whether a fault is a stack's end, and leaves the next one
                // to the kernel.
                let ended = (0..300).find_map(|_| {
                    running.program.signal(signal).unwrap();
                    running.program.wait(Duration::from_millis(100)).ok()
                });
                ended.expect("it ends")
            });
            assert!(ended.status.signal().is_some() && !ended.status.core_dumped(), "{ended:?}");
            assert!(cluster.down(&cluster.a).status.success());
        }
    });
}
