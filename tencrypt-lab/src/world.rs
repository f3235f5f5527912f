//! A world: this executable once more, in namespaces of its own.
//!
//! Everything the laboratory builds lives in network namespaces below the world's, so nothing of the machine's own
//! network is touched and nothing stays behind. Root gets a network and a mount namespace; an ordinary user gets a
//! user namespace as well, in which only uid 0 is mapped (user_namespaces(7)).

use std::env;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{During, Error, Result};
use crate::role::{ROLE, ROLE_RESOLVE, ROLE_WORLD, this_program};
use crate::{link, resolve, sys};

/// Time a test may take before it is killed and has failed.
pub const TEST_LIMIT: Duration = Duration::from_secs(180);

/// Output kept of a test's world, bytes; more is counted but not shown.
const OUTPUT_KEPT: usize = 4 << 20;

/// Sent by a world when the body of its test has returned.
const BODY_DONE: &[u8; 4] = b"done";

/// The process that [`enter`] returned in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers act on both")]
pub enum Entered {
    /// In the world.
    Inside,
    /// Outside, after the world has ended with this exit code (128 + signal if a signal ended it).
    Over(i32),
}

/// Does the work of a re-executed process that is not a world, and then does not return.
///
/// [`test()`] and [`enter`] call it; a program with another way in calls it first in `main`.
pub fn init() {
    if env::var_os(ROLE).is_some_and(|role| role == ROLE_RESOLVE) {
        std::process::exit(resolve::child());
    }
}

/// Runs `body`, the whole of the test called `name` (with its module path, as libtest prints it), in a world.
///
/// # Panics
/// If the body panics, does not end within [`TEST_LIMIT`], is not found under `name`, or if no world can be made.
pub fn test(name: &str, body: impl FnOnce()) {
    test_within(name, TEST_LIMIT, body);
}

/// [`test()`] with a limit of its own.
///
/// # Panics
/// As [`test()`].
pub fn test_within(name: &str, limit: Duration, body: impl FnOnce()) {
    init();
    if inside() {
        begin().expect("the loopback device of a new namespace can be set up");
        body();
        report_done().expect("the parent process waits for the result");
        return;
    }
    let (outcome, output) = run_test_world(name, limit).unwrap_or_else(|error| panic!("{name}: {error}"));
    print!("{}", String::from_utf8_lossy(&output));
    match outcome {
        TestOutcome { timed_out: true, .. } => panic!("{name}: not done after {limit:?}, killed"),
        TestOutcome { status, done: false, .. } if status.success() => {
            panic!("{name}: no test of that name ran; is its module path missing?")
        }
        TestOutcome { status, .. } => assert!(status.success(), "{name}: failed in its world, {status}"),
    }
}

/// Runs this program again, with the same arguments, in a world; returns [`Entered::Inside`] there, and
/// [`Entered::Over`] in the caller when that world has ended.
///
/// # Errors
/// [`Error::Forbidden`] if namespaces cannot be made, [`Error::Timeout`] after `limit`: the world is killed then.
pub fn enter(limit: Duration) -> Result<Entered> {
    init();
    if inside() {
        begin()?;
        return Ok(Entered::Inside);
    }
    let mut command = this_program()?;
    command.args(env::args_os().skip(1));
    let mut world = spawn_world(command)?;
    match wait_and_sweep(&mut world, limit)? {
        Some(status) => {
            Ok(Entered::Over(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
        }
        None => Err(Error::Timeout { what: "the world", limit }),
    }
}

/// Tells if this process is a world.
pub fn inside() -> bool {
    env::var_os(ROLE).is_some_and(|role| role == ROLE_WORLD)
}

/// Puts an empty directory in memory over `directory`, for this world alone: what programs leave there, such as
/// sockets, goes with the world and is not seen outside.
///
/// # Errors
/// [`Error::Os`] if the kernel refuses to mount it, such as over a directory that does not exist.
///
/// # Panics
/// Outside of a world: it would cover the machine's own directory.
pub fn cover(directory: &Path) -> Result<()> {
    assert!(inside(), "only a world's own view may change");
    let path = CString::new(directory.as_os_str().as_bytes()).map_err(io::Error::other);
    path.and_then(|path| sys::mount_tmpfs(&path)).during("cover a directory")
}

struct TestOutcome {
    status: ExitStatus,
    done: bool,
    timed_out: bool,
}

fn run_test_world(name: &str, limit: Duration) -> Result<(TestOutcome, Vec<u8>)> {
    let (output, output_end) = io::pipe().during("make a pipe")?;
    let (mut result, result_end) = UnixStream::pair().during("make a socket pair")?;
    let mut command = this_program()?;
    command
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(result_end)))
        .stdout(Stdio::from(output_end.try_clone().during("duplicate a pipe")?))
        .stderr(Stdio::from(output_end));
    let mut world = spawn_world(command)?;
    let reader = thread::spawn(move || read_bounded(output));
    let status = wait_and_sweep(&mut world, limit)?;
    let output = reader.join().unwrap_or_default();
    let mut done = Vec::new();
    result.set_nonblocking(true).during("read the result")?;
    // Whatever is missing shows as a body that did not finish.
    let _ = result.read_to_end(&mut done);
    let outcome = match status {
        Some(status) => TestOutcome { status, done: done == BODY_DONE, timed_out: false },
        None => TestOutcome { status: ExitStatus::from_raw(libc::SIGKILL), done: false, timed_out: true },
    };
    Ok((outcome, output))
}

/// `command` is consumed: its own ends of the pipes must close for the readers to see an end.
fn spawn_world(mut command: Command) -> Result<Child> {
    command.env(ROLE, ROLE_WORLD).process_group(0);
    let setup = sys::ChildSetup { world: Some(sys::WorldMaps::of_caller()), ..Default::default() };
    sys::before_exec(&mut command, setup);
    command.spawn().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSPC | libc::EUSERS | libc::EINVAL) => {
            Error::Forbidden(error)
        }
        _ => Error::Os { what: "start this executable again", source: error },
    })
}

/// Waits for the end of `world`, then kills what is left of its process group. `None` after `limit`.
fn wait_and_sweep(world: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    let mut exited = sys::has_exited(world.id()).during("wait for the world")?;
    while !exited && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
        exited = sys::has_exited(world.id()).during("wait for the world")?;
    }
    // Before the leader is reaped: until then nobody else can have its group's id.
    sys::signal_group(world.id(), libc::SIGKILL).during("kill the world")?;
    let status = world.wait().during("wait for the world")?;
    Ok(exited.then_some(status))
}

fn begin() -> Result<()> {
    link::up("lo")
}

fn report_done() -> io::Result<()> {
    let parent = io::stdin().as_fd().try_clone_to_owned()?;
    UnixStream::from(parent).write_all(BODY_DONE)
}

fn read_bounded(mut from: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut left_out = 0;
    let mut chunk = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        let keep = length.min(OUTPUT_KEPT - kept.len());
        kept.extend_from_slice(&chunk[..keep]);
        left_out += length - keep;
    }
    if left_out > 0 {
        kept.extend_from_slice(format!("\n[{left_out} more bytes of output not shown]\n").as_bytes());
    }
    kept
}
