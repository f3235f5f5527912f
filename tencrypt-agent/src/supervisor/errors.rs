//! Errors of the adapters as failures of the program.

use std::io;

use tencrypt::BuildError;
use tencrypt_tun::CaptureError;

use crate::failure::{Exit, Failure, chain};

/// Makes a failure of an I/O error; `what` is what failed.
pub(super) fn io_failure(what: &str, error: io::Error) -> Failure {
    Failure::new(Exit::of_io(&error), format_args!("{what}: {error}"))
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
            CaptureError::NoTunDriver { source } => {
                let cure = match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "it has to be open to this user: mode 0666, as udev makes it"
                    }
                    _ => "`modprobe tun`, or give the container the device",
                };
                return Self::new(Exit::of_io(source), format_args!("{}; {cure}", chain(&error)));
            }
            _ => Exit::Runtime,
        };
        Self::from_error(exit, &error)
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(Exit::Usage, error)
    }
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
