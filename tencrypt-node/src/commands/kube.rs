//! `tencrypt-node kube`: the cluster, from an administrator's machine.

use std::process::ExitCode;

use tencrypt_agent::failure::{Exit, Failure};

use crate::{
    kube::{self, Arguments, Task},
    output,
};

/// Exit code where something was found out, and it is not good.
const NOT_SO: u8 = 6;

/// Does the task, and returns its report with the exit code.
///
/// # Errors
/// A [`Failure`]: it could not be found out.
pub(super) fn report(arguments: &Arguments) -> Result<(String, ExitCode), Failure> {
    let (text, is_so) = match &arguments.task {
        Task::Status { json } => {
            let report = kube::status(&arguments.reach)?;
            (output::cluster(&report, *json), report.protected)
        }
        Task::Verify(verify) => {
            let report = kube::verify(&arguments.reach, verify)?;
            (output::verification(&report, verify.json), report.encrypted)
        }
    };
    Ok((text, if is_so { Exit::Success.into() } else { NOT_SO.into() }))
}
