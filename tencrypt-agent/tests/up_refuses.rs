//! Refusals of `tencrypt up`: one line on standard error, an exit code that says what kind of trouble it is, and
//! nothing left behind.

mod support;

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use support::{CANARY, Cluster, HTTP, LIMIT, PROGRAM, PROTECTED, Probe};
use tencrypt_lab as lab;
use tencrypt_lab::{Binding, Finished, Pod, Signal, Snapshot};
use tencrypt_tun::{TunDevice, TunOptions};

/// Exit codes, as `tencrypt --help` lists them.
const RUNTIME: i32 = 1;
const USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 4;
const HELD: i32 = 5;

/// `up` in `pod` is refused with `code` for a reason that contains `reason`, and changes nothing.
fn assert_up_refused(cluster: &Cluster, pod: &Pod, extra: &str, code: i32, reason: &str) {
    let before = Before::look(cluster, pod);
    let finished = cluster.start(pod, extra).program.wait(LIMIT).unwrap();
    assert_refused(&finished, code, reason);
    before.assert_same(cluster, pod);
}

fn assert_refused(finished: &Finished, code: i32, reason: &str) {
    assert_eq!(finished.status.code(), Some(code), "{finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert!(matches!(lines[..], [line] if line.starts_with("tencrypt: ")), "not one line: {finished:?}");
    assert!(finished.stderr.contains(reason), "{:?} lacks {reason:?}", finished.stderr);
    assert_eq!(finished.stdout, "");
}

/// A pod and the run directory, before.
struct Before {
    pod: Snapshot,
    held: Vec<OsString>,
}

impl Before {
    fn look(cluster: &Cluster, pod: &Pod) -> Self {
        Self { pod: Snapshot::take(pod.netns()).unwrap(), held: held(cluster) }
    }

    fn assert_same(&self, cluster: &Cluster, pod: &Pod) {
        let changes = self.pod.difference(&Snapshot::take(pod.netns()).unwrap());
        assert!(changes.is_empty(), "left behind:\n{}", changes.join("\n"));
        // What a killed program left there may go.
        let new: Vec<_> = held(cluster).into_iter().filter(|name| !self.held.contains(name)).collect();
        assert!(new.is_empty(), "left behind in the run directory: {new:?}");
    }
}

/// Files in the run directory: none, if there is none.
fn held(cluster: &Cluster) -> Vec<OsString> {
    let Ok(entries) = fs::read_dir(cluster.directory.join("run")) else { return Vec::new() };
    let mut names: Vec<OsString> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn an_interface_that_is_not_there_is_refused() {
    lab::test("an_interface_that_is_not_there_is_refused", || {
        let cluster = Cluster::on_one_node();
        let network = format!("[network]\ninterface = \"eth7\"\nprotected = {PROTECTED}\n");
        assert_up_refused(&cluster, &cluster.a, &network, RUNTIME, "interface eth7 does not exist");
    });
}

#[test]
fn names_that_nothing_makes_the_tenants_are_refused_and_the_settings_named() {
    lab::test("names_that_nothing_makes_the_tenants_are_refused_and_the_settings_named", || {
        let cluster = Cluster::on_one_node();
        let resolv_conf = cluster.directory.join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 172.30.0.53\n").unwrap();
        let with = |project: &str| {
            let key_file = cluster.key_file.display();
            let resolv_conf = resolv_conf.display();
            format!("[tenant]\n{project}key_file = \"{key_file}\"\n[dns]\nresolv_conf = \"{resolv_conf}\"\n")
        };
        for (project, missing) in [
            ("project = \"shop\"\n", "`cluster_domain` in [tenant]"),
            ("cluster_domain = \"cluster.local\"\n", "`project` in [tenant]"),
            ("", "`project` and `cluster_domain` in [tenant]"),
        ] {
            assert_up_refused(&cluster, &cluster.a, &with(project), USAGE, missing);
            assert_up_refused(&cluster, &cluster.a, &with(project), USAGE, "`resolv_conf` of [dns]");
        }
        drop(cluster.up(&cluster.a, &with("project = \"shop\"\ncluster_domain = \"cluster.local\"\n")));
    });
}

#[test]
fn a_taken_port_is_refused_in_either_family() {
    lab::test("a_taken_port_is_refused_in_either_family", || {
        let cluster = Cluster::on_one_node();
        for address in ["0.0.0.0:8362", "[::]:8362", "10.128.0.21:8362"] {
            let holder = cluster.a.netns().run(|| UdpSocket::bind(address)).unwrap();
            assert_up_refused(&cluster, &cluster.a, "", RUNTIME, "UDP port 8362 is taken");
            drop(holder);
        }
        // The reason was the only obstacle.
        drop(cluster.up(&cluster.a, ""));
    });
}

#[test]
fn a_taken_device_name_is_refused() {
    lab::test("a_taken_device_name_is_refused", || {
        let cluster = Cluster::on_one_node();
        let device =
            cluster.a.netns().run(|| TunDevice::create(TunOptions::new("tenc0".parse().unwrap()))).unwrap();
        assert_up_refused(&cluster, &cluster.a, "", RUNTIME, "device named tenc0 exists already");
        drop(device);
        drop(cluster.up(&cluster.a, ""));
    });
}

#[test]
fn a_second_up_in_a_namespace_is_refused_and_the_first_runs_on() {
    lab::test("a_second_up_in_a_namespace_is_refused_and_the_first_runs_on", || {
        let cluster = Cluster::on_one_node();
        let first = cluster.up(&cluster.a, "");
        let _peer = cluster.up(&cluster.b, "");
        let probe = cluster.probe();
        assert_up_refused(&cluster, &cluster.a, "", HELD, "another `tencrypt up` holds this namespace");

        // One that looks for locks elsewhere finds the port or the device taken.
        let before = Before::look(&cluster, &cluster.a);
        let stranger = up_with_run_dir(&cluster, &cluster.a, &cluster.directory.join("elsewhere"));
        assert_refused(&stranger, RUNTIME, " taken");
        before.assert_same(&cluster, &cluster.a);

        cluster.say_canary(cluster.b.v4());
        assert!(first.packets("encrypted") > 0);
        probe.assert_only_encrypted();
    });
}

/// Leaves the namespace of pod `a` closed by a program that is killed, and returns a probe that sees.
fn close(cluster: &Cluster) -> Probe {
    let probe = cluster.probe();
    cluster.control(&probe, [cluster.b.v4()]);
    let mut killed = cluster.up(&cluster.a, "");
    killed.program.signal(Signal::Kill).unwrap();
    killed.program.wait(LIMIT).unwrap();
    probe
}

/// Pod `a` is refused by the kernel whatever it sends to pod `b`, and nothing was seen of it.
fn assert_closed(cluster: &Cluster, probe: &Probe) {
    let to = SocketAddr::new(cluster.b.v4(), HTTP);
    for binding in [Binding::Device, Binding::Routes] {
        lab::send_bound(cluster.a.netns(), binding, "eth0", to, CANARY.as_bytes()).unwrap_err();
    }
    let report = probe.report();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_refused_up_leaves_a_closed_namespace_closed() {
    lab::test("a_refused_up_leaves_a_closed_namespace_closed", || {
        let cluster = Cluster::on_one_node();
        let probe = close(&cluster);
        let holder = cluster.a.netns().run(|| UdpSocket::bind("0.0.0.0:8362")).unwrap();
        assert_up_refused(&cluster, &cluster.a, "", RUNTIME, "UDP port 8362 is taken");
        drop(holder);
        let device =
            cluster.a.netns().run(|| TunDevice::create(TunOptions::new("tenc0".parse().unwrap()))).unwrap();
        assert_up_refused(&cluster, &cluster.a, "", RUNTIME, "device named tenc0 exists already");
        drop(device);
        // Its own ranges would be closed instead, and the tenant's open.
        let others = "[network]\nprotected = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n";
        assert_up_refused(&cluster, &cluster.a, others, USAGE, "10.128.0.21");
        cluster.a.set_mtu(1300).unwrap();
        assert_up_refused(&cluster, &cluster.a, "", USAGE, "need an MTU of");
        cluster.a.set_mtu(cluster.mtu).unwrap();
        assert_closed(&cluster, &probe);
    });
}

#[test]
fn a_failure_after_a_take_over_leaves_the_namespace_closed() {
    lab::test("a_failure_after_a_take_over_leaves_the_namespace_closed", || {
        let cluster = Cluster::on_one_node();
        let probe = close(&cluster);
        // There is no port for the DNS proxy, which is looked for when the capture stands.
        let netns = cluster.a.netns();
        netns.set_sysctl("ipv4/ip_local_port_range", "40000 40000").unwrap();
        let holder = netns.run(|| UdpSocket::bind("[::]:40000")).unwrap();
        let resolv_conf = cluster.directory.join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 172.30.0.53\nsearch shop.svc.k8s.corp\n").unwrap();
        let dns = format!("[dns]\nresolv_conf = \"{}\"\n", resolv_conf.display());
        let finished = cluster.start(&cluster.a, &dns).program.wait(LIMIT).unwrap();
        assert_refused(&finished, RUNTIME, "DNS listener");
        drop(holder);
        netns.set_sysctl("ipv4/ip_local_port_range", "32768 60999").unwrap();
        assert_closed(&cluster, &probe);
    });
}

#[test]
fn the_own_network_namespace_is_refused() {
    lab::test("the_own_network_namespace_is_refused", || {
        let cluster = Cluster::on_one_node();
        let config = write_config(&cluster);
        // To a program started in the pod, the pod is the host.
        let before = Before::look(&cluster, &cluster.a);
        for netns in [cluster.a.netns().path().into_os_string(), "/proc/self/ns/net".into()] {
            let arguments = up_arguments(&cluster.directory.join("run"), &netns, &config);
            let env = Path::new("/usr/bin/env");
            let finished = lab::run_program(env, arguments, Some(cluster.a.netns()), LIMIT).unwrap();
            assert_refused(&finished, USAGE, "the host's own network namespace");
        }
        before.assert_same(&cluster, &cluster.a);
    });
}

#[test]
fn missing_rights_are_refused_whichever_is_missing_first() {
    lab::test("missing_rights_are_refused_whichever_is_missing_first", || {
        let cluster = Cluster::on_one_node();
        let config = write_config(&cluster);
        let before = Before::look(&cluster, &cluster.a);
        let namespace = cluster.a.netns().run(|| File::open("/proc/thread-self/ns/net")).unwrap();
        let with_rights = |rights: CapabilitySet, netns: &str| {
            let mut command = Command::new("/usr/bin/env");
            command.args(up_arguments(&cluster.directory.join("run"), &netns.into(), &config));
            command.stdin(namespace.try_clone().unwrap());
            finish(with_only(rights, command))
        };
        let path = cluster.a.netns().path().into_os_string().into_string().unwrap();

        // It may not open another process's namespace; not enter the open one; not change the one entered.
        let none = CapabilitySet::empty();
        assert_refused(&with_rights(none, &path), NOT_PERMITTED, "network namespace `");
        assert_refused(&with_rights(none, "/proc/self/fd/0"), NOT_PERMITTED, "Operation not permitted");
        let enter = CapabilitySet::SYS_ADMIN;
        assert_refused(&with_rights(enter, "/proc/self/fd/0"), NOT_PERMITTED, "Operation not permitted");
        before.assert_same(&cluster, &cluster.a);
    });
}

#[test]
fn who_may_not_look_into_a_namespace_is_told_so_and_not_that_nothing_runs_there() {
    const NAME: &str = "who_may_not_look_into_a_namespace_is_told_so_and_not_that_nothing_runs_there";
    lab::test(NAME, || {
        let cluster = Cluster::on_one_node();
        let _running = cluster.up(&cluster.a, "");
        let namespace = cluster.a.netns().run(|| File::open("/proc/thread-self/ns/net")).unwrap();
        let mut command = Command::new("/usr/bin/env");
        let run = format!("TENCRYPT_RUN_DIR={}", cluster.directory.join("elsewhere").display());
        command.args([&run, PROGRAM, "status", "--netns", "/proc/self/fd/0"]);
        command.stdin(namespace);
        let said = finish(with_only(CapabilitySet::empty(), command));
        assert_refused(&said, NOT_PERMITTED, "; as root you see what others run there");
    });
}

/// The default configuration in a file.
fn write_config(cluster: &Cluster) -> OsString {
    let path = cluster.directory.join("tencrypt.toml");
    fs::write(&path, cluster.configuration("")).unwrap();
    path.into_os_string()
}

fn up_with_run_dir(cluster: &Cluster, pod: &Pod, run: &Path) -> Finished {
    let arguments = up_arguments(run, &pod.netns().path().into_os_string(), &write_config(cluster));
    lab::run_program(Path::new("/usr/bin/env"), arguments, None, LIMIT).unwrap()
}

/// Arguments of env(1), which becomes the program.
fn up_arguments(run: &Path, netns: &OsString, config: &OsString) -> [OsString; 7] {
    let mut variable = OsString::from("TENCRYPT_RUN_DIR=");
    variable.push(run);
    let netns = netns.clone();
    [variable, PROGRAM.into(), "up".into(), "--netns".into(), netns, "--config".into(), config.clone()]
}

/// Runs `command` as the user that the test is, with `rights` for its only capabilities.
fn with_only(rights: CapabilitySet, mut command: Command) -> Output {
    let run = move || {
        support::leave_to_programs(rights);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + LIMIT;
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        // Refused long ago, or killed and found not to be.
        let _ = child.kill();
        child.wait_with_output().unwrap()
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

fn finish(output: Output) -> Finished {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_resolv_conf_that_is_no_file_is_refused_at_once() {
    lab::test("a_resolv_conf_that_is_no_file_is_refused_at_once", || {
        let cluster = Cluster::on_one_node();
        let fifo = cluster.directory.join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [fifo.as_path(), Path::new("/dev/zero"), cluster.directory.as_path()] {
            let begun = Instant::now();
            let dns = format!("[dns]\nresolv_conf = \"{}\"\n", path.display());
            assert_up_refused(&cluster, &cluster.a, &dns, USAGE, &path.display().to_string());
            // Opening a FIFO waits for whoever writes, and reading the device has no end.
            assert!(begun.elapsed() < Duration::from_secs(2), "{}: {:?}", path.display(), begun.elapsed());
        }
    });
}

#[test]
fn without_the_driver_of_tun_devices_everybody_names_the_cure() {
    lab::test("without_the_driver_of_tun_devices_everybody_names_the_cure", || {
        let cluster = Cluster::on_one_node();
        // Only this test sees it.
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none", "/dev/net"]).status().unwrap();
        assert!(mounted.success());
        assert_up_refused(&cluster, &cluster.a, "", RUNTIME, "modprobe tun");
        let config = write_config(&cluster);
        let netns = cluster.a.netns().path().into_os_string();
        for arguments in
            [vec!["check".into(), "--netns".into(), netns, "--config".into(), config], vec!["demo".into()]]
        {
            let finished = cluster.tencrypt(arguments);
            let said = format!("{}{}", finished.stdout, finished.stderr);
            assert!(!finished.status.success() && said.contains("modprobe tun"), "{finished:?}");
        }
    });
}
