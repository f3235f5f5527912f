//! The state of a namespace in which nobody answers: open, closed, or somebody else's.

use tencrypt_tun::{CaptureError, Captured, InterfaceName, NetNs, Survey};

use crate::{
    control::client::ClientError,
    failure::{Exit, Failure},
};

/// Looks if a capture is in `namespace`.
///
/// # Errors
/// [`CaptureError`]: it may not be entered, or not be looked at.
pub(super) fn captured(namespace: &NetNs) -> Result<Captured, CaptureError> {
    // Neither name plays a part in it.
    let any = |name: &str| name.parse::<InterfaceName>().unwrap_or_else(|_| unreachable!("a name"));
    let survey = namespace.run(|| Survey::take(any("eth0"), any("tenc0")))??;
    Ok(survey.captured)
}

/// Makes the failure of a question that had no answer, and says what is in the namespace instead.
pub(super) fn failure(namespace: &NetNs, error: ClientError) -> Failure {
    let ClientError::NotRunning { .. } = error else { return error.into() };
    if namespace.is_host() {
        return error.into();
    }
    let name = namespace.name();
    match captured(namespace) {
        Ok(Captured::Closed) => Failure::new(
            Exit::NotRunning,
            format_args!(
                "nothing runs in namespace `{name}`, and tencrypt has left it CLOSED: tenant traffic gets an error; \
                 `tencrypt up` takes over, `tencrypt down` opens it"
            ),
        ),
        Ok(Captured::Running) => Failure::new(
            Exit::NotPermitted,
            format_args!(
                "a tunnel runs in namespace `{name}` and is another user's, or has another TENCRYPT_RUN_DIR: ask with \
                 that one"
            ),
        ),
        Ok(_) => error.into(),
        Err(_) => Failure::new(
            Exit::NotPermitted,
            format_args!(
                "nothing of this user's runs in namespace `{name}`; as root you see what others run there"
            ),
        ),
    }
}
