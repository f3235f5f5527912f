//! The reason why a data path was not started, as the agent hears it.

use std::{io, process::ExitStatus};

/// The reason why the launcher has not done what it was to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The launcher itself was not started, or cannot be followed.
    #[error("cannot run the launcher: {0}")]
    Run(#[from] io::Error),
    /// It says why.
    #[error("{0}")]
    Refused(
        /// Its line.
        String,
    ),
    /// It has ended without a word.
    #[error("the launcher ended early: {0}")]
    Ended(
        /// The way it ended.
        ExitStatus,
    ),
    /// It has not ended in time, and was killed. A data path may have been started.
    #[error("the launcher has not ended within {0} seconds")]
    Late(
        /// The time that it had, in seconds.
        u64,
    ),
}
