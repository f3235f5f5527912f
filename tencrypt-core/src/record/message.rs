//! Messages, read as far as that needs no key.

use super::{
    CipherSuite, Cookie, Reset, SessionIndex,
    constants::{
        CONF_LEN, CONF_NOISE_LEN, DATA_HEADER_LEN, DATA_OVERHEAD, HANDSHAKE_HEADER_LEN, IDENTITY_LEN,
        KNOWN_FLAGS, MAC_LEN, VERSION,
    },
    cookie,
    layout::{CONF, COOKIE, DATA, INIT, RESET, RESP},
    reset,
};
use crate::stats::DropReason;

/// Message that a datagram claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every message of this version is handled")]
pub enum Message<'a> {
    /// The first handshake message.
    Init(Init<'a>),
    /// The answer to INIT.
    Resp(Resp<'a>),
    /// The third handshake message.
    Conf(Conf<'a>),
    /// A record.
    Data(Data),
    /// The answer to INIT or CONF under load.
    Cookie(Cookie<'a>),
    /// The answer to a record of an unknown session.
    Reset(Reset),
}

/// INIT: header and Noise message 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Init<'a> {
    /// The suite its sender speaks.
    pub suite: CipherSuite,
    /// The epoch of the tenant key.
    pub epoch: u8,
    /// The index its sender gave to the session.
    pub sender: SessionIndex,
    /// The Noise message: ephemeral key, payload and its tag.
    pub noise: &'a [u8],
}

/// RESP: header and Noise message 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resp<'a> {
    /// The suite its sender speaks.
    pub suite: CipherSuite,
    /// The epoch of the tenant key.
    pub epoch: u8,
    /// The index its sender gave to the session.
    pub sender: SessionIndex,
    /// The index from INIT.
    pub receiver: SessionIndex,
    /// The Noise message: ephemeral key, static key and its tag, payload and its tag.
    pub noise: &'a [u8],
}

/// CONF: header and Noise message 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conf<'a> {
    /// The suite its sender speaks.
    pub suite: CipherSuite,
    /// The epoch of the tenant key.
    pub epoch: u8,
    /// The index its sender gave to the session, as in INIT.
    pub sender: SessionIndex,
    /// The index from RESP.
    pub receiver: SessionIndex,
    /// The Noise message: static key and its tag, identity and its tag.
    pub noise: &'a [u8; CONF_NOISE_LEN],
}

impl Conf<'_> {
    /// Bytes of CONF.
    pub const LEN: usize = CONF_LEN;
    /// Bytes of the identity slot in RESP and CONF.
    pub const IDENTITY_LEN: usize = IDENTITY_LEN;
}

/// The header of a DATA record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Data {
    /// Flags, those that have a meaning only.
    pub flags: u8,
    /// The receiver's index of the session.
    pub index: SessionIndex,
    /// The record's counter.
    pub counter: u64,
}

impl Data {
    /// The flags that have a meaning.
    pub const KNOWN_FLAGS: u8 = KNOWN_FLAGS;
}

/// Reads what needs no key: type, version, suite, exact length, reserved bits, indices.
///
/// # Errors
/// [`DropReason::Malformed`] for a wrong length, a reserved bit or a zero index; [`DropReason::Unsupported`] for
/// another version, suite or type.
pub fn parse(datagram: &[u8]) -> Result<Message<'_>, DropReason> {
    match *datagram.first().ok_or(DropReason::Malformed)? {
        INIT => {
            let (header, noise) = handshake(datagram, CipherSuite::init_len)?;
            if header.receiver.is_some() {
                return Err(DropReason::Malformed);
            }
            Ok(Message::Init(Init { suite: header.suite, epoch: header.epoch, sender: header.sender, noise }))
        }
        RESP => {
            let (header, noise) = handshake(datagram, CipherSuite::resp_len)?;
            let receiver = header.receiver.ok_or(DropReason::Malformed)?;
            Ok(Message::Resp(Resp {
                suite: header.suite,
                epoch: header.epoch,
                sender: header.sender,
                receiver,
                noise,
            }))
        }
        CONF => {
            let (header, noise) = handshake(datagram, |_| CONF_LEN)?;
            let noise = noise.try_into().map_err(|_| DropReason::Malformed)?;
            let receiver = header.receiver.ok_or(DropReason::Malformed)?;
            Ok(Message::Conf(Conf {
                suite: header.suite,
                epoch: header.epoch,
                sender: header.sender,
                receiver,
                noise,
            }))
        }
        DATA => data(datagram).map(Message::Data),
        COOKIE => cookie::parse(datagram).map(Message::Cookie),
        RESET => reset::parse(datagram).map(Message::Reset),
        _ => Err(DropReason::Unsupported),
    }
}

struct HandshakeHeader {
    suite: CipherSuite,
    epoch: u8,
    sender: SessionIndex,
    receiver: Option<SessionIndex>,
}

/// Header and Noise message of a datagram that is as long as `exact` says of its suite.
fn handshake(
    datagram: &[u8],
    exact: impl FnOnce(CipherSuite) -> usize,
) -> Result<(HandshakeHeader, &[u8]), DropReason> {
    let (header, rest) = datagram.split_first_chunk::<HANDSHAKE_HEADER_LEN>().ok_or(DropReason::Malformed)?;
    let [_, version, suite, epoch, s0, s1, s2, s3, r0, r1, r2, r3] = *header;
    if version != VERSION {
        return Err(DropReason::Unsupported);
    }
    // Lengths depend on version and suite, so those come first.
    let suite = CipherSuite::from_wire_byte(suite).ok_or(DropReason::Unsupported)?;
    if datagram.len() != exact(suite) {
        return Err(DropReason::Malformed);
    }
    let (noise, _) = rest.split_last_chunk::<{ 2 * MAC_LEN }>().ok_or(DropReason::Malformed)?;
    let sender = SessionIndex::from_u32(u32::from_le_bytes([s0, s1, s2, s3])).ok_or(DropReason::Malformed)?;
    let receiver = SessionIndex::from_u32(u32::from_le_bytes([r0, r1, r2, r3]));
    Ok((HandshakeHeader { suite, epoch, sender, receiver }, noise))
}

fn data(datagram: &[u8]) -> Result<Data, DropReason> {
    if datagram.len() < DATA_OVERHEAD {
        return Err(DropReason::Malformed);
    }
    let header = datagram.first_chunk::<DATA_HEADER_LEN>().ok_or(DropReason::Malformed)?;
    let [_, flags, 0, 0, i0, i1, i2, i3, counter @ ..] = *header else {
        return Err(DropReason::Malformed);
    };
    if flags & !KNOWN_FLAGS != 0 {
        return Err(DropReason::Malformed);
    }
    let index = SessionIndex::from_u32(u32::from_le_bytes([i0, i1, i2, i3])).ok_or(DropReason::Malformed)?;
    Ok(Data { flags, index, counter: u64::from_le_bytes(counter) })
}

impl SessionIndex {
    /// The lane of the sender of an INIT, by the index that it claims; `None` for anything else. Nothing of it is proven.
    ///
    /// INIT always goes to the tenant's port, which a pod's first lane holds. It is for the lane of this number, modulo the
    /// lanes there are here.
    #[must_use]
    pub fn lane_of_init(datagram: &[u8]) -> Option<u8> {
        match datagram.first() {
            Some(&INIT) => match parse(datagram) {
                Ok(Message::Init(init)) => Some(init.sender.lane()),
                _ => None,
            },
            _ => None,
        }
    }
}
