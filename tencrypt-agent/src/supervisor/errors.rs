//! Errors of the adapters as failures of the program.

use std::io;

use tencrypt_tun::CaptureError;

use crate::failure::{Exit, Failure};

/// Makes a failure of an I/O error; `what` is what failed.
pub(super) fn io_failure(what: &str, error: io::Error) -> Failure {
    let exit =
        if error.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Runtime };
    Failure::new(exit, format_args!("{what}: {error}"))
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        let exit = match &error {
            CaptureError::Permission { .. } => Exit::NotPermitted,
            CaptureError::SteeringRefused { .. } => {
                let reason = chain(&error);
                return Self::new(
                    Exit::NotPermitted,
                    format_args!("more than one lane: {reason}; it takes CAP_BPF, or `lanes = 1`"),
                );
            }
            _ => Exit::Runtime,
        };
        Self::new(exit, chain(&error))
    }
}

impl From<tencrypt_tun::NetNsError> for Failure {
    fn from(error: tencrypt_tun::NetNsError) -> Self {
        let exit = match &error {
            tencrypt_tun::NetNsError::Enter(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            _ => Exit::Runtime,
        };
        Self::new(exit, chain(&error))
    }
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
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
    fn lanes_that_the_kernel_refuses_to_steer_are_not_permitted_and_the_way_out_is_named() {
        let source = io::Error::from_raw_os_error(1);
        let failure = Failure::from(CaptureError::SteeringRefused { source });
        assert_eq!(failure.exit, Exit::NotPermitted);
        let line = failure.to_string();
        assert!(line.contains("more than one lane") && line.contains("`lanes = 1`"), "{line}");
        assert!(line.contains("Operation not permitted") && !line.contains('\n'), "{line}");
    }
}
