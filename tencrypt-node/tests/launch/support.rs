//! Starts of programs through the launcher, and what the kernel says of them.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::fd::OwnedFd,
    os::unix::{fs::DirBuilderExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The time in which something that happens at once has to happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// The program under test.
pub(crate) const LAUNCHER: &str = env!("CARGO_BIN_EXE_tencrypt-node");

/// A program for the launcher: it says its number on descriptor 3 and stays.
pub(crate) const STAYS: [&str; 3] = ["/bin/sh", "-c", "echo $$ >&3; exec sleep 600"];

/// Set in the process of a test that has a machine of its own.
const INSIDE: &str = "TENCRYPT_TEST_MACHINE";

/// Runs `body` if control groups and namespaces can be made, and says it if not.
///
/// # Panics
/// They cannot, and `CI` is `true`.
pub(crate) fn test(name: &str, body: impl FnOnce()) {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let is_root = rustix::process::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"]);
    let reason = if is_root { is_closed(name) } else { Some("it takes the machine's root".to_owned()) };
    match reason {
        None => body(),
        Some(reason) => not_run(name, &reason),
    }
}

/// Runs `body` as [`test`] does, in a process that is process 1 of its `/proc`: that of the machine is no subject of a test.
///
/// # Panics
/// As [`test`]; or the body has failed.
pub(crate) fn test_as_process_1(name: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        assert_eq!(std::process::id(), 1);
        return body();
    }
    test(name, || {
        let mut inside = Command::new("unshare");
        inside.args(["--pid", "--mount", "--mount-proc", "--kill-child"]).arg(env::current_exe().unwrap());
        inside.args([name, "--exact", "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
        let output = inside.output().unwrap();
        let [said, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
    });
}

/// Says that a test or a part of it was not run.
///
/// # Panics
/// `CI` is `true`.
fn not_run(name: &str, reason: &str) {
    assert!(env::var_os("CI").is_none_or(|set| set != "true"), "{name} cannot run: {reason}");
    note_not_run(name, reason);
}

/// Says that a test was not run which needs a program that not every machine has.
pub(crate) fn note_not_run(name: &str, reason: &str) {
    // Past the test harness, which keeps what a test prints that does not fail.
    let _ = io::stderr().write_all(format!("NOT RUN: {name}: {reason}\n").as_bytes());
}

/// The reason why no control group can be made here.
fn is_closed(test: &str) -> Option<String> {
    if hierarchies().is_empty() {
        return Some("no control groups are mounted".to_owned());
    }
    let folder = Groups::new(test).base();
    let made = hierarchies().iter().find_map(|(_, root)| {
        let path = root.join(&folder);
        let made = fs::DirBuilder::new().mode(0o755).create(&path);
        let _ = fs::remove_dir(&path);
        made.err()
    });
    made.map(|error| format!("no control groups can be made: {error}"))
}

/// The hierarchies of control groups: controllers as `/proc/PID/cgroup` has them, empty for version 2, and the root.
pub(crate) fn hierarchies() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut found = Vec::new();
    for controllers in groups.lines().map(|line| line.split(':').nth(1).unwrap()) {
        let is_of_it = |line: &&str| {
            let fields: Vec<&str> = line.split(' ').collect();
            let options: BTreeSet<&str> = fields[3].split(',').collect();
            if controllers.is_empty() {
                fields[2] == "cgroup2"
            } else {
                fields[2] == "cgroup" && controllers.split(',').all(|controller| options.contains(controller))
            }
        };
        if let Some(line) = mounts.lines().find(is_of_it) {
            found.push((controllers.to_owned(), PathBuf::from(line.split(' ').nth(1).unwrap())));
        }
    }
    found
}

/// Control groups of a test, removed in the end with what is in them.
pub(crate) struct Groups(String);

impl Groups {
    pub(crate) fn new(name: &str) -> Self {
        Self(format!("tencrypt-test-{}-{name}", now()))
    }

    /// The name of the folder of all its pods.
    pub(crate) fn base(&self) -> String {
        self.0.clone()
    }

    /// The name of a pod's group.
    pub(crate) fn of(&self, pod: &str) -> String {
        format!("{}/{pod}", self.0)
    }

    /// The folders of a pod's group that there are.
    pub(crate) fn folders(&self, pod: &str) -> Vec<PathBuf> {
        let folder = |(_, root): (String, PathBuf)| root.join(self.of(pod));
        hierarchies().into_iter().map(folder).filter(|folder| folder.exists()).collect()
    }

    /// Makes a group in each hierarchy that takes processes without more, for a starter that moves into it.
    pub(crate) fn make(&self, pod: &str) -> Vec<PathBuf> {
        let roots = hierarchies().into_iter().filter(|(controllers, _)| !controllers.contains("cpuset"));
        let folders: Vec<_> = roots.map(|(_, root)| root.join(self.of(pod))).collect();
        folders.iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        folders
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for (_, root) in hierarchies() {
            let base = root.join(&self.0);
            let pods = fs::read_dir(&base).into_iter().flatten().flatten().map(|entry| entry.path());
            for folder in pods.filter(|path| path.is_dir()).chain([base.clone()]) {
                let until = Instant::now() + LIMIT;
                while folder.exists() && fs::remove_dir(&folder).is_err() && Instant::now() < until {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// A folder that is removed in the end with the files in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = env::temp_dir().join(format!("tencrypt-node-{}", now()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A number that no other test has, in whatever namespace of processes it is: the time, in nanoseconds.
fn now() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()
}

/// A start: what the launcher said, and the channel of the program.
pub(crate) struct Launched {
    pub(crate) output: Output,
    pub(crate) channel: UnixStream,
}

/// Starts something that ends as the launcher: a command line that has `launch start` and its options somewhere.
pub(crate) fn run(command: &mut Command) -> Launched {
    let (channel, other) = UnixStream::pair().unwrap();
    channel.set_read_timeout(Some(LIMIT)).unwrap();
    command.stdin(OwnedFd::from(other)).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command has the other end of the channel until it gets another one.
    command.stdin(Stdio::null());
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < LIMIT, "{command:?} does not end");
        thread::sleep(Duration::from_millis(2));
    }
    Launched { output: child.wait_with_output().unwrap(), channel }
}

/// The command line of a start with these options.
pub(crate) fn start(options: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(LAUNCHER);
    command.args(["launch", "start"]).args(options).arg("--").args(program);
    command
}

impl Launched {
    /// The line that the launcher has written.
    pub(crate) fn said(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap().trim_end().to_owned()
    }

    /// The program, if it was started and has said its number.
    ///
    /// # Panics
    /// It was not.
    pub(crate) fn running(&self) -> Running {
        assert!(self.output.status.success(), "{}", self.said());
        let mut line = String::new();
        BufReader::new(&self.channel).read_line(&mut line).unwrap();
        let running = Running::new(line.trim().parse().unwrap());
        running.seen.wait_until("sleep runs", |seen| seen.read("comm").trim() == "sleep");
        running
    }
}

/// A process that is looked at alone.
#[derive(Clone, Copy)]
pub(crate) struct Seen(pub(crate) i32);

impl Seen {
    /// The process that runs the tests.
    pub(crate) fn own() -> Self {
        Self(std::process::id().cast_signed())
    }

    fn path(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    pub(crate) fn read(self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn link(self, name: &str) -> String {
        fs::read_link(self.path(name)).unwrap().into_os_string().into_string().unwrap()
    }

    /// The fields of `stat` behind the name: state, parent, process group, session, terminal.
    pub(crate) fn stat(self) -> Vec<String> {
        let stat = self.read("stat");
        stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect()
    }

    pub(crate) fn is_alive(self) -> bool {
        self.path("stat").exists() && self.stat()[0] != "Z"
    }

    /// The numbers of what it has open.
    pub(crate) fn descriptors(self) -> BTreeSet<u32> {
        let names = fs::read_dir(self.path("fd")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap().parse().unwrap()).collect()
    }

    /// Its group in the hierarchy with these controllers, or, with an empty text, in that of version 2.
    pub(crate) fn group(self, controllers: &str) -> String {
        let text = self.read("cgroup");
        let of_it = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            (parts.next() == Some(controllers)).then(|| parts.next().unwrap().to_owned())
        };
        text.lines().find_map(of_it).unwrap()
    }

    pub(crate) fn wait_until(self, subject: &str, is_so: impl Fn(Self) -> bool) {
        let until = Instant::now() + LIMIT;
        while !is_so(self) {
            assert!(Instant::now() < until, "process {}: not so: {subject}", self.0);
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A program that the launcher has started, killed in the end.
pub(crate) struct Running {
    pub(crate) seen: Seen,
    pidfd: OwnedFd,
}

impl Running {
    pub(crate) fn new(pid: i32) -> Self {
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        Self { seen: Seen(pid), pidfd }
    }

    pub(crate) fn kill(&self) {
        // It may have ended.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
