//! A program under test: started, watched, signalled, and gone when the test is.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{During, Error, Result};
use crate::netns::NetNs;
use crate::role::ROLE;
use crate::sys;

/// Lines kept of a program's output; the first ones, more are dropped.
const LINES: usize = 20_000;

/// A signal for a [`Program`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// Please end.
    Term,
    /// Ends at once, without a chance to tidy up.
    Kill,
    /// Stops running, and stays.
    Stop,
    /// Runs on.
    Continue,
    /// The line is gone; for many programs: read the configuration again.
    HangUp,
    /// It has gone wrong: ends, with a core dump where that is allowed.
    Abort,
    /// It has used memory that is not its own: the same.
    Fault,
}

/// A running program. Dropping it kills it; it is also killed when the thread that started it ends.
pub struct Program {
    child: Child,
    output: Arc<Output>,
    readers: usize,
}

/// Remains of a program that has ended.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "all that a program leaves behind")]
pub struct Finished {
    /// Its exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// Lines of its standard output.
    pub stdout: String,
    /// Lines of its standard error.
    pub stderr: String,
}

impl Program {
    /// Starts `program` in the namespace, or where the caller is.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        inside: Option<&NetNs>,
    ) -> Result<Self> {
        Self::start_with(program, arguments, &[], inside)
    }

    /// [`Program::start`], with `environment` besides this process's own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &OsStr)],
        inside: Option<&NetNs>,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().copied())
            .env_remove(ROLE)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match inside {
            Some(netns) => netns.prepare(&mut command)?,
            None => sys::before_exec(&mut command, sys::ChildSetup::default()),
        }
        let mut child = command.spawn().during("start a program")?;
        let output = Arc::new(Output::default());
        let mut readers = 0;
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            read_lines(stdout, Stream::Out, &output);
            read_lines(stderr, Stream::Err, &output);
            readers = 2;
        }
        Ok(Self { child, output, readers })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has written a line on standard output of which `matches` is true, and returns that line.
    ///
    /// # Errors
    /// [`Error::Ended`] if it ends without, [`Error::Timeout`] after `limit`; its output tells more.
    pub fn wait_line(&self, matches: impl Fn(&str) -> bool, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut lines = self.output.lines();
        loop {
            if let Some((_, line)) =
                lines.text.iter().find(|(stream, line)| *stream == Stream::Out && matches(line))
            {
                return Ok(line.clone());
            }
            if lines.ended == self.readers {
                return Err(Error::Ended("it wrote the line waited for"));
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return Err(Error::Timeout { what: "a line of output", limit });
            };
            lines = self.output.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for the line `ready`.
    ///
    /// # Errors
    /// As [`Program::wait_line`].
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        self.wait_line(|line| line.trim() == "ready", limit).map(drop)
    }

    /// Sends a signal; nothing happens if it has ended.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        const WHAT: &str = "send a signal";
        if self.child.try_wait().during(WHAT)?.is_some() {
            return Ok(());
        }
        let number = match signal {
            Signal::Term => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
            Signal::HangUp => libc::SIGHUP,
            Signal::Abort => libc::SIGABRT,
            Signal::Fault => libc::SIGSEGV,
        };
        sys::signal_process(self.child.id(), number).during(WHAT)
    }

    /// Tells if it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `limit`; it goes on running then.
    pub fn wait(&mut self, limit: Duration) -> Result<Finished> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().during("wait for a program")? {
                // Its children could hold its output open for ever.
                self.wait_output(Duration::from_secs(1));
                return Ok(Finished { status, stdout: self.stdout(), stderr: self.stderr() });
            }
            if Instant::now() >= end {
                return Err(Error::Timeout { what: "the end of a program", limit });
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lines that it has written on standard output so far.
    pub fn stdout(&self) -> String {
        self.output.of(Stream::Out)
    }

    /// Lines that it has written on standard error so far.
    pub fn stderr(&self) -> String {
        self.output.of(Stream::Err)
    }

    fn wait_output(&self, limit: Duration) {
        let wanted = self.readers;
        let wait =
            self.output.changed.wait_timeout_while(self.output.lines(), limit, |lines| lines.ended < wanted);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Killing what has ended is no error, and a child can always be waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `program` to its end; kills it after `limit`.
///
/// # Errors
/// It cannot be started, or [`Error::Timeout`].
pub fn run_program<A: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    inside: Option<&NetNs>,
    limit: Duration,
) -> Result<Finished> {
    Program::start(program, arguments, inside)?.wait(limit)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    text: Vec<(Stream, String)>,
    ended: usize,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, wanted: Stream) -> String {
        let lines = self.lines();
        lines
            .text
            .iter()
            .filter(|(stream, _)| *stream == wanted)
            .map(|(_, line)| format!("{line}\n"))
            .collect()
    }
}

fn read_lines(from: impl Read + Send + 'static, stream: Stream, output: &Arc<Output>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut bytes = Vec::new();
        while matches!(from.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            bytes.clear();
            let mut lines = output.lines();
            if lines.text.len() < LINES {
                lines.text.push((stream, line));
            }
            output.changed.notify_all();
        }
        output.lines().ended += 1;
        output.changed.notify_all();
    });
}
