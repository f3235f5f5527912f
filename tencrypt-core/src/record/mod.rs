//! The wire format as far as transports need it: the start of a datagram, and session indices. docs/wire-format.md, a file
//! of this package, is its normative description.
//!
//! What a datagram claims is worth nothing before mac1 or the tag of a record verified.

mod address;
mod constants;
pub(crate) mod cookie;
mod index;
pub(crate) mod layout;
pub(crate) mod macs;
pub(crate) mod message;
pub(crate) mod reset;
pub(crate) mod suite;

pub(crate) use address::{ADDRESS_LEN, decode_address, encode_address};
pub(crate) use constants::SEALED_KEY_LEN;
pub(crate) use constants::{
    CONF_LEN, DATA_HEADER_LEN, DATA_OVERHEAD, FLAG_CSUM_PARTIAL, HANDSHAKE_HEADER_LEN, IDENTITY_LEN,
    KEM_CIPHERTEXT_LEN, KEM_PUBLIC_LEN, KNOWN_FLAGS, MAC_LEN, TAG_LEN, VERSION,
};
pub(crate) use cookie::{COOKIE_LEN, Cookie};
pub(crate) use cookie::{COOKIE_NONCE_LEN, COOKIE_SECRET_LEN, cookie_header, covered_by_mac2};
pub use index::SessionIndex;
pub use layout::Head;
pub(crate) use macs::mac1;
use macs::split_macs;
pub(crate) use message::{Conf, Data, Init, Message, Resp, parse};
pub(crate) use reset::{RESET_LEN, Reset};
pub(crate) use reset::{covered_by_tag, reset_header};
pub(crate) use suite::{Aead, CipherSuite};

use self::layout::{CONF, DATA, INIT, RESP};

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

#[cfg(test)]
mod tests;
