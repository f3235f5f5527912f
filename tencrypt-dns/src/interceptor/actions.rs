//! Actions for the driver of an interceptor.

use std::{net::SocketAddr, sync::Arc};

use tencrypt::directory::Fact;

use super::client::{ClientKey, Transport};

/// One query sent to one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    pub(super) query: u64,
    pub(super) index: u8,
}

/// An answer that waits for its facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// A query to send: from a port that nobody can guess, through a socket connected to `to`. Everything that comes back is
/// handed to [`handle_reply`](super::Interceptor::handle_reply) until [`Event::Close`]. A socket may be shared by queries of different ids;
/// what answers none of them goes to [`handle_stray`](super::Interceptor::handle_stray).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transmit {
    /// Names the socket.
    pub attempt: AttemptId,
    /// Client that asks.
    pub client: ClientKey,
    /// Transport to send by.
    pub transport: Transport,
    /// The server.
    pub to: SocketAddr,
    /// The message, without a length.
    pub bytes: Arc<[u8]>,
}

/// Action for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Make these facts stand, then call [`facts_applied`](super::Interceptor::facts_applied): an answer waits for it.
    Facts {
        /// Names the answer.
        ticket: Ticket,
        /// At least one.
        facts: Vec<Fact>,
    },
    /// Send this message to the client. Its query has ended.
    Answer {
        /// Client that asked.
        client: ClientKey,
        /// The message, without a length.
        bytes: Arc<[u8]>,
    },
    /// Send this message of a zone transfer to the client. There may be more.
    Part {
        /// Client that asked.
        client: ClientKey,
        /// The message, without a length.
        bytes: Arc<[u8]>,
    },
    /// Nothing follows the parts of a zone transfer: the server has closed its stream or says nothing more.
    End {
        /// Client that asked.
        client: ClientKey,
    },
    /// The socket of this attempt is no longer needed.
    Close {
        /// Names the socket.
        attempt: AttemptId,
    },
}
