//! The wire format: message types, exact lengths, headers. docs/wire-format.md, a file of this package, is its normative
//! description.
//!
//! [`parse`] is the first thing that sees a datagram. It checks all that needs no key and says what the datagram
//! claims to be; what it claims is worth nothing before mac1 or the tag of a record verified.

mod address;
mod cookie;
mod index;
pub mod layout;
mod reset;
mod suite;

pub(crate) use address::{ADDRESS_LEN, decode_address, encode_address};
pub use cookie::{COOKIE_LEN, Cookie};
pub(crate) use cookie::{COOKIE_NONCE_LEN, COOKIE_SECRET_LEN, cookie_header, covered_by_mac2};
pub use index::SessionIndex;
pub use reset::{RESET_LEN, Reset};
pub(crate) use reset::{covered_by_tag, reset_header};
pub use suite::{Aead, CipherSuite, UnknownSuite};

use self::layout::{CONF, COOKIE, DATA, INIT, RESET, RESP};
use crate::stats::DropReason;

/// The version of the wire format.
pub const VERSION: u8 = 1;

/// Bytes of a handshake header: type, version, suite, epoch, sender index, receiver index.
pub const HANDSHAKE_HEADER_LEN: usize = 12;
/// Bytes of mac1, and of mac2.
pub const MAC_LEN: usize = 16;
/// Bytes of an AEAD tag.
pub const TAG_LEN: usize = 16;

/// Bytes of the identity slot in RESP and CONF, the same in every mode.
pub const IDENTITY_LEN: usize = 144;

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203 table 3).
pub const KEM_PUBLIC_LEN: usize = 1_184;
/// Bytes of an ML-KEM-768 ciphertext (FIPS 203 table 3).
pub const KEM_CIPHERTEXT_LEN: usize = 1_088;

/// Bytes of a static key and its tag.
pub(crate) const SEALED_KEY_LEN: usize = 32 + TAG_LEN;
/// Bytes of CONF's Noise message: static key and its tag, identity and its tag.
pub const CONF_NOISE_LEN: usize = SEALED_KEY_LEN + IDENTITY_LEN + TAG_LEN;
/// Bytes of CONF. Those of INIT and RESP depend on the suite: [`CipherSuite::init_len`], [`CipherSuite::resp_len`].
pub const CONF_LEN: usize = HANDSHAKE_HEADER_LEN + CONF_NOISE_LEN + 2 * MAC_LEN;

/// Bytes of a DATA header: type, flags, two zero bytes, receiver index, counter. It is the record's associated data.
pub const DATA_HEADER_LEN: usize = 16;
/// Bytes a record is longer than its packet: header and tag.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

/// Flag of a DATA record: the packet's TCP or UDP checksum is unfinished.
pub const FLAG_CSUM_PARTIAL: u8 = 1;
/// The flags that have a meaning. A record with any other bit set is malformed.
pub const KNOWN_FLAGS: u8 = FLAG_CSUM_PARTIAL;

// docs/wire-format.md section 1 fixes these.
const _: () = assert!(CONF_LEN == 252 && DATA_OVERHEAD == 32);

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

/// The header of a DATA record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Data {
    /// Flags, [`KNOWN_FLAGS`] only.
    pub flags: u8,
    /// The receiver's index of the session.
    pub index: SessionIndex,
    /// The record's counter.
    pub counter: u64,
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

/// The lane of the sender of an INIT, by the index that it claims; `None` for anything else. Nothing of it is proven.
///
/// INIT always goes to the tenant's port, which a pod's first lane holds. It is for the lane of this number, modulo the
/// lanes there are here.
#[must_use]
pub fn init_lane(datagram: &[u8]) -> Option<u8> {
    match datagram.first() {
        Some(&INIT) => match parse(datagram) {
            Ok(Message::Init(init)) => Some(init.sender.lane()),
            _ => None,
        },
        _ => None,
    }
}

/// The mac1 field of a handshake message, unverified. `None` if the datagram is none.
#[must_use]
pub fn mac1(datagram: &[u8]) -> Option<[u8; MAC_LEN]> {
    let (_, macs) = split_macs(datagram)?;
    macs.first_chunk().copied()
}

/// The epoch a handshake message claims, the bytes that mac1 covers, and mac1 itself. `None` if the datagram is no
/// handshake message.
pub(crate) fn covered_by_mac1(datagram: &[u8]) -> Option<(u8, &[u8], &[u8; MAC_LEN])> {
    let (covered, macs) = split_macs(datagram)?;
    Some((*covered.get(3)?, covered, macs.first_chunk()?))
}

/// The header of an INIT.
pub(crate) fn init_header(suite: CipherSuite, epoch: u8, sender: SessionIndex) -> [u8; HANDSHAKE_HEADER_LEN] {
    handshake_header(INIT, suite, epoch, sender.as_u32(), 0)
}

/// The header of a RESP.
pub(crate) fn resp_header(
    suite: CipherSuite,
    epoch: u8,
    sender: SessionIndex,
    receiver: SessionIndex,
) -> [u8; HANDSHAKE_HEADER_LEN] {
    handshake_header(RESP, suite, epoch, sender.as_u32(), receiver.as_u32())
}

/// The header of a CONF.
pub(crate) fn conf_header(
    suite: CipherSuite,
    epoch: u8,
    sender: SessionIndex,
    receiver: SessionIndex,
) -> [u8; HANDSHAKE_HEADER_LEN] {
    handshake_header(CONF, suite, epoch, sender.as_u32(), receiver.as_u32())
}

/// The header of a DATA record. Only [`KNOWN_FLAGS`] of `flags` get into it.
pub(crate) fn data_header(flags: u8, receiver: SessionIndex, counter: u64) -> [u8; DATA_HEADER_LEN] {
    let mut header = [0; DATA_HEADER_LEN];
    header[layout::TYPE] = DATA;
    header[1] = flags & KNOWN_FLAGS;
    header[layout::INDEX].copy_from_slice(&receiver.as_u32().to_le_bytes());
    header[layout::COUNTER].copy_from_slice(&counter.to_le_bytes());
    header
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

fn handshake_header(
    kind: u8,
    suite: CipherSuite,
    epoch: u8,
    sender: u32,
    receiver: u32,
) -> [u8; HANDSHAKE_HEADER_LEN] {
    let mut header = [kind, VERSION, suite.wire_byte(), epoch, 0, 0, 0, 0, 0, 0, 0, 0];
    header[layout::INDEX].copy_from_slice(&sender.to_le_bytes());
    header[layout::RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    header
}

fn split_macs(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    if !matches!(datagram.first(), Some(&(INIT | RESP | CONF))) {
        return None;
    }
    let at = datagram.len().checked_sub(2 * MAC_LEN).filter(|at| *at >= HANDSHAKE_HEADER_LEN)?;
    datagram.split_at_checked(at)
}

#[cfg(test)]
mod tests;
