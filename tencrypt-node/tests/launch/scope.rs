//! The launcher where systemd makes the control groups: the calls that it makes, and what it does with every answer. systemd is a
//! stand-in, strict in what it takes; the bus is one too but for the last test.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    support::{Folder, Groups, LAUNCHER, STAYS, hierarchies, note_not_run, run, start, test},
    systemd::{Systemd, Twist, is_systemds},
    wire::Value,
};

/// A socket at which nobody listens.
const NOBODY: &str = "/nonexistent/socket";

/// The options of a start or an end by these sockets.
fn options(system_bus: &Path, systemd: &Path) -> [String; 4] {
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    ["--here".into(), "--groups=scope".into(), option("system-bus", system_bus), option("systemd", systemd)]
}

/// A start in a pod's scope by a bus.
fn start_in(bus: &Path, group: &str, limits: &[&str], program: &[&str]) -> Command {
    let options = options(bus, Path::new(NOBODY));
    let group = format!("--group={group}");
    let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
    words.push(&group);
    words.extend(limits);
    start(&words, program)
}

fn forget(bus: &Path, group: &str) -> Output {
    let options = options(bus, Path::new(NOBODY));
    Command::new(LAUNCHER).args(["launch", "forget"]).args(options).arg(group).output().unwrap()
}

/// The scope and slice of a pod.
fn units(groups: &Groups, pod: &str) -> (String, String) {
    let base = groups.base().replace('-', "\\x2d");
    (format!("{base}-{pod}.scope"), format!("{base}.slice"))
}

/// The line of a start that fails by a stand-in with this twist.
fn failure(twist: Twist) -> String {
    let systemd = Systemd::on_a_bus(twist);
    let launched = run(&mut start_in(&systemd.socket(), "tencrypt-test/pod", &[], &["/bin/true"]));
    let said = String::from_utf8(launched.output.stderr).unwrap();
    assert_eq!(launched.output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said.trim_end().replace(systemd.socket().to_str().unwrap(), "SOCKET")
}

const SCOPE: &str = "tencrypt\\x2dtest-pod.scope";

/// Starts a pod's data path and another one, and ends both, by the bus at `bus` on which `systemd` is.
fn whole_life(systemd: &Systemd, bus: &Path, groups: &Groups) {
    let (group, (scope, slice)) = (groups.of("4-17"), units(groups, "4-17"));
    let limits = ["--memory=67108864", "--cpu=505", "--pids=32"];
    let launched = run(&mut start_in(bus, &group, &limits, &STAYS));
    let first = launched.running();
    assert_eq!(launched.said(), format!("control groups: {slice}/{scope} (systemd)"));
    let is_in_scope = |running: &super::support::Running| {
        for (controllers, _) in hierarchies() {
            let expected =
                if is_systemds(&controllers) { format!("/{slice}/{scope}") } else { "/".to_owned() };
            assert_eq!(running.seen.group(&controllers), expected, "hierarchy {controllers:?}");
        }
    };
    is_in_scope(&first);
    assert_eq!(first.seen.descriptors(), std::collections::BTreeSet::from([0, 1, 2, 3]));
    let text = |text: &str| Value::text(text);
    let expected = [
        ("CPUQuotaPerSecUSec", Value::U64(510_000)),
        ("CollectMode", text("inactive-or-failed")),
        ("DefaultDependencies", Value::Bool(false)),
        ("Delegate", Value::Bool(true)),
        ("Description", text("tencrypt: data path of 4-17")),
        ("MemoryMax", Value::U64(64 << 20)),
        ("MemorySwapMax", Value::U64(0)),
        ("PIDs", Value::Array(vec![Value::U32(0)])),
        ("Slice", text(&slice)),
        ("TasksMax", Value::U64(32)),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(systemd.properties(&scope).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(systemd.properties(&slice)["DefaultDependencies"], Value::Bool(false));

    // A second one of the same pod, as when a data path is replaced.
    let second = run(&mut start_in(bus, &group, &["--pids=33"], &STAYS)).running();
    is_in_scope(&second);
    assert_eq!(systemd.properties(&scope)["TasksMax"], Value::U64(33));
    first.kill();
    let busy = forget(bus, &group);
    let said = String::from_utf8(busy.stderr).unwrap();
    assert_eq!((busy.status.code(), said), (Some(1), format!("{scope}: still there: a process is in it\n")));
    let forgotten = thread::scope(|scope| {
        let forgotten = scope.spawn(|| forget(bus, &group));
        thread::sleep(Duration::from_millis(300));
        second.kill();
        forgotten.join().unwrap()
    });
    assert!(forgotten.status.success(), "{forgotten:?}");
    assert!(forget(bus, &group).status.success(), "what is not there is fine");
    let heard = systemd.heard();
    let begin = [
        format!("StartTransientUnit {slice}"),
        format!("StartTransientUnit {scope}"),
        format!("StartTransientUnit {slice}"),
        format!("StartTransientUnit {scope}"),
        format!("SetUnitProperties {scope}"),
        format!("AttachProcessesToUnit {scope}"),
    ];
    assert_eq!(heard[..6], begin);
    assert!(heard[6..].iter().all(|call| *call == format!("GetUnitProcesses {scope}")), "{heard:?}");
}

#[test]
fn a_pod_has_a_scope_with_its_limits_which_goes_with_its_last_process() {
    test("scope::a_pod_has_a_scope_with_its_limits_which_goes_with_its_last_process", || {
        let systemd = Systemd::on_a_bus(Twist::None);
        whole_life(&systemd, &systemd.socket(), &Groups::new("scope"));
    });
}

#[test]
fn a_program_is_in_no_group_of_its_starter() {
    test("scope::a_program_is_in_no_group_of_its_starter", || {
        let (systemd, groups) = (Systemd::on_a_bus(Twist::Early), Groups::new("starter"));
        let starters = groups.make("starter");
        let enter = starters.iter().map(|folder| format!("echo 0 > {}/cgroup.procs; ", folder.display()));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &(enter.collect::<String>() + "exec \"$@\""), "sh"]);
        let inner = start_in(&systemd.socket(), &groups.of("pod"), &[], &STAYS);
        command.arg(inner.get_program()).args(inner.get_args());
        let _running = run(&mut command).running();
        for folder in &starters {
            assert_eq!(fs::read_to_string(folder.join("cgroup.procs")).unwrap(), "", "{}", folder.display());
        }
    });
}

#[test]
fn without_a_bus_systemd_is_asked_at_its_own_socket() {
    test("scope::without_a_bus_systemd_is_asked_at_its_own_socket", || {
        let (systemd, groups) = (Systemd::alone(Twist::None), Groups::new("alone"));
        let options = options(Path::new(NOBODY), &systemd.socket());
        let group = format!("--group={}", groups.of("pod"));
        let mut words: Vec<&str> = options.iter().map(String::as_str).collect();
        words.push(&group);
        let running = run(&mut start(&words, &STAYS)).running();
        let (scope, slice) = units(&groups, "pod");
        let all = hierarchies();
        let (controllers, _) = all.iter().find(|(controllers, _)| is_systemds(controllers)).unwrap();
        assert_eq!(running.seen.group(controllers), format!("/{slice}/{scope}"));
    });
}

#[test]
fn with_nobody_at_either_socket_the_bus_is_named() {
    let nobody = Path::new(NOBODY);
    let launched = run(&mut start_in(nobody, "tencrypt-test/pod", &[], &["/bin/true"]));
    assert_eq!(launched.output.status.code(), Some(1));
    assert_eq!(launched.said(), format!("{SCOPE}: {NOBODY}: No such file or directory (os error 2)"));
    let forgotten = forget(nobody, "tencrypt-test/pod");
    assert_eq!(forgotten.status.code(), Some(1));
}

#[test]
fn a_limit_that_has_no_effect_is_a_failure_and_nothing_is_left_over() {
    test("scope::a_limit_that_has_no_effect_is_a_failure_and_nothing_is_left_over", || {
        let (systemd, groups) = (Systemd::on_a_bus(Twist::Unlimited), Groups::new("unlimited"));
        let group = groups.of("pod");
        let launched = run(&mut start_in(&systemd.socket(), &group, &["--pids=32"], &["/bin/true"]));
        assert_eq!(launched.output.status.code(), Some(1));
        let said = launched.said();
        assert!(said.ends_with("pids.max: the limit was not set: \"max\" in place of \"32\""), "{said}");
        assert!(forget(&systemd.socket(), &group).status.success());
        let missing = run(&mut start_in(&systemd.socket(), &group, &[], &["/nonexistent/tencrypt"]));
        assert!(missing.said().starts_with("cannot start /nonexistent/tencrypt: "), "{}", missing.said());
        assert!(forget(&systemd.socket(), &group).status.success());
    });
}

#[test]
fn a_scope_without_processes_that_stays_is_stopped() {
    test("scope::a_scope_without_processes_that_stays_is_stopped", || {
        let (systemd, groups) = (Systemd::on_a_bus(Twist::KeepsEmpty), Groups::new("stays"));
        let group = groups.of("pod");
        run(&mut start_in(&systemd.socket(), &group, &[], &STAYS)).running().kill();
        let forgotten = forget(&systemd.socket(), &group);
        assert!(forgotten.status.success(), "{forgotten:?}");
        let heard = systemd.heard();
        assert!(heard.iter().any(|call| call.starts_with("StopUnit ")), "{heard:?}");
    });
}

#[test]
fn what_systemd_refuses_is_said_in_its_words() {
    let denied = "org.freedesktop.DBus.Error.AccessDenied";
    for (member, name) in
        [("StartTransientUnit", denied), ("StartTransientUnit", "org.freedesktop.DBus.Error.ServiceUnknown")]
    {
        let expected = format!("{SCOPE}: {member}: {name}: not for you?at all");
        assert_eq!(failure(Twist::Error(member, name)), expected);
    }
    // It is there whenever it is to be made, and not when it is to be entered.
    let said = failure(Twist::Error("StartTransientUnit", "org.freedesktop.systemd1.UnitExists"));
    let expected = "AttachProcessesToUnit: org.freedesktop.systemd1.NoSuchUnit: Unit not loaded.";
    assert_eq!(said, format!("{SCOPE}: {expected}"));
}

#[test]
fn a_job_that_fails_and_one_that_moves_nothing_are_failures() {
    for result in ["failed", "canceled", "timeout", ""] {
        let expected = format!("{SCOPE}: systemd has not started it: {result}");
        assert_eq!(failure(Twist::Result(result)), expected.trim_end());
    }
    assert_eq!(failure(Twist::Elsewhere), format!("{SCOPE}: systemd has not moved this process into it"));
}

#[test]
fn silence_has_an_end() {
    let silent = |twist, step: &str| {
        let begun = Instant::now();
        assert_eq!(failure(twist), format!("{SCOPE}: SOCKET: no answer in time: {step}"), "{twist:?}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(6), "{took:?}");
    };
    thread::scope(|scope| {
        for (twist, step) in [
            (Twist::Auth(b""), "AUTH"),
            (Twist::Bytes("Hello", b""), "Hello"),
            (Twist::Bytes("StartTransientUnit", b""), "StartTransientUnit"),
            // The beginning of a message alone.
            (Twist::Bytes("AddMatch", b"l\x02\x01\x01\x08\0"), "AddMatch"),
        ] {
            scope.spawn(move || silent(twist, step));
        }
    });
}

#[test]
fn what_is_no_dbus_is_refused_in_one_line() {
    let long = [b'x'; 600];
    let huge = b"l\x02\x01\x01\0\0\0\x08\x01\0\0\0\0\0\0\0";
    for (twist, reason) in [
        (Twist::Auth(b"REJECTED EXTERNAL\r\n"), "not authenticated: REJECTED EXTERNAL"),
        (Twist::Auth(b"OKAY\r\n"), "not authenticated: OKAY"),
        (
            Twist::Auth(long.to_vec().leak()),
            "a message that makes no sense: a line of the authentication that does not end",
        ),
        (
            Twist::Bytes("Hello", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "a message that makes no sense: endianness",
        ),
        (Twist::Bytes("Hello", huge), "a message that makes no sense: its length"),
        (
            Twist::Bytes("StartTransientUnit", b"l\0\x01\x01\0\0\0\0\x01\0\0\0\0\0\0\0"),
            "a message that makes no sense: type",
        ),
        (Twist::Close("Hello"), "unexpected end of file"),
        (Twist::Close("StartTransientUnit"), "unexpected end of file"),
    ] {
        assert_eq!(failure(twist), format!("{SCOPE}: SOCKET: {reason}"), "{twist:?}");
    }
}

/// dbus-daemon, ended when it is dropped.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_bus_takes_what_is_said_and_is_understood() {
    let name = "scope::a_real_bus_takes_what_is_said_and_is_understood";
    test(name, || {
        let folder = Folder::new();
        let (socket, file) = (folder.path().join("bus"), folder.path().join("bus.conf"));
        // Nobody has rights on a bus but those that it is told: here everybody has all.
        let policy = "<allow own='*'/><allow send_destination='*'/><allow receive_sender='*'/><allow eavesdrop='true'/>";
        let text = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context='default'>{policy}</policy></busconfig>",
            socket.display()
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .arg(format!("--config-file={}", file.display()));
        command.stdout(Stdio::piped());
        let mut daemon = match command.spawn() {
            Ok(child) => Daemon(child),
            Err(error) => return note_not_run(name, &format!("dbus-daemon: {error}")),
        };
        let mut address = String::new();
        BufReader::new(daemon.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:path="), "{address}");
        let systemd = Systemd::client_of(&socket);
        whole_life(&systemd, &socket, &Groups::new("real"));
    });
}
