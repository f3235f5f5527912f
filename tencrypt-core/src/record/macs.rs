//! The macs of a handshake message.

use super::{
    constants::{HANDSHAKE_HEADER_LEN, MAC_LEN},
    layout::{CONF, INIT, RESP},
};

/// The mac1 field of a handshake message, unverified. `None` if the datagram is none.
#[must_use]
pub fn mac1(datagram: &[u8]) -> Option<[u8; MAC_LEN]> {
    let (_, macs) = split_macs(datagram)?;
    macs.first_chunk().copied()
}

pub(super) fn split_macs(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    if !matches!(datagram.first(), Some(&(INIT | RESP | CONF))) {
        return None;
    }
    let at = datagram.len().checked_sub(2 * MAC_LEN).filter(|at| *at >= HANDSHAKE_HEADER_LEN)?;
    datagram.split_at_checked(at)
}
