//! The end of the program: its exit codes, and the line that says why it ended early.

use std::{error::Error, fmt, io, process::ExitCode};

use crate::escape::Escaped;

/// Exit codes. `--help` lists them; they are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// It failed while running.
    Runtime = 1,
    /// The command line, the configuration or the key file is wrong.
    Usage = 2,
    /// Nothing runs in that namespace.
    NotRunning = 3,
    /// The right to do it is missing.
    NotPermitted = 4,
    /// Another `tencrypt up` holds the namespace.
    Held = 5,
}

impl Exit {
    /// Tells a lack of rights from other failures of a system call.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::NotPermitted } else { Self::Runtime }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An end of the program before its job is done.
///
/// Errors become failures by a `From` that stands beside the error's own type.
#[derive(Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: Exit,
    /// One line for a human.
    pub reason: String,
}

impl Failure {
    /// A failure with `exit` for `reason`.
    pub fn new(exit: Exit, reason: impl fmt::Display) -> Self {
        Self { exit, reason: reason.to_string() }
    }

    /// A run-time failure.
    pub fn runtime(reason: impl fmt::Display) -> Self {
        Self::new(Exit::Runtime, reason)
    }

    /// A failure with `exit` for an error whose own text leaves its causes out: they follow it on the same line.
    pub(crate) fn from_error(exit: Exit, error: &dyn Error) -> Self {
        Self { exit, reason: chain(error) }
    }

    /// Prints one line on standard error, with nothing in it that a terminal would act upon.
    pub fn report(&self) {
        eprintln!("{self}");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tencrypt: {}", Escaped(&self.reason))
    }
}

/// An error and its causes, outermost first, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_on_the_same_line() {
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(Exit::of_io(&denied), Exit::NotPermitted);
        let failure = Failure::from_error(Exit::of_io(&denied), &tencrypt_tun::NetNsError::Enter(denied));
        let line = failure.to_string();
        assert!(line.starts_with("tencrypt: cannot enter the namespace: Permission denied"), "{line}");
        assert!(!line.contains('\n'));
    }
}
