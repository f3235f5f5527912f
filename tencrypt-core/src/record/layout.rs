//! Places in a message that code outside of this crate has to look at: a socket filter, or whoever hands datagrams on.
//!
//! All offsets count bytes from the start of the datagram; indices are little endian (docs/wire-format.md).

use std::ops::Range;

/// Place of the type, one of the six below.
pub const TYPE: usize = 0;

/// Type of INIT, the first handshake message.
pub const INIT: u8 = 1;
/// Type of RESP, the answer to INIT.
pub const RESP: u8 = 2;
/// Type of CONF, the third handshake message.
pub const CONF: u8 = 3;
/// Type of DATA, a record.
pub const DATA: u8 = 4;
/// Type of COOKIE, the answer to INIT or CONF under load.
pub const COOKIE: u8 = 5;
/// Type of RESET, the answer to a record of an unknown session.
pub const RESET: u8 = 6;

/// Place of the first index: the sender's of INIT, RESP and CONF, the receiver's of DATA and COOKIE, the unknown one of
/// RESET.
pub const INDEX: Range<usize> = 4..8;
/// Place of the receiver's index in RESP and CONF; four zero bytes in INIT.
pub const RECEIVER: Range<usize> = 8..12;
/// Place of the counter in DATA.
pub(super) const COUNTER: Range<usize> = 8..16;

/// Bytes at the start of a datagram that hold its type and its first index.
pub const HEAD_LEN: usize = INDEX.end;

/// Returns the type of a message; `None` of an empty datagram. What else the datagram holds is not looked at.
#[must_use]
pub const fn message_type(datagram: &[u8]) -> Option<u8> {
    if datagram.len() > TYPE { Some(datagram[TYPE]) } else { None }
}

/// Returns the first index as it is spelt; `None` of a shorter datagram. Nothing of it is proven.
#[must_use]
pub fn index_bytes(datagram: &[u8]) -> Option<[u8; 4]> {
    datagram.get(INDEX)?.first_chunk().copied()
}

/// Tells if a message of this type has an answer that bears the message's own index as its receiver's: INIT and RESP.
#[must_use]
pub const fn is_answered_at_index(message_type: u8) -> bool {
    matches!(message_type, INIT | RESP)
}
