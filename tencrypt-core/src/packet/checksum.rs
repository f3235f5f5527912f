//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// The one's complement sum of `bytes` as 16-bit big-endian words, odd lengths padded with zero, not complemented.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // One's complement addition does not care for byte order (RFC 1071 section 2 B), so words are added as they lie,
    // eight bytes at a time, the carries kept in the upper half.
    let mut total: u64 = 0;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let word = u64::from_ne_bytes(*chunk);
        total += (word & 0xffff_ffff) + (word >> 32);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let word = u64::from_ne_bytes(last);
    total += (word & 0xffff_ffff) + (word >> 32);
    u16::from_be(fold(total))
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1): addresses, length and protocol.
#[must_use]
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> u16 {
    let length = length.to_be_bytes();
    let tail = add(sum(&length), protocol.into());
    add(add(address(source), address(destination)), tail)
}

/// One's complement addition.
#[must_use]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// A change to checksummed words: what was there, and what is there now. Collects any number of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Update {
    delta: u16,
    changed: bool,
}

impl Update {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Word `old` becomes `new`.
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        if old == new {
            return self;
        }
        // RFC 1624 equation 3, without the checksum itself: ~m + m'.
        Self { delta: add(self.delta, add(!old, new)), changed: true }
    }

    /// Address `old` becomes `new`, of the same family.
    #[must_use]
    pub fn address(self, old: IpAddr, new: IpAddr) -> Self {
        if old == new {
            return self;
        }
        Self { delta: add(self.delta, add(!address(old), address(new))), changed: true }
    }

    /// The checksum after the change: HC' = ~(~HC + ~m + m').
    ///
    /// If nothing changed it stays to the bit: with the equation alone a stored 0x0000 would become 0xFFFF
    /// (RFC 1624 erratum 4782).
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        if self.changed { !add(!checksum, self.delta) } else { checksum }
    }

    /// An unfinished checksum after the change: the field holds the pseudo-header sum, not complemented
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    #[must_use]
    pub fn apply_partial(self, sum: u16) -> u16 {
        if self.changed { add(sum, self.delta) } else { sum }
    }
}

fn address(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    }
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let words =
            bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        let mut total: u32 = words.map(u32::from).sum();
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn sum_agrees_with_the_word_by_word_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sum(&bytes), plain_sum(&bytes));
        }
    }

    #[test]
    fn the_update_agrees_with_recomputation_for_all_pairs_of_words() {
        // Data of one fixed word and one that changes. A recomputed checksum of data that is not all zero is never
        // 0xFFFF (its sum is never 0x0000), which is the representation the update must find.
        for fixed in [0x0001_u16, 0x1234, 0x8000, 0xfffe, 0xffff] {
            for old in 0..=u16::MAX {
                let before = !add(fixed, old);
                // All new words for a spread of old ones, and the neighbours and corners for every old one.
                if old % 1_021 == 0 {
                    for new in 0..=u16::MAX {
                        assert_eq!(Update::new().word(old, new).apply(before), !add(fixed, new));
                    }
                }
                for new in [
                    0,
                    1,
                    0x7fff,
                    0x8000,
                    0xfffe,
                    0xffff,
                    !old,
                    old,
                    old.wrapping_add(1),
                    old.wrapping_sub(1),
                ] {
                    assert_eq!(
                        Update::new().word(old, new).apply(before),
                        !add(fixed, new),
                        "{fixed:x} {old:x} {new:x}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_update_agrees_with_recomputation_over_the_whole_square() {
        // 2^32 pairs, reduced by what the arithmetic depends on: the delta ~m + m' and the stored checksum.
        let mut seen = vec![false; 1 << 16];
        for old in 0..=u16::MAX {
            for new in [0, 0x5555, 0xaaaa, 0xffff, old, !old] {
                seen[usize::from(add(!old, new))] = true;
            }
        }
        for delta in (0..=u16::MAX).filter(|delta| seen[usize::from(*delta)]) {
            let update = Update { delta, changed: true };
            for checksum in (0..=u16::MAX).step_by(257) {
                let mut expected = u32::from(!checksum) + u32::from(delta);
                expected = (expected & 0xffff) + (expected >> 16);
                assert_eq!(update.apply(checksum), !(expected as u16));
            }
        }
    }

    #[test]
    fn a_word_that_stays_leaves_either_zero_as_it_is() {
        for checksum in [0x0000, 0xffff, 0x1234] {
            for word in [0x0000, 0xffff, 0xabcd] {
                assert_eq!(Update::new().word(word, word).apply(checksum), checksum);
            }
        }
    }
}
