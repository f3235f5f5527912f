//! The client: one question, one answer.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use tencrypt_tun::NetNs;

use super::{Reply, Request, TIMEOUT};
use crate::{
    failure::{Exit, Failure},
    os::rundir::{RunDir, RunDirError},
};

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error("nothing runs in namespace `{namespace}`")]
    NotRunning {
        /// As the user called it.
        namespace: String,
    },
    /// The run directory is not to be believed.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The connection failed.
    #[error("control socket: {source}")]
    Io {
        /// The kernel's answer.
        #[from]
        source: io::Error,
    },
    /// The reply does not end.
    #[error("the running tencrypt sent a part of its answer and no more")]
    CutOff,
    /// The bytes that came are no reply.
    #[error("the running tencrypt sent no answer that makes sense: another version?")]
    Garbled,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error {
            ClientError::RunDir(error) => return error.into(),
            ClientError::NotRunning { .. } => Exit::NotRunning,
            ClientError::Io { ref source } => Exit::of_io(source),
            ClientError::CutOff | ClientError::Garbled => Exit::Runtime,
        };
        Self::new(exit, error)
    }
}

/// Sends `request` to the `tencrypt up` of `namespace`.
///
/// # Errors
/// See [`ClientError`].
pub(crate) fn ask(namespace: &NetNs, request: &Request) -> Result<Reply, ClientError> {
    let not_running = || ClientError::NotRunning { namespace: namespace.name().to_owned() };
    let directory = RunDir::existing()?.ok_or_else(not_running)?;
    match ask_at(&directory.socket(namespace.id()), request) {
        Err(ClientError::NotRunning { .. }) => Err(not_running()),
        answered => answered,
    }
}

/// Sends `request` to the program that listens at `socket`.
///
/// # Errors
/// See [`ClientError`]; the namespace in it is called by the socket.
pub(crate) fn ask_at(socket: &Path, request: &Request) -> Result<Reply, ClientError> {
    match UnixStream::connect(socket) {
        Ok(stream) => exchange(stream, request),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Err(ClientError::NotRunning { namespace: socket.display().to_string() })
        }
        Err(source) => Err(source.into()),
    }
}

/// One request and its reply over a connected socket.
pub(super) fn exchange(mut stream: UnixStream, request: &Request) -> Result<Reply, ClientError> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(request).map_err(|_| ClientError::Garbled)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    receive(stream)
}

/// The reply that comes over a connected socket.
pub(super) fn receive(stream: UnixStream) -> Result<Reply, ClientError> {
    let mut answer = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s"),
        _ => error,
    })?;
    if !answer.is_empty() && !answer.ends_with(b"\n") {
        return Err(ClientError::CutOff);
    }
    serde_json::from_slice(&answer).map_err(|_| ClientError::Garbled)
}
