//! RESET: how a member that lost its sessions asks for new ones.

use crate::{
    crypto::KeyRing,
    record::{self, Message, RESET_LEN, SessionIndex},
    stats::DropReason,
};

/// A RESET under the epoch that is sent: "I do not know this index". `nonce` should be random.
#[must_use]
pub fn write_reset(keys: &KeyRing, index: SessionIndex, nonce: u64) -> [u8; RESET_LEN] {
    let keys = keys.sent();
    let header = record::reset_header(keys.number(), index, nonce);
    let mut bytes = [0; RESET_LEN];
    let (covered, tag) = bytes.split_at_mut(header.len());
    covered.copy_from_slice(&header);
    tag.copy_from_slice(&keys.reset_tag(covered));
    bytes
}

/// The index that a member of the tenant does not know, or somebody who repeats what a member once said.
///
/// # Errors
/// [`DropReason::Malformed`], [`DropReason::Unsupported`]: no RESET; [`DropReason::OtherEpoch`]: of an epoch whose keys
/// are not here; [`DropReason::Mac1`]: an outsider's.
pub(crate) fn verify_reset(keys: &KeyRing, datagram: &[u8]) -> Result<SessionIndex, DropReason> {
    let Message::Reset(reset) = record::parse(datagram)? else { return Err(DropReason::Unsupported) };
    let (covered, tag) = record::covered_by_tag(datagram).ok_or(DropReason::Malformed)?;
    let keys = keys.epoch(reset.epoch).ok_or(DropReason::OtherEpoch)?;
    if keys.verify_reset_tag(covered, tag) { Ok(reset.index) } else { Err(DropReason::Mac1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(epoch: u8) -> KeyRing {
        let root = std::array::from_fn(|at| at as u8);
        KeyRing::parse(&KeyRing::write_file([7; 16], epoch, &root)).unwrap()
    }

    #[test]
    fn every_bit_of_a_reset_counts() {
        let index = SessionIndex::from_u32(0x0123_4567).unwrap();
        let bytes = write_reset(&keys(3), index, 99);
        assert_eq!(verify_reset(&keys(3), &bytes), Ok(index));
        assert_ne!(bytes, write_reset(&keys(3), index, 98), "the nonce makes them differ");
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            let expected: &[DropReason] = match bit / 8 {
                0 => &[DropReason::Unsupported, DropReason::Malformed],
                1 => &[DropReason::Unsupported],
                2 => &[DropReason::Malformed],
                3 => &[DropReason::OtherEpoch],
                _ => &[DropReason::Mac1],
            };
            let outcome = verify_reset(&keys(3), &forged).expect_err("it was changed");
            assert!(expected.contains(&outcome), "bit {bit}: {outcome}");
        }
        assert_eq!(verify_reset(&keys(4), &bytes), Err(DropReason::OtherEpoch));
        let other =
            KeyRing::parse(&KeyRing::write_file([8; 16], 3, &std::array::from_fn(|at| at as u8))).unwrap();
        assert_eq!(verify_reset(&other, &bytes), Err(DropReason::Mac1));
    }
}
