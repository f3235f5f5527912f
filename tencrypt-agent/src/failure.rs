//! How the program ends.

use std::{fmt, process::ExitCode};

use crate::{
    commands::ca::AuthorityError, commands::rotate::RotateError, config::ConfigError,
    control::client::ClientError, keys::file::KeyFileError, os::escape::Escaped, os::netns::NetNsError,
    os::rundir::RunDirError,
};

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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why the program ends before its job is done.
#[derive(Debug)]
pub struct Failure {
    /// How it exits.
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

    /// One line on standard error, with nothing in it that a terminal would act upon.
    pub fn report(&self) {
        eprintln!("{self}");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tencrypt: {}", Escaped(&self.reason))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let exit = match &error {
            KeyFileError::Write { .. } | KeyFileError::Random => Exit::Runtime,
            _ => Exit::Usage,
        };
        Self::new(exit, error)
    }
}

impl From<AuthorityError> for Failure {
    fn from(error: AuthorityError) -> Self {
        let exit = match &error {
            AuthorityError::Write { .. } | AuthorityError::Random => Exit::Runtime,
            _ => Exit::Usage,
        };
        Self::new(exit, error)
    }
}

impl From<RotateError> for Failure {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::File(error) => error.into(),
            RotateError::Locked(_) => Self::new(Exit::Runtime, error),
            _ => Self::new(Exit::Usage, error),
        }
    }
}

impl From<NetNsError> for Failure {
    fn from(error: NetNsError) -> Self {
        let exit = if error.is_permission() { Exit::NotPermitted } else { Exit::Runtime };
        Self::new(exit, error)
    }
}

impl From<RunDirError> for Failure {
    fn from(error: RunDirError) -> Self {
        let exit = match &error {
            RunDirError::Held => Exit::Held,
            error if error.is_permission() => Exit::NotPermitted,
            _ => Exit::Runtime,
        };
        Self::new(exit, error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotRunning { .. } => Self::new(Exit::NotRunning, error),
            ClientError::RunDir(error) => error.into(),
            ClientError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Self::new(Exit::NotPermitted, error)
            }
            _ => Self::new(Exit::Runtime, error),
        }
    }
}
