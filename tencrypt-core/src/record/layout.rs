//! Places in a message.

use std::ops::Range;

/// Place of the type, one of the six below.
pub(crate) const TYPE: usize = 0;

/// Type of INIT, the first handshake message.
pub(crate) const INIT: u8 = 1;
/// Type of RESP, the answer to INIT.
pub(crate) const RESP: u8 = 2;
/// Type of CONF, the third handshake message.
pub(crate) const CONF: u8 = 3;
/// Type of DATA, a record.
pub(crate) const DATA: u8 = 4;
/// Type of COOKIE, the answer to INIT or CONF under load.
pub(crate) const COOKIE: u8 = 5;
/// Type of RESET, the answer to a record of an unknown session.
pub(crate) const RESET: u8 = 6;

/// Place of the first index: the sender's of INIT, RESP and CONF, the receiver's of DATA and COOKIE, the unknown one of
/// RESET.
pub(crate) const INDEX: Range<usize> = 4..8;
/// Place of the receiver's index in RESP and CONF; four zero bytes in INIT.
pub(crate) const RECEIVER: Range<usize> = 8..12;
/// Place of the counter in DATA.
pub(super) const COUNTER: Range<usize> = 8..16;

/// Start of a datagram, and its places for code outside of this crate: a socket filter, or whoever hands datagrams on.
/// All offsets count bytes from the start of the datagram; indices are little endian (docs/wire-format.md).
///
/// ```
/// use tencrypt::record::Head;
///
/// let record = [Head::DATA, 0, 0, 0, 7, 0, 0, 0x30];
/// let head = Head::read(&record).ok_or("too short")?;
/// assert_eq!(u32::from_le_bytes(head.index), 0x3000_0007);
/// assert!(!head.is_answered_at_index());
/// # Ok::<(), &str>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// Type of the message.
    pub message_type: u8,
    /// The first index as it is spelt.
    pub index: [u8; 4],
}

impl Head {
    /// Place of the type, one of the six.
    pub const TYPE: usize = TYPE;
    /// Place of the first index: the sender's of INIT, RESP and CONF, the receiver's of DATA and COOKIE, the unknown one
    /// of RESET.
    pub const INDEX: Range<usize> = INDEX;
    /// Place of the receiver's index in RESP and CONF; four zero bytes in INIT.
    pub const RECEIVER: Range<usize> = RECEIVER;
    /// Bytes that hold the type and the first index.
    pub const LEN: usize = INDEX.end;

    /// Type of INIT, the first handshake message.
    pub const INIT: u8 = INIT;
    /// Type of RESP, the answer to INIT.
    pub const RESP: u8 = RESP;
    /// Type of CONF, the third handshake message.
    pub const CONF: u8 = CONF;
    /// Type of DATA, a record.
    pub const DATA: u8 = DATA;
    /// Type of COOKIE, the answer to INIT or CONF under load.
    pub const COOKIE: u8 = COOKIE;
    /// Type of RESET, the answer to a record of an unknown session.
    pub const RESET: u8 = RESET;

    /// Reads the start of a datagram; `None` if it is shorter. What else it holds is not looked at, and nothing of it is
    /// proven.
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let index = *datagram.get(INDEX)?.first_chunk()?;
        Some(Self { message_type: *datagram.get(TYPE)?, index })
    }

    /// Tells if the message has an answer that bears its own index as its receiver's: INIT and RESP.
    #[must_use]
    pub const fn is_answered_at_index(self) -> bool {
        matches!(self.message_type, INIT | RESP)
    }
}
