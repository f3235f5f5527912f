//! A client of the interceptor, and the way its query came.

/// Whoever sent a query. The caller chooses the value and gets it back with the answer; it may repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers make it")]
pub struct ClientKey(pub u64);

/// Transport of a message. A query goes to the server the way it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "callers open a socket for each")]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A message in a stream, see [`framing`](crate::framing).
    Tcp,
}
