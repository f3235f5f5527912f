//! RESET: "I do not know this index".

use super::{
    DATA_OVERHEAD, MAC_LEN, SessionIndex, VERSION,
    layout::{self, RESET},
};
use crate::stats::DropReason;

/// Bytes of RESET: type, version, a zero byte, epoch, index, nonce, tag.
pub(crate) const RESET_LEN: usize = HEADER_LEN + MAC_LEN;
/// Bytes that the tag covers.
const HEADER_LEN: usize = 16;

// It answers DATA, so it must not be longer than the shortest one.
const _: () = assert!(RESET_LEN <= DATA_OVERHEAD);

/// RESET: what it says, unverified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reset {
    /// The epoch of the tenant key.
    pub epoch: u8,
    /// The index that its sender does not know.
    pub index: SessionIndex,
}

/// The bytes of a RESET before its tag. The nonce means nothing: it makes no two of them alike.
pub(crate) fn reset_header(epoch: u8, index: SessionIndex, nonce: u64) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&[RESET, VERSION, 0, epoch]);
    header[layout::INDEX].copy_from_slice(&index.as_u32().to_le_bytes());
    header[8..].copy_from_slice(&nonce.to_le_bytes());
    header
}

/// The bytes of a RESET that its tag covers, and the tag.
pub(crate) fn covered_by_tag(datagram: &[u8]) -> Option<(&[u8; HEADER_LEN], &[u8; MAC_LEN])> {
    let (covered, tag) = datagram.split_first_chunk()?;
    Some((covered, tag.try_into().ok()?))
}

pub(super) fn parse(datagram: &[u8]) -> Result<Reset, DropReason> {
    let header = datagram.first_chunk::<HEADER_LEN>().ok_or(DropReason::Malformed)?;
    let [_, version, zero, epoch, i0, i1, i2, i3, ..] = *header;
    if version != VERSION {
        return Err(DropReason::Unsupported);
    }
    if datagram.len() != RESET_LEN || zero != 0 {
        return Err(DropReason::Malformed);
    }
    let index = SessionIndex::from_u32(u32::from_le_bytes([i0, i1, i2, i3])).ok_or(DropReason::Malformed)?;
    Ok(Reset { epoch, index })
}
