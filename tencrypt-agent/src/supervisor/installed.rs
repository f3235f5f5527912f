//! The capture, undone unless set-up comes to its end.

use std::thread;

use tencrypt_tun::{Capture, CapturePlan};

use crate::failure::Failure;

/// A capture that is removed when this is dropped. It stays, and the namespace closed, after a panic, and where a program
/// that died had left it closed.
pub(super) struct Installed(Option<Capture>);

impl Installed {
    /// Installs `plan`.
    ///
    /// # Errors
    /// A [`Failure`]; nothing is installed then.
    pub(super) fn new(plan: CapturePlan) -> Result<Self, Failure> {
        Ok(Self(Some(Capture::install(plan)?)))
    }

    /// Returns the capture while it may still be undone.
    pub(super) fn capture(&self) -> &Capture {
        match &self.0 {
            Some(capture) => capture,
            None => unreachable!("only `keep`, which consumes this, and `drop` take it"),
        }
    }

    /// Keeps it: set-up has come to its end.
    pub(super) fn keep(mut self) -> Capture {
        match self.0.take() {
            Some(capture) => capture,
            None => unreachable!("only this, which consumes it, and `drop` take it"),
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let Some(capture) = self.0.take() else { return };
        if capture.took_over() || thread::panicking() {
            return;
        }
        if let Err(error) = capture.remove() {
            tracing::warn!(%error, "could not undo the capture");
        }
    }
}
