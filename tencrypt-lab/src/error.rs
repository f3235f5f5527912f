//! Errors while a laboratory is built or used.

use std::io;
use std::time::Duration;

/// Result of a laboratory operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Failure of a laboratory operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused an operation.
    #[error("{what}: {source}")]
    Os {
        /// The operation, in words.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel does not let this user make namespaces.
    #[error(
        "cannot make user, network and mount namespaces ({0}); an ordinary user needs user namespaces: look at \
         user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
    )]
    Forbidden(io::Error),
    /// Something did not happen in time.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// The event that was waited for.
        what: &'static str,
        /// The time waited.
        limit: Duration,
    },
    /// A process ended although it was still needed.
    #[error("the process ended before {0}")]
    Ended(&'static str),
    /// Bytes that do not follow their protocol.
    #[error("{0}")]
    Malformed(&'static str),
    /// The system's resolver gave no address; its own words.
    #[error("resolver: {0}")]
    Resolver(String),
}

impl Error {
    /// The kernel's error number, if the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { source, .. } | Self::Forbidden(source) => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Names the operation an `io::Error` came from.
pub(crate) trait During<T> {
    fn during(self, what: &'static str) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &'static str) -> Result<T> {
        self.map_err(|source| Error::Os { what, source })
    }
}

/// Tells a time limit that has passed from other errors.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
