//! COOKIE: "show that you are where you say", and mac2, which shows it.

use super::{
    MAC_LEN, SessionIndex, TAG_LEN, VERSION,
    layout::{self, COOKIE},
    split_macs,
};
use crate::stats::DropReason;

/// Bytes of a cookie.
pub(crate) const COOKIE_SECRET_LEN: usize = 16;
/// Bytes of a COOKIE's nonce.
pub(crate) const COOKIE_NONCE_LEN: usize = 24;
const HEADER_LEN: usize = 8;
const SEALED_LEN: usize = COOKIE_SECRET_LEN + TAG_LEN;
/// Bytes of COOKIE: header, nonce, sealed cookie.
pub(crate) const COOKIE_LEN: usize = HEADER_LEN + COOKIE_NONCE_LEN + SEALED_LEN;

// docs/wire-format.md section 1.6 fixes it; it answers INIT and CONF, which are longer.
const _: () = assert!(COOKIE_LEN == 64);

/// COOKIE: receiver, nonce, and the sealed cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cookie<'a> {
    /// The sender index of the message that it answers.
    pub receiver: SessionIndex,
    /// Nonce that its key is derived with.
    pub nonce: &'a [u8; COOKIE_NONCE_LEN],
    /// The cookie and its tag.
    pub sealed: &'a [u8; SEALED_LEN],
}

/// The bytes of a COOKIE before its nonce.
pub(crate) fn cookie_header(receiver: SessionIndex) -> [u8; HEADER_LEN] {
    let mut header = [COOKIE, VERSION, 0, 0, 0, 0, 0, 0];
    header[layout::INDEX].copy_from_slice(&receiver.as_u32().to_le_bytes());
    header
}

/// The bytes of a handshake message that mac2 covers, mac1 among them, and mac2. `None` if the datagram is none.
pub(crate) fn covered_by_mac2(datagram: &[u8]) -> Option<(&[u8], &[u8; MAC_LEN])> {
    split_macs(datagram)?;
    datagram.split_last_chunk()
}

pub(super) fn parse(datagram: &[u8]) -> Result<Cookie<'_>, DropReason> {
    let (header, rest) = datagram.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::Malformed)?;
    let [_, version, zeros @ .., i0, i1, i2, i3] = *header;
    if version != VERSION {
        return Err(DropReason::Unsupported);
    }
    let (nonce, sealed) = rest.split_first_chunk().ok_or(DropReason::Malformed)?;
    let sealed = sealed.try_into().map_err(|_| DropReason::Malformed)?;
    let receiver = SessionIndex::from_u32(u32::from_le_bytes([i0, i1, i2, i3]));
    let receiver = receiver.filter(|_| zeros == [0, 0]).ok_or(DropReason::Malformed)?;
    Ok(Cookie { receiver, nonce, sealed })
}
