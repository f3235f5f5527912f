//! Bytes and descriptors over a connected Unix socket, with an end to all waiting.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    slice,
    time::{Duration, Instant},
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// Bytes that are received at once.
const PIECE: usize = 16 << 10;

/// The reason why bytes did not come over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The other end is not heard of in time.
    #[error("no answer in time")]
    Timeout,
    /// More comes than may.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// Most bytes.
        limit: usize,
    },
    /// More descriptors come than one.
    #[error("more than one descriptor")]
    Descriptors,
    /// The kernel's answer.
    #[error("{0}")]
    Io(
        /// It.
        #[from]
        io::Error,
    ),
}

/// The end of all waiting of one conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// Ends in `limit`, or in a day: longer than that no caller waits, and there is an end to what an `Instant` holds.
    pub(super) fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit.min(Duration::from_secs(86_400)))
    }

    /// The time that is left: never none, which sockets take for no limit.
    pub(super) fn left(self) -> Result<Duration, WireError> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(WireError::Timeout) } else { Ok(left.max(Duration::from_millis(1))) }
    }
}

/// Sends `bytes`, and `descriptor` beside the first of them. Returns false if the other end takes no more of them: it may have
/// answered.
pub(super) fn send(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    deadline: Deadline,
) -> Result<bool, WireError> {
    let mut sent = 0;
    while sent < bytes.len() {
        stream.set_write_timeout(Some(deadline.left()?))?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_ref().filter(|_| sent == 0).map_or(&[][..], slice::from_ref);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(WireError::Descriptors);
        }
        let flags = SendFlags::NOSIGNAL;
        match sendmsg(stream, &[IoSlice::new(&bytes[sent..])], &mut beside, flags).map_err(io::Error::from) {
            Ok(more) => sent += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(explained(error)),
        }
    }
    Ok(true)
}

/// Receives all that comes until the other end has no more, at most `limit` bytes and one descriptor.
pub(super) fn receive(
    stream: &UnixStream,
    limit: usize,
    deadline: Deadline,
) -> Result<(Vec<u8>, Option<OwnedFd>), WireError> {
    let mut bytes = Vec::new();
    let mut descriptor = None;
    let mut piece = vec![0; PIECE];
    loop {
        stream.set_read_timeout(Some(deadline.left()?))?;
        // Room for one more than there may be, so that it is seen.
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(stream, &mut [IoSliceMut::new(&mut piece)], &mut beside, flags)
            .map_err(io::Error::from)
        {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The other end has closed without reading all: what it has sent is all there.
            Err(error) if is_gone(&error) => return Ok((bytes, descriptor)),
            Err(error) => return Err(explained(error)),
        };
        for message in beside.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
            for more in descriptors {
                if descriptor.replace(more).is_some() {
                    return Err(WireError::Descriptors);
                }
            }
        }
        // Those for which there was no room, or for which this process has no number left.
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::Descriptors);
        }
        if received.bytes == 0 {
            return Ok((bytes, descriptor));
        }
        if bytes.len() + received.bytes > limit {
            return Err(WireError::TooLong { limit });
        }
        bytes.extend_from_slice(&piece[..received.bytes]);
    }
}

/// Tells if the kernel says that the other end has closed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// The kernel's answer when the time of a socket is over is that it would have to wait.
fn explained(error: io::Error) -> WireError {
    if error.kind() == io::ErrorKind::WouldBlock { WireError::Timeout } else { WireError::Io(error) }
}
