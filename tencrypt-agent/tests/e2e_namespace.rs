//! Changes that somebody else makes in a protected namespace are put back and told, and nothing leaves in plain meanwhile;
//! and the end of the pod is that of the program.

mod support;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::CapabilitySet;
use serde_json::Value;
use support::{CANARY, Cluster, Ending, LIMIT, Running};
use tencrypt_lab::{Binding, Pod, Snapshot, UdpEcho, http_get, send_bound, test, udp_echo};

const SECOND: Duration = Duration::from_secs(1);
const TABLE: u32 = 8362;
const RP_FILTER: &str = "ipv4/conf/eth0/rp_filter";

/// A part of the namespace in the status.
fn part(running: &Running, name: &str) -> Value {
    let status = running.status();
    let parts = status["namespace"]["parts"].as_array().unwrap_or_else(|| panic!("no parts in {status}"));
    let part = parts.iter().find(|part| part["part"] == name);
    part.unwrap_or_else(|| panic!("no {name} in {status}")).clone()
}

fn restored(running: &Running, name: &str) -> u64 {
    part(running, name)["restored"].as_u64().unwrap()
}

/// Waits until `condition`; returns the time that it took.
fn eventually(what: &str, running: &Running, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < 15 * SECOND, "never: {what}: {}\n{}", running.status(), running.log());
        thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

type Act = (&'static str, &'static str, fn(&Pod));

const ACTS: [Act; 7] = [
    ("rules deleted", "rules", |pod| pod.delete_rules(TABLE).unwrap()),
    ("a rule before ours", "rules", |pod| pod.add_rule(8361).unwrap()),
    ("another, far before", "rules", |pod| pod.add_rule(100).unwrap()),
    ("table 8362 flushed", "routes", |pod| pod.flush_routes(TABLE).unwrap()),
    ("nftables flushed", "chains", |pod| pod.flush_nftables().unwrap()),
    ("the device down", "device", |pod| pod.set_device_up("tenc0", false).unwrap()),
    ("rp_filter strict", "rp_filter", |pod| pod.netns().set_sysctl(RP_FILTER, "1").unwrap()),
];

#[test]
fn what_somebody_changes_in_a_pod_is_put_back_within_a_second_and_nothing_leaves_in_plain() {
    const NAME: &str =
        "what_somebody_changes_in_a_pod_is_put_back_within_a_second_and_nothing_leaves_in_plain";
    test(NAME, || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        cluster.a.netns().set_sysctl(RP_FILTER, "1").unwrap();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for (name, part_name, act) in ACTS {
            let times = restored(&a, part_name);
            act(&cluster.a);
            let after = eventually(name, &a, || restored(&a, part_name) > times);
            // The status is asked by a process of its own.
            assert!(after < SECOND, "{name}: {after:?}");
            for to in cluster.b.addresses() {
                cluster.say_canary(to);
            }
            let part = part(&a, part_name);
            assert!(part["last_s"].as_u64().unwrap() <= 5 && part["problem"].is_null(), "{name}: {part}");
            let status = a.status();
            assert!(status["enforce"] == true && status["namespace"]["closed"] == false, "{status}");
        }
        probe.assert_only_encrypted();
        let log = a.log();
        let lines = |part: &str| {
            log.lines()
                .filter(|line| line.contains("put back") && line.ends_with(&format!("part={part}")))
                .count()
        };
        let told = ["rules", "chains", "device", "rp_filter"].map(lines);
        assert_eq!(told, [6, 1, 1, 1], "a line each, of rules one a family:\n{log}");
        // A table that is flushed route by route may be seen half empty.
        assert!((1..=8).contains(&lines("routes")), "{log}");
        for preference in [8361, 100] {
            cluster.a.delete_rule(preference).unwrap();
        }
        assert!(cluster.down(&cluster.a).status.success());
        let changes = before.difference(&Snapshot::take(cluster.a.netns()).unwrap());
        assert!(changes.is_empty(), "the namespace is not as it was:\n{}", changes.join("\n"));
    });
}

#[test]
fn chains_that_were_deleted_stop_bound_sockets_again() {
    test("chains_that_were_deleted_stop_bound_sockets_again", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        let bound = |to: IpAddr| {
            let to = SocketAddr::new(to, 7777);
            send_bound(cluster.a.netns(), Binding::Device, "eth0", to, CANARY.as_bytes())
        };
        for to in cluster.b.addresses() {
            bound(to).unwrap();
        }
        assert!(probe.report().leaks >= 2, "the probe is blind");
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for times in 1..=3 {
            cluster.a.flush_nftables().unwrap();
            eventually("chains", &a, || restored(&a, "chains") >= times);
            probe.reset();
            for to in cluster.b.addresses() {
                assert!(bound(to).is_err(), "{to}");
                cluster.say_canary(to);
            }
            probe.assert_only_encrypted();
            // What was counted before the last time is not lost, once it was read.
            eventually("counters", &a, || a.status()["chains"]["leak"].as_u64() == Some(2 * times));
        }
    });
}

#[test]
fn what_cannot_be_put_back_closes_the_pod_and_is_told_until_it_stands() {
    test("what_cannot_be_put_back_closes_the_pod_and_is_told_until_it_stands", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        // Beside the local table's own rule: none can come before it.
        cluster.a.add_rule(0).unwrap();
        eventually("closed", &a, || a.status()["namespace"]["closed"] == true);
        let problem = part(&a, "rules")["problem"].as_str().unwrap().to_owned();
        assert!(problem.contains("decides before"), "{problem}");
        let answer = tencrypt_lab::http_get(
            cluster.a.netns(),
            SocketAddr::new(cluster.b.v4(), support::HTTP),
            "shop",
            CANARY,
            SECOND,
        );
        assert!(answer.is_err());
        probe.assert_only_encrypted();
        cluster.a.delete_rule(0).unwrap();
        let after = eventually("open", &a, || a.status()["namespace"]["closed"] == false);
        assert!(after < SECOND, "{after:?}");
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
    });
}

/// Makes `/proc/sys` of this world read-only, as it is in most containers.
fn make_settings_read_only() {
    for arguments in [&["--bind", "/proc/sys", "/proc/sys"][..], &["-o", "remount,bind,ro", "/proc/sys"]] {
        let status = Command::new("mount").args(arguments).status().unwrap();
        assert!(status.success(), "mount {arguments:?}");
    }
    let refused = fs::write("/proc/sys/net/ipv4/conf/lo/rp_filter", "0").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn it_runs_where_settings_are_read_only_and_relaxes_a_strict_rp_filter_and_puts_it_back() {
    const NAME: &str = "it_runs_where_settings_are_read_only_and_relaxes_a_strict_rp_filter_and_puts_it_back";
    test(NAME, || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        cluster.a.netns().set_sysctl(RP_FILTER, "1").unwrap();
        make_settings_read_only();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        assert_eq!(cluster.a.netns().sysctl(RP_FILTER).unwrap(), "2");
        assert_eq!(cluster.a.netns().sysctl("ipv6/conf/tenc0/addr_gen_mode").unwrap(), "1");
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
        thread::sleep(6 * SECOND);
        let status = a.status();
        assert_eq!(restored(&a, "device"), 0, "settings that cannot be written are no change: {status}");
        assert!(cluster.down(&cluster.a).status.success());
        let changes = before.difference(&Snapshot::take(cluster.a.netns()).unwrap());
        assert!(changes.is_empty(), "the namespace is not as it was:\n{}", changes.join("\n"));
    });
}

/// The capabilities of a container that is not privileged and protects the pods of its node, `/proc/sys` being read-only in it.
#[test]
fn it_runs_with_the_capabilities_of_a_container_that_is_not_privileged() {
    test("it_runs_with_the_capabilities_of_a_container_that_is_not_privileged", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        make_settings_read_only();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        support::leave_to_programs(
            CapabilitySet::SYS_ADMIN
                | CapabilitySet::NET_ADMIN
                | CapabilitySet::NET_RAW
                | CapabilitySet::SYS_PTRACE
                | CapabilitySet::DAC_OVERRIDE,
        );
        let (a, b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        for to in cluster.b.addresses() {
            cluster.say_canary(to);
        }
        probe.assert_only_encrypted();
        for running in [&a, &b] {
            assert_eq!(running.status()["enforce"], true, "{}", running.log());
        }
        assert!(cluster.down(&cluster.a).status.success());
        let changes = before.difference(&Snapshot::take(cluster.a.netns()).unwrap());
        assert!(changes.is_empty(), "the namespace is not as it was:\n{}", changes.join("\n"));
    });
}

/// Nothing of the program is left: no device, lock or socket. The namespace, which this test holds, is closed.
fn assert_gone(cluster: &Cluster, pod: &Pod) {
    let left = Snapshot::take(pod.netns()).unwrap();
    assert_eq!(left.lines("device tenc0").count(), 0, "{left}");
    assert!(left.lines("nftables inet tencrypt").count() > 0, "closed: {left}");
    let files: Vec<_> = fs::read_dir(cluster.directory.join("run")).unwrap().collect();
    assert!(files.is_empty(), "left in the run directory: {files:?}");
}

fn assert_ends(mut running: Running) {
    let finished =
        running.program.wait(10 * SECOND).unwrap_or_else(|error| panic!("{error}: {}", running.log()));
    assert!(finished.status.success(), "{finished:?}");
}

#[test]
fn a_pod_without_interface_and_processes_is_the_end_of_its_program() {
    test("a_pod_without_interface_and_processes_is_the_end_of_its_program", || {
        let cluster = Cluster::on_one_node();
        let mut a = cluster.up(&cluster.a, "");
        let mut sleep = Command::new("sleep");
        sleep.arg("1000");
        let mut process = cluster.a.netns().spawn(sleep).unwrap();
        cluster.a.delete_device("eth0").unwrap();
        thread::sleep(7 * SECOND);
        assert!(a.program.is_running(), "a process is left in it: {}", a.log());
        process.kill().unwrap();
        process.wait().unwrap();
        assert_ends(a);
        assert_gone(&cluster, &cluster.a);
    });
}

#[test]
fn an_interface_that_comes_back_is_the_same_pod() {
    test("an_interface_that_comes_back_is_the_same_pod", || {
        let cluster = Cluster::on_one_node();
        let (mut a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        cluster.a.set_up(false).unwrap();
        thread::sleep(6 * SECOND);
        assert!(a.program.is_running(), "it is down, not gone: {}", a.log());
        cluster.a.set_up(true).unwrap();
        cluster.say_canary(cluster.b.v4());
    });
}

/// Gives a pod's namespace a name as `ip netns` does: a file with the namespace mounted on it.
fn name(pod: &Pod, file: &Path) {
    fs::write(file, "").unwrap();
    let status = Command::new("mount").arg("--bind").arg(pod.netns().path()).arg(file).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_namespace_whose_name_is_gone_is_the_end_of_its_program() {
    test("a_namespace_whose_name_is_gone_is_the_end_of_its_program", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        for removes_file in [true, false] {
            let file = cluster.directory.join("shop-a");
            name(&cluster.a, &file);
            let a = cluster.start_named(&cluster.a, &file, "");
            a.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", a.log()));
            assert!(Command::new("umount").arg("--lazy").arg(&file).status().unwrap().success());
            if removes_file {
                fs::remove_file(&file).unwrap();
            }
            // A process that goes on in it is no reason to let anything out.
            let mut sleep = Command::new("sleep");
            sleep.arg("1000");
            let mut process = cluster.a.netns().spawn(sleep).unwrap();
            assert_ends(a);
            for to in cluster.b.addresses() {
                let called = SocketAddr::new(to, support::HTTP);
                assert!(http_get(cluster.a.netns(), called, "shop", CANARY, SECOND).is_err(), "{to}: closed");
            }
            assert_eq!(probe.report().canary, 0);
            process.kill().unwrap();
            process.wait().unwrap();
            assert_gone(&cluster, &cluster.a);
        }
        // Another program takes the namespace over, and `down` opens it.
        let (_a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        cluster.say_canary(cluster.b.v4());
        probe.assert_only_encrypted();
    });
}

#[test]
fn the_next_pod_of_the_same_name_is_protected_while_the_program_of_the_last_one_ends() {
    test("the_next_pod_of_the_same_name_is_protected_while_the_program_of_the_last_one_ends", || {
        let cluster = Cluster::on_one_node();
        let next = cluster.pod(31);
        let _b = cluster.up(&cluster.b, "");
        let file = cluster.directory.join("shop-a");
        name(&cluster.a, &file);
        let first = cluster.start_named(&cluster.a, &file, "");
        first.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", first.log()));
        assert!(Command::new("umount").arg("--lazy").arg(&file).status().unwrap().success());
        name(&next, &file);
        let second = cluster.start_named(&next, &file, "");
        second.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", second.log()));
        assert_ends(first);
        assert_eq!(Snapshot::take(cluster.a.netns()).unwrap().lines("device tenc0").count(), 0);
        // What ended took nothing of the other's with it, and the name leads to who lives.
        assert_eq!(second.status()["namespace"]["closed"], false);
        let answered = udp_echo_from(&next, &cluster);
        eventually("the next pod reaches the tenant", &second, answered);
        let down = cluster.tencrypt(["down".into(), "--netns".into(), file.into()]);
        assert!(down.status.success(), "{down:?}");
    });
}

/// Asks whether pod `b` answers this one by both families.
fn udp_echo_from<'a>(pod: &'a Pod, cluster: &'a Cluster) -> impl FnMut() -> bool + 'a {
    const PORT: u16 = 9001;
    let echo = UdpEcho::start(&cluster.b, PORT).unwrap();
    move || {
        let _ = &echo;
        cluster.b.addresses().iter().all(|to| {
            udp_echo(pod.netns(), SocketAddr::new(*to, PORT), [100], SECOND).is_ok_and(|lost| lost.is_empty())
        })
    }
}

#[test]
fn addresses_that_are_missing_at_the_start_are_followed_when_they_come() {
    test("addresses_that_are_missing_at_the_start_are_followed_when_they_come", || {
        let cluster = Cluster::on_one_node();
        let _b = cluster.up(&cluster.b, "");
        let own = cluster.a.addresses().map(|address| {
            let length = if address.is_ipv4() { 14 } else { 64 };
            format!("{address}/{length}").parse().unwrap()
        });
        for missing in [&own[..1], &own[1..], &own[..]] {
            missing.iter().for_each(|net| cluster.a.delete_address(*net).unwrap());
            let a = cluster.up(&cluster.a, "");
            missing.iter().for_each(|net| cluster.a.add_address(*net).unwrap());
            let took = eventually("it speaks from them", &a, udp_echo_from(&cluster.a, &cluster));
            assert!(took < 5 * SECOND, "{took:?}: {}", a.log());
            assert!(cluster.down(&cluster.a).status.success());
        }
    });
}

#[test]
fn down_finds_a_namespace_without_a_name_by_what_list_prints() {
    test("down_finds_a_namespace_without_a_name_by_what_list_prints", || {
        let cluster = Cluster::on_one_node();
        let before = Snapshot::take(cluster.a.netns()).unwrap();
        // A link says nothing of the pod's end.
        let link = cluster.directory.join("shop-a");
        symlink(cluster.a.netns().path(), &link).unwrap();
        let a = cluster.start_named(&cluster.a, &link, "");
        a.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", a.log()));
        fs::remove_file(&link).unwrap();
        let listed = cluster.tencrypt(["list".into(), "--json".into()]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        // Others of this machine may be listed too: of tests that run beside this one.
        let mut tunnels = listed["tunnels"].as_array().unwrap().iter();
        let own = tunnels.find(|tunnel| tunnel["status"]["pid"] == a.program.id());
        let id = own.unwrap_or_else(|| panic!("{listed}"))["netns"].as_str().unwrap();
        let down = cluster.tencrypt(["down".into(), "--netns".into(), id.into()]);
        assert!(down.status.success(), "{id}: {down:?}");
        assert_ends(a);
        let changes = before.difference(&Snapshot::take(cluster.a.netns()).unwrap());
        assert!(changes.is_empty(), "the namespace is not as it was:\n{}", changes.join("\n"));
    });
}

#[test]
fn interface_and_name_that_go_at_once_are_the_end_as_each_alone() {
    test("interface_and_name_that_go_at_once_are_the_end_as_each_alone", || {
        let cluster = Cluster::on_one_node();
        let file = cluster.directory.join("shop-a");
        name(&cluster.a, &file);
        let a = cluster.start_named(&cluster.a, &file, "");
        a.program.wait_ready(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", a.log()));
        cluster.a.delete_device("eth0").unwrap();
        assert!(Command::new("umount").arg("--lazy").arg(&file).status().unwrap().success());
        fs::remove_file(&file).unwrap();
        assert_ends(a);
        assert_gone(&cluster, &cluster.a);
    });
}

#[test]
fn who_fights_for_the_rules_finds_the_pod_closed_and_told() {
    test("who_fights_for_the_rules_finds_the_pod_closed_and_told", || {
        let cluster = Cluster::on_one_node();
        let probe = cluster.probe();
        cluster.control(&probe, cluster.b.addresses());
        let (a, _b) = (cluster.up(&cluster.a, ""), cluster.up(&cluster.b, ""));
        probe.reset();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let fighter = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // There may be none at the moment.
                    let _ = cluster.a.delete_rules(TABLE);
                    thread::sleep(Duration::from_millis(5));
                }
            });
            let ended = Ending(&over);
            eventually("closed", &a, || a.status()["namespace"]["closed"] == true);
            let problem = part(&a, "rules")["problem"].as_str().unwrap_or_default().to_owned();
            assert!(problem.contains("all the time"), "{problem}");
            drop(ended);
            fighter.join().unwrap();
        });
        // The kernel says so, and nothing goes another way.
        for to in cluster.b.addresses() {
            let called = SocketAddr::new(to, support::HTTP);
            assert!(http_get(cluster.a.netns(), called, "shop", CANARY, SECOND).is_err(), "{to}");
        }
        assert_eq!(probe.report().canary, 0);
    });
}
