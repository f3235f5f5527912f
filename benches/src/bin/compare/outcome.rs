//! Failures that are only reported to the user.

use std::error::Error;

/// A result whose error is a message.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;
