//! The administrator's kubectl, as a process.
//!
//! So neither a kubeconfig nor its ways to log in (certificates, tokens, programs that fetch some) nor the streams of `exec` are ours
//! to know, and nobody gives this program a right of its own.

use std::{
    ffi::OsString,
    fmt,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::command::Reach;

/// Most bytes of an answer: a page of 500 pods is some 10 MB.
const ANSWER: u64 = 256 << 20;

/// Most bytes of standard error that are kept.
const ERRORS: u64 = 16 << 10;

/// Lines of standard error that a message has, and characters of them.
const LINES: usize = 3;
const CHARACTERS: usize = 500;

/// Time between two looks at a process that has closed its output.
const LOOK: Duration = Duration::from_millis(5);

/// The container of an agent.
const CONTAINER: &str = "tencrypt-node";

/// The program in it, in its PATH.
const PROGRAM: &str = "tencrypt-node";

/// The reason why kubectl gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubectlError {
    /// It was not started.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// The program.
        program: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It says that it has failed.
    #[error("`{command}` {status}{}", Colon(.said))]
    Failed {
        /// The command.
        command: String,
        /// The way in which it ended.
        status: Ended,
        /// The first lines of its standard error.
        said: String,
    },
    /// It is not done in time.
    #[error("`{command}` was not done within {} s and was ended{}", .limit.as_secs(), Colon(.said))]
    Late {
        /// The command.
        command: String,
        /// The time.
        limit: Duration,
        /// The first lines of its standard error.
        said: String,
    },
    /// Its output cannot be read.
    #[error("`{command}`: {source}")]
    Output {
        /// The command.
        command: String,
        /// The reason.
        source: io::Error,
    },
    /// It has answered something else.
    #[error("`{command}` has answered what makes no sense: {reason}")]
    Garbled {
        /// The command.
        command: String,
        /// The fault.
        reason: String,
    },
}

/// The end of a process, in words.
#[derive(Debug)]
pub(crate) struct Ended(ExitStatus);

impl fmt::Display for Ended {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.code() {
            Some(code) => write!(to, "ended with exit code {code}"),
            None => write!(to, "ended: {}", self.0),
        }
    }
}

/// A text behind a colon, if there is one.
struct Colon<'t>(&'t str);

impl fmt::Display for Colon<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(to, ": {}", self.0) }
    }
}

/// The administrator's kubectl.
#[derive(Debug, Clone)]
pub(super) struct Kubectl {
    program: OsString,
    /// Words in front of all others.
    options: Vec<OsString>,
    agents: String,
    limit: Duration,
}

/// A command that answers line by line.
pub(super) struct Conversation {
    command: String,
    child: Child,
    input: ChildStdin,
    lines: Receiver<io::Result<String>>,
    errors: Receiver<String>,
    limit: Duration,
}

impl Kubectl {
    /// The program with what the command line says to it.
    pub(super) fn new(reach: &Reach) -> Self {
        let mut options: Vec<OsString> = Vec::new();
        if let Some(context) = &reach.context {
            options.push(format!("--context={context}").into());
        }
        if let Some(file) = &reach.kubeconfig {
            let mut option = OsString::from("--kubeconfig=");
            option.push(file);
            options.push(option);
        }
        let program = reach.kubectl.clone().into_os_string();
        Self { program, options, agents: reach.agents.clone(), limit: reach.limit() }
    }

    /// Gets what the API has at `path`.
    ///
    /// # Errors
    /// See [`KubectlError`].
    pub(super) fn get(&self, path: &str) -> Result<String, KubectlError> {
        self.output(&["get", "--raw", path].map(ToOwned::to_owned))
    }

    /// Runs the program `tencrypt-node` in the container of an agent, and returns all that it prints.
    ///
    /// # Errors
    /// See [`KubectlError`].
    pub(super) fn exec(&self, agent: &str, words: &[String]) -> Result<String, KubectlError> {
        self.output(&self.in_container(agent, &[], words))
    }

    /// Begins to run the program `tencrypt-node` in the container of an agent, and to speak with it.
    ///
    /// # Errors
    /// See [`KubectlError`].
    pub(super) fn converse(&self, agent: &str, words: &[String]) -> Result<Conversation, KubectlError> {
        let words = self.in_container(agent, &["-i"], words);
        let (command, mut child) = self.start(&words, Stdio::piped())?;
        let (lines, errors) = (each_line(child.stdout.take()), all(child.stderr.take(), ERRORS));
        let Some(input) = child.stdin.take() else {
            return Err(KubectlError::Output { command, source: io::ErrorKind::BrokenPipe.into() });
        };
        Ok(Conversation { command, child, input, lines, errors: said(errors), limit: self.limit })
    }

    fn in_container(&self, agent: &str, options: &[&str], words: &[String]) -> Vec<String> {
        let mut all = vec!["exec".to_owned()];
        all.extend(options.iter().map(|&option| option.to_owned()));
        all.extend(["-n", &self.agents, agent, "-c", CONTAINER, "--", PROGRAM].map(ToOwned::to_owned));
        all.extend_from_slice(words);
        all
    }

    fn start(&self, words: &[String], input: Stdio) -> Result<(String, Child), KubectlError> {
        let mut command = Command::new(&self.program);
        command.args(&self.options).args(words).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let all =
            self.options.iter().map(|word| word.to_string_lossy().into_owned()).chain(words.iter().cloned());
        let program = self.program.to_string_lossy().into_owned();
        let called = std::iter::once(program.clone()).chain(all).collect::<Vec<_>>().join(" ");
        let child = command.spawn().map_err(|source| KubectlError::Start { program, source })?;
        Ok((called, child))
    }

    /// Runs it to its end. What it has started itself may hold its output for longer: it is not waited for.
    fn output(&self, words: &[String]) -> Result<String, KubectlError> {
        let end = Instant::now() + self.limit;
        let (command, mut child) = self.start(words, Stdio::null())?;
        let (output, errors) = (all(child.stdout.take(), ANSWER), all(child.stderr.take(), ERRORS));
        let errors = said(errors);
        let output = output.recv_timeout(self.limit);
        let Some(status) = ended(&mut child, end).filter(|_| output.is_ok()) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(KubectlError::Late { command, limit: self.limit, said: words_of(&errors) });
        };
        if !status.success() {
            return Err(KubectlError::Failed { command, status: Ended(status), said: words_of(&errors) });
        }
        let garbled =
            |reason: &str| KubectlError::Garbled { command: command.clone(), reason: reason.to_owned() };
        let bytes = match output {
            Ok(Ok(bytes)) if bytes.len() as u64 > ANSWER => return Err(garbled("it is longer than 256 MiB")),
            Ok(Ok(bytes)) => bytes,
            Ok(Err(source)) => return Err(KubectlError::Output { command, source }),
            Err(_) => return Err(garbled("it cannot be read")),
        };
        String::from_utf8(bytes).map_err(|_| garbled("it is no text"))
    }
}

impl Conversation {
    /// Waits for its next line, for `more` than a call may take.
    ///
    /// # Errors
    /// See [`KubectlError`].
    pub(super) fn next(&mut self, more: Duration) -> Result<String, KubectlError> {
        let (command, limit) = (self.command.clone(), self.limit + more);
        let late = |errors: &Receiver<String>, command| KubectlError::Late {
            command,
            limit,
            said: words_of(errors),
        };
        match self.lines.recv_timeout(limit) {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(source)) => Err(KubectlError::Output { command, source }),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.child.kill();
                Err(late(&self.errors, command))
            }
            // It has closed its output, and so ends.
            Err(RecvTimeoutError::Disconnected) => match ended(&mut self.child, Instant::now() + limit) {
                Some(status) => {
                    Err(KubectlError::Failed { command, status: Ended(status), said: words_of(&self.errors) })
                }
                None => Err(late(&self.errors, command)),
            },
        }
    }

    /// Sends it a line. That it has gone is seen at its next one.
    pub(super) fn say(&mut self, line: &str) {
        let _ = self.input.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.input.flush());
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end, `limit` bytes and one more at most, and passes over the rest.
fn all(stream: Option<impl Read + Send + 'static>, limit: u64) -> Receiver<io::Result<Vec<u8>>> {
    let (to, read) = mpsc::channel();
    // It ends with the stream. Nobody waits for it: somebody else may hold that.
    thread::spawn(move || {
        let Some(mut stream) = stream else { return };
        let mut bytes = Vec::new();
        let done = stream.by_ref().take(limit + 1).read_to_end(&mut bytes).map(|_| bytes);
        let _ = to.send(done);
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    read
}

/// Reads a stream line by line.
fn each_line(stream: Option<impl Read + Send + 'static>) -> Receiver<io::Result<String>> {
    let (to, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in stream.into_iter().flat_map(|stream| BufReader::new(stream.take(ANSWER)).lines()) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Makes a message of what standard error has said.
fn said(errors: Receiver<io::Result<Vec<u8>>>) -> Receiver<String> {
    let (to, text) = mpsc::channel();
    thread::spawn(move || {
        if let Ok(Ok(bytes)) = errors.recv() {
            let _ = to.send(first_lines(&String::from_utf8_lossy(&bytes)));
        }
    });
    text
}

fn first_lines(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(LINES);
    lines.collect::<Vec<_>>().join("; ").chars().take(CHARACTERS).collect()
}

/// The message, where the process has ended or was ended; its children may still hold the stream.
fn words_of(errors: &Receiver<String>) -> String {
    errors.recv_timeout(Duration::from_millis(500)).unwrap_or_default()
}

/// Waits for the end of a process; none: it was not there in time.
fn ended(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => thread::sleep(LOOK),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_an_error_are_one_line() {
        assert_eq!(first_lines("\na\n  b \n\nc\nd\n"), "a; b; c");
        assert_eq!(first_lines(&"x".repeat(9_000)).len(), CHARACTERS);
        assert_eq!(first_lines(""), "");
    }
}
