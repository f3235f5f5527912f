use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// The time in which something that happens at once has to happen.
const LIMIT: Duration = Duration::from_secs(10);

/// A child that is killed in the end.
struct Sleeper(Child);

impl Sleeper {
    fn new(program: &str, arguments: &[&str]) -> Self {
        Self(Command::new(program).args(arguments).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn the_end_of_a_process_is_seen_once_it_has_ended_and_from_then_on() {
    let mut sleeper = Sleeper::new("sleep", &["600"]);
    let process = Process::open(sleeper.0.id()).unwrap();
    let soon = tokio::time::timeout(Duration::from_millis(100), process.ended()).await;
    assert!(soon.is_err(), "it runs");
    process.kill(Signal::TERM).unwrap();
    tokio::time::timeout(LIMIT, async { tokio::join!(process.ended(), process.ended()) }).await.unwrap();
    tokio::time::timeout(LIMIT, process.ended()).await.unwrap();

    let late = Process::open(sleeper.0.id()).unwrap();
    tokio::time::timeout(LIMIT, late.ended()).await.unwrap();
    sleeper.0.wait().unwrap();
    let gone = |error: &io::Error| error.raw_os_error() == Some(Errno::SRCH.raw_os_error());
    assert!(gone(&process.kill(Signal::KILL).unwrap_err()));
    assert!(process.executable().is_err_and(|error| gone(&error) || error.kind() == io::ErrorKind::NotFound));
    assert!(gone(&Process::open(sleeper.0.id()).unwrap_err()));
}

#[tokio::test]
async fn numbers_that_are_of_no_process_are_refused() {
    for number in [0, u32::MAX, 1 << 31] {
        assert_eq!(Process::open(number).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{number}");
    }
}

#[test]
fn without_a_runtime_nothing_is_opened() {
    assert!(Process::open(std::process::id()).is_err());
}

#[tokio::test]
async fn the_executable_is_the_one_that_runs() {
    let process = Process::open(std::process::id()).unwrap();
    assert_eq!(process.executable().unwrap(), std::env::current_exe().unwrap());
}

#[tokio::test]
async fn a_namespace_is_taken_from_a_thread_or_from_a_descriptor_and_no_other_one_is() {
    let user = if rustix::process::geteuid().is_root() { "--fork" } else { "--map-root-user" };
    let sleeper = Sleeper::new("unshare", &["--net", user, "--kill-child", "sleep", "600"]);
    let own = fs::metadata("/proc/self/ns/net").unwrap();
    let (pid, file) = inner(sleeper.0.id(), own.ino());
    let there = file.metadata().unwrap();
    let is_it = |found: OwnedFd| {
        let found = File::from(found).metadata().unwrap();
        (found.dev(), found.ino()) == (there.dev(), there.ino())
    };
    let process = Process::open(pid).unwrap();
    assert!(is_it(process.netns(there.dev(), there.ino()).unwrap()), "it is in it");
    let this = Process::open(std::process::id()).unwrap();
    assert!(is_it(this.netns(there.dev(), there.ino()).unwrap()), "it has it open");
    drop(file);
    let error = this.netns(there.dev(), there.ino()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let reason = format!("has no network namespace {}-{}", there.dev(), there.ino());
    assert!(error.to_string().ends_with(&reason), "{error}");
}

#[tokio::test]
async fn a_file_of_another_kind_is_no_namespace_whatever_its_numbers_are() {
    let file = File::open("/proc/self/ns/uts").unwrap();
    let numbers = file.metadata().unwrap();
    let this = Process::open(std::process::id()).unwrap();
    let error = this.netns(numbers.dev(), numbers.ino()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

/// The process that is in another network namespace than `own`, `outer` or its child, and that namespace.
fn inner(outer: u32, own: u64) -> (u32, File) {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        for pid in children.split_whitespace().map(|pid| pid.parse().unwrap()).chain([outer]) {
            if let Ok(file) = File::open(format!("/proc/{pid}/ns/net"))
                && file.metadata().unwrap().ino() != own
            {
                return (pid, file);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("process {outer} has made no namespace");
}
