//! The plugin's end.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use super::{
    message::{LineError, REPLY_LIMIT, Reply, Request},
    server::is_permitted,
    wire::{self, Deadline, WireError},
};

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens.
    #[error("nobody listens")]
    Absent,
    /// Somebody else listens than root or the own user.
    #[error("another user listens")]
    Stranger,
    /// The request cannot be written.
    #[error("the request: {0}")]
    Request(
        /// The reason.
        LineError,
    ),
    /// The bytes do not come over.
    #[error("{0}")]
    Wire(
        /// The reason.
        #[from]
        WireError,
    ),
    /// No reply came, or not one alone.
    #[error("the answer: {0}")]
    Reply(
        /// The reason.
        LineError,
    ),
    /// It is a reply to something else.
    #[error("the answer is one to another question")]
    Unexpected,
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Absent,
            io::ErrorKind::WouldBlock => Self::Wire(WireError::Timeout),
            _ => Self::Wire(WireError::Io(error)),
        }
    }
}

/// Sends `request`, with the pod's network namespace, to the agent that listens at `socket`, and waits for its reply; all of it
/// takes at most `limit`. A reply is one that [belongs](Request::takes) to the request.
///
/// # Errors
/// See [`AskError`]. A refusal is none.
pub fn ask(
    socket: &Path,
    request: &Request,
    namespace: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<Reply, AskError> {
    let line = request.line().map_err(AskError::Request)?;
    let deadline = Deadline::after(limit);
    let stream = connected(socket, deadline)?;
    if !is_permitted(&stream)? {
        return Err(AskError::Stranger);
    }
    if wire::send(&stream, &line, namespace, deadline)? {
        // The other end may have answered and gone already.
        let _ = stream.shutdown(Shutdown::Write);
    }
    // A descriptor has no business here, and is closed.
    let (answer, _) = wire::receive(&stream, REPLY_LIMIT, deadline)?;
    let reply = Reply::parse(&answer).map_err(AskError::Reply)?;
    if request.takes(&reply) { Ok(reply) } else { Err(AskError::Unexpected) }
}

/// Connects. The time of a socket for sending counts here too: where the other end accepts nobody, it is over with EAGAIN
/// (`unix_stream_connect`, net/unix/af_unix.c).
fn connected(path: &Path, deadline: Deadline) -> Result<UnixStream, AskError> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)?;
    set_socket_timeout(socket.as_fd(), Timeout::Send, Some(deadline.left()?)).map_err(io::Error::from)?;
    let address = SocketAddrUnix::new(path).map_err(io::Error::from)?;
    loop {
        match connect(socket.as_fd(), &address).map_err(io::Error::from) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
