//! The agent's end.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use super::{
    message::{LineError, REQUEST_LIMIT, Reply, Request},
    wire::{self, Deadline, WireError},
};
use crate::{netns, sys};

/// A request as it arrived.
#[derive(Debug)]
#[non_exhaustive]
pub struct Call {
    /// The request, its names checked.
    pub request: Request,
    /// The pod's network namespace: always there for ADD and CHECK, sometimes for DEL, never otherwise. It is a network namespace;
    /// that it is not the node's own is for the agent to see.
    pub namespace: Option<OwnedFd>,
}

/// The reason why there is no request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The bytes do not come over.
    #[error("{0}")]
    Wire(
        /// The reason.
        #[from]
        WireError,
    ),
    /// The bytes that came are no request.
    #[error("the request: {0}")]
    Request(
        /// The reason.
        #[from]
        LineError,
    ),
    /// The descriptor is missing, or is no network namespace.
    #[error("the request needs the descriptor of a network namespace")]
    NoNamespace,
    /// The request has no use for a descriptor.
    #[error("the request has no use for a descriptor")]
    Descriptor,
}

/// Tells if the other end is root's or the own user's: the client's when it connected, the listener's when it began to listen.
///
/// # Errors
/// The kernel's answer.
pub fn is_permitted(stream: &UnixStream) -> io::Result<bool> {
    Ok(is_allowed(sys::peer_uid(stream.as_fd())?, rustix::process::geteuid().as_raw()))
}

fn is_allowed(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

/// Receives the one request of a connection, within `limit`. Descriptors of what is refused are closed.
///
/// # Errors
/// See [`ReceiveError`]: each is one line, which the client may be told as a [refusal](Reply::refused).
pub fn receive(stream: &UnixStream, limit: Duration) -> Result<Call, ReceiveError> {
    let (line, namespace) = wire::receive(stream, REQUEST_LIMIT, Deadline::after(limit))?;
    let request = Request::parse(&line)?;
    let is_netns = |file: &OwnedFd| netns::check(file.as_fd()).is_ok();
    match (&request, &namespace) {
        (Request::Gc { .. } | Request::Status, Some(_)) => Err(ReceiveError::Descriptor),
        (Request::Gc { .. } | Request::Status | Request::Del { .. }, None) => Ok(()),
        (_, Some(file)) if is_netns(file) => Ok(()),
        _ => Err(ReceiveError::NoNamespace),
    }?;
    Ok(Call { request, namespace })
}

/// Sends the one reply of a connection, within `limit`, and ends it.
///
/// # Errors
/// The reply is longer than [`REPLY_LIMIT`](super::REPLY_LIMIT), or the client does not take it.
pub fn respond(stream: &UnixStream, reply: &Reply, limit: Duration) -> io::Result<()> {
    let line = reply.line().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    match wire::send(stream, &line, None, Deadline::after(limit)) {
        Ok(true) => stream.shutdown(Shutdown::Write),
        Ok(false) => Err(io::ErrorKind::BrokenPipe.into()),
        Err(WireError::Io(error)) => Err(error),
        Err(error) => Err(io::Error::new(io::ErrorKind::TimedOut, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_are_permitted_and_nobody_else() {
        assert!(is_allowed(0, 1000) && is_allowed(1000, 1000) && is_allowed(0, 0));
        assert!(!is_allowed(1001, 1000) && !is_allowed(1000, 0) && !is_allowed(u32::MAX, 0));
        let (here, _there) = UnixStream::pair().unwrap();
        assert!(is_permitted(&here).unwrap());
    }
}
