//! The launcher, against the kernel of this machine: where the program that it starts is, and what it has.

mod scope;
mod support;
mod systemd;
mod wire;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::OwnedFd,
    os::unix::{net::UnixStream, process::CommandExt as _},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use support::{
    Folder, Groups, LAUNCHER, LIMIT, Launched, Running, STAYS, Seen, hierarchies, note_not_run, run, start,
    test, test_as_process_1,
};

/// The option by which the launcher makes the groups, even where systemd does.
const FILES: &str = "--groups=files";

/// Hierarchies of version 1 in which a pod has a group of its own.
const OWN: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "freezer", "name=systemd"];

/// Tells if a pod has a group of its own in the hierarchy with these controllers.
fn is_own(controllers: &str) -> bool {
    controllers.is_empty() || controllers.split(',').any(|controller| OWN.contains(&controller))
}

/// Asserts that a program is in `group` wherever it has one of its own, and at the root of all other hierarchies.
fn assert_is_in(running: &Running, group: &str) {
    for (controllers, _) in hierarchies() {
        let expected = if is_own(&controllers) { format!("/{group}") } else { "/".to_owned() };
        assert_eq!(running.seen.group(&controllers), expected, "hierarchy {controllers:?}");
    }
}

/// The text of the first of these files that there is in the groups of a pod.
fn limit(groups: &Groups, pod: &str, names: &[&str]) -> String {
    let folders = groups.folders(pod);
    let files = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    let text = files.map(fs::read_to_string).find_map(Result::ok);
    text.unwrap_or_else(|| panic!("none of {names:?} in {folders:?}")).trim().to_owned()
}

#[test]
fn an_ordinary_start_gives_the_program_its_channel_and_nothing_else() {
    let folder = Folder::new();
    let errors = folder.path().join("errors");
    let file = File::create(&errors).unwrap();
    let (mut channel, other) = UnixStream::pair().unwrap();
    let mut command = start(&["--here"], &["/bin/sh", "-c", "echo $$ >&3; echo said >&2; exec cat <&3 >&3"]);
    command.env("TENCRYPT_LOG", "debug").env("SECRET", "1").env("TENCRYPT_OTHER", "1");
    command.stdin(OwnedFd::from(other)).stdout(file);
    let launcher = command.stderr(Stdio::piped()).spawn().unwrap();
    command.stdin(Stdio::null());
    let launcher_pid = launcher.id();
    let output = launcher.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    let mut lines = BufReader::new(channel.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let running = Running::new(line.trim().parse().unwrap());
    channel.write_all(b"both ways\n").unwrap();
    line.clear();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "both ways\n");
    assert_eq!(running.seen.descriptors(), BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(running.seen.link("fd/2"), errors.to_str().unwrap());
    assert_eq!(fs::read_to_string(&errors).unwrap(), "said\n");
    assert_eq!(running.seen.link("cwd"), "/");
    let environment = running.seen.read("environ");
    let mut variables: Vec<&str> = environment.split('\0').filter(|variable| !variable.is_empty()).collect();
    variables.retain(|variable| !variable.starts_with("PWD=") && !variable.starts_with("_="));
    variables.sort_unstable();
    assert_eq!(
        variables,
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TENCRYPT_LOG=debug"]
    );
    assert_ne!(running.seen.stat()[1], launcher_pid.to_string());
    channel.shutdown(std::net::Shutdown::Write).unwrap();
    line.clear();
    assert_eq!(lines.read_to_string(&mut line).unwrap(), 0, "the program ends with its channel");
}

#[test]
fn a_program_has_a_session_without_a_terminal_and_the_streams_of_nobody() {
    // Descriptors 5 and 9 are not closed when a program is executed: as a container's runtime may leave some.
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        "exec 5</dev/zero 9</dev/zero; exec \"$@\"",
        "sh",
        LAUNCHER,
        "launch",
        "start",
        "--here",
    ]);
    let running = run(command.arg("--").args(STAYS)).running();
    assert_eq!(running.seen.descriptors(), BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(
        (running.seen.link("fd/0"), running.seen.link("fd/1")),
        ("/dev/null".into(), "/dev/null".into())
    );
    assert!(running.seen.link("fd/3").starts_with("socket:"));
    let stat = running.seen.stat();
    let (group, session, terminal) = (&stat[2], &stat[3], &stat[4]);
    let own = Seen::own().stat();
    assert_eq!(group, &running.seen.0.to_string());
    assert_ne!(session, &own[3], "a session that is not the starter's");
    assert_ne!(session, group, "a session that it does not lead");
    assert!(!std::path::Path::new("/proc").join(session).exists(), "a session whose leader has gone");
    assert_eq!(terminal, "0");
}

#[test]
fn a_program_lives_on_when_its_starter_is_killed_and_has_another_parent() {
    let (channel, other) = UnixStream::pair().unwrap();
    channel.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        "\"$@\" <&0; exec sleep 600 </dev/null",
        "sh",
        LAUNCHER,
        "launch",
        "start",
        "--here",
    ]);
    command.arg("--").args(STAYS).stdin(OwnedFd::from(other)).stdout(Stdio::null()).process_group(0);
    let mut starter = command.spawn().unwrap();
    command.stdin(Stdio::null());
    let mut line = String::new();
    BufReader::new(&channel).read_line(&mut line).unwrap();
    let running = Running::new(line.trim().parse().unwrap());
    let ancestors = ancestors();
    Seen(starter.id().cast_signed()).wait_until("it sleeps", |seen| seen.read("comm").trim() == "sleep");
    starter.kill().unwrap();
    starter.wait().unwrap();
    thread::sleep(Duration::from_millis(200));
    assert!(running.seen.is_alive());
    let parent: i32 = running.seen.stat()[1].parse().unwrap();
    // Process 1, or whoever above this test takes over what is left (PR_SET_CHILD_SUBREAPER).
    assert!(ancestors.contains(&parent), "{parent} is none of {ancestors:?}");
    assert_ne!(parent, std::process::id().cast_signed());
}

#[test]
fn a_program_is_in_the_groups_of_its_pod_with_their_limits_until_they_are_removed() {
    test("a_program_is_in_the_groups_of_its_pod_with_their_limits_until_they_are_removed", || {
        let groups = Groups::new("limits");
        let group = format!("--group={}", groups.of("4-17"));
        let options = ["--here", FILES, &group, "--memory=67108864", "--cpu=500", "--pids=32"];
        let launched = run(&mut start(&options, &STAYS));
        let running = launched.running();
        assert_is_in(&running, &groups.of("4-17"));
        let said = launched.said();
        for folder in groups.folders("4-17") {
            assert!(said.contains(folder.to_str().unwrap()), "{said}");
        }
        assert!(said.starts_with("control groups: ") && said.contains("memory in "), "{said}");
        assert_eq!(limit(&groups, "4-17", &["memory.limit_in_bytes", "memory.max"]), "67108864");
        assert_eq!(limit(&groups, "4-17", &["pids.max"]), "32");
        let quota = limit(&groups, "4-17", &["cpu.cfs_quota_us", "cpu.max"]);
        assert!(quota == "50000" || quota == "50000 100000", "{quota}");

        // A second one of the same pod, as when a data path is replaced.
        let second = run(&mut start(&["--here", FILES, &group], &STAYS)).running();
        assert_is_in(&second, &groups.of("4-17"));
        assert_eq!(limit(&groups, "4-17", &["pids.max"]), "32");
        second.kill();

        let name = groups.of("4-17");
        let forget =
            || Command::new(LAUNCHER).args(["launch", "forget", "--here", FILES, &name]).output().unwrap();
        let busy = forget();
        assert!(!busy.status.success());
        let said = String::from_utf8(busy.stderr).unwrap();
        assert!(said.starts_with("cannot remove ") && said.contains("busy"), "{said}");
        let forgotten = thread::scope(|scope| {
            let forgotten = scope.spawn(forget);
            thread::sleep(Duration::from_millis(300));
            running.kill();
            forgotten.join().unwrap()
        });
        assert!(forgotten.status.success(), "{forgotten:?}");
        assert_eq!(groups.folders("4-17"), [] as [std::path::PathBuf; 0]);
        assert!(forget().status.success(), "what is not there is fine");
    });
}

#[test]
fn a_program_is_rated_as_a_critical_pod_if_that_is_allowed() {
    let running = run(&mut start(&["--here"], &STAYS)).running();
    let value = running.seen.read("oom_score_adj");
    let own = rustix::thread::capabilities(None).unwrap().effective;
    if own.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        assert_eq!(value.trim(), "-997");
    } else {
        assert_eq!(value, Seen::own().read("oom_score_adj"), "it is started as it is");
        note_not_run("a_program_is_rated_as_a_critical_pod_if_that_is_allowed", "it takes CAP_SYS_RESOURCE");
    }
}

#[test]
fn a_start_that_fails_leaves_no_groups_and_says_why() {
    test("a_start_that_fails_leaves_no_groups_and_says_why", || {
        let groups = Groups::new("failure");
        let group = format!("--group={}", groups.of("a"));
        let said = |options: &[&str], program: &[&str]| {
            let Launched { output, .. } = run(&mut start(options, program));
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8(output.stderr).unwrap()
        };
        let missing = said(&["--here", FILES, &group], &["/nonexistent/tencrypt"]);
        assert_eq!(missing, "cannot start /nonexistent/tencrypt: No such file or directory (os error 2)\n");
        assert!(groups.folders("").is_empty(), "{:?}", groups.folders(""));
        // More than the kernel counts (PIDS_MAX, kernel/cgroup/pids.c).
        let refused = said(&["--here", FILES, &group, "--memory=67108864", "--pids=4294967295"], &STAYS);
        assert!(refused.starts_with("cannot write \"4294967295\" to /"), "{refused}");
        assert!(groups.folders("").is_empty(), "{:?}", groups.folders(""));
    });
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let said = |command: &mut Command| {
        let output = command.stdout(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let relative = said(&mut start(&["--here"], &["tencrypt"]));
    assert_eq!(relative, "the program is no absolute path: tencrypt\n");
    let file = said(start(&["--here"], &STAYS).stdin(File::open("/dev/null").unwrap()));
    assert_eq!(file, "standard input is no socket: it has to be the program's channel\n");
}

#[test]
fn a_program_is_in_the_namespaces_of_process_1_and_in_no_group_of_its_starter() {
    test_as_process_1("a_program_is_in_the_namespaces_of_process_1_and_in_no_group_of_its_starter", || {
        let groups = Groups::new("container");
        let node = Folder::new();
        let program = node.path().join("program");
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
        let starters = groups.make("starter");
        let enter = starters.iter().map(|folder| format!("echo 0 > {}/cgroup.procs; ", folder.display()));
        let enter = enter.collect::<String>() + "exec \"$@\"";
        let group = format!("--group={}", groups.of("pod"));
        // As a container: with groups as it sees them, a name of its own, and mounts that cover the node's program.
        let cover = format!("mount -t tmpfs none {} && hostname container && \"$@\"", node.path().display());
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c", &enter, "sh", "unshare", "-m", "-C", "-u", "-i", "-n", "/bin/sh", "-c", &cover, "sh",
        ]);
        command.args([LAUNCHER, "launch", "start", FILES, &group, "--pids=32", "--"]);
        let running = run(command.args([program.to_str().unwrap(), "-c", STAYS[2]])).running();
        let first = Seen(1);
        for kind in ["mnt", "cgroup", "ipc", "uts", "net", "pid", "user"] {
            let name = format!("ns/{kind}");
            assert_eq!(running.seen.link(&name), first.link(&name), "{kind}");
        }
        assert_is_in(&running, &groups.of("pod"));
        for folder in &starters {
            assert_eq!(fs::read_to_string(folder.join("cgroup.procs")).unwrap(), "", "{}", folder.display());
        }
        assert_eq!(limit(&groups, "pod", &["pids.max"]), "32");
        // The groups are removed from there too.
        running.kill();
        let name = groups.of("pod");
        let forget = ["unshare", "-m", "-C", LAUNCHER, "launch", "forget", FILES, &name];
        let forgotten = Command::new(forget[0]).args(&forget[1..]).output().unwrap();
        assert!(forgotten.status.success(), "{forgotten:?}");
        assert!(groups.folders("pod").is_empty());
    });
}

#[test]
fn a_container_with_processes_of_its_own_is_refused_for_its_end_would_be_the_programs() {
    test_as_process_1(
        "a_container_with_processes_of_its_own_is_refused_for_its_end_would_be_the_programs",
        || {
            let mut command = Command::new("unshare");
            command.args(["-m", "-p", "-f", LAUNCHER, "launch", "start", "--"]).args(STAYS);
            let launched = run(&mut command);
            assert_eq!(launched.output.status.code(), Some(1));
            assert!(launched.said().ends_with("the container needs hostPID"), "{}", launched.said());
        },
    );
}

#[test]
fn with_here_a_program_stays_in_the_namespaces_of_its_starter() {
    test_as_process_1("with_here_a_program_stays_in_the_namespaces_of_its_starter", || {
        let mut command = Command::new("unshare");
        command.args(["-m", "-u", LAUNCHER, "launch", "start", "--here", "--"]);
        let running = run(command.args(STAYS)).running();
        let first = Seen(1);
        for (kind, is_same) in [("mnt", false), ("uts", false), ("net", true), ("pid", true)] {
            let name = format!("ns/{kind}");
            assert_eq!(running.seen.link(&name) == first.link(&name), is_same, "{kind}");
        }
    });
}

#[test]
fn a_right_that_is_missing_is_named() {
    test_as_process_1("a_right_that_is_missing_is_named", || {
        for (right, name) in [
            ("-sys_admin", "CAP_SYS_ADMIN"),
            ("-sys_chroot", "CAP_SYS_CHROOT"),
            ("-sys_ptrace", "CAP_SYS_PTRACE"),
        ] {
            let mut command = Command::new("unshare");
            let inheritable = format!("--inh-caps={right}");
            let bounding = format!("--bounding-set={right}");
            command
                .args(["-m", "setpriv", &inheritable, &bounding, LAUNCHER, "launch", "start", "--"])
                .args(STAYS);
            let launched = run(&mut command);
            let said = launched.said();
            assert_eq!(launched.output.status.code(), Some(1), "{said}");
            assert!(said.contains("/proc/1/ns/") && said.ends_with(&format!("; missing: {name}")), "{said}");
        }
    });
}

/// The processes above this one.
fn ancestors() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut pid = std::process::id().cast_signed();
    while pid > 1 {
        pid = Seen(pid).stat()[1].parse().unwrap();
        found.insert(pid);
    }
    found
}
