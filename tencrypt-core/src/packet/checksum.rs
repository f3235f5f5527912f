//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A ones-complement sum in the making.
///
/// Words are added in the machine's own byte order, four at a time, and turned round once at the end, which gives the
/// same sum (RFC 1071 section 2 B).
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds `bytes` as big-endian 16-bit words. An odd last byte counts as the high half of a word, so only the last
    /// part of what is summed may have an odd length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let halves = |word: u64| (word & 0xFFFF_FFFF) + (word >> 32);
        let mut sum = halves(self.0);
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for word in words {
                sum += halves(u64::from_ne_bytes(*word));
            }
        }
        let (words, tail) = rest.as_chunks::<2>();
        for word in words {
            sum += u64::from(u16::from_ne_bytes(*word));
        }
        if let [last] = tail {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds the pseudo header of TCP, UDP (RFC 9293 section 3.1, RFC 768) or, for IPv6, of any upper layer (RFC 8200
    /// section 8.1). `len` is the length of transport header and payload in bytes. Both addresses are of one family.
    #[must_use]
    pub fn pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, len: u32) -> Self {
        self.address(source).address(destination).bytes(&[0, protocol]).bytes(&len.to_be_bytes())
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// The sum, folded to 16 bits.
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum: the folded sum's complement.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// A change of some 16-bit words, to be carried over to a checksum that covers them.
///
/// RFC 1624 equation 3, `HC' = ~(~HC + ~m + m')`, gathered over any number of words. A change that leaves the sum as
/// it is leaves the checksum field as it is (erratum 4782: the equation would turn 0xFFFF into 0x0000).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Delta(u32);

impl Delta {
    /// No change.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self(0)
    }

    /// The word `old` became `new`.
    #[must_use]
    pub(crate) const fn word(self, old: u16, new: u16) -> Self {
        if old == new {
            return self;
        }
        // Folded at once, so that any number of words fits.
        let sum = self.0 + (!old) as u32 + new as u32;
        Self((sum & 0xFFFF) + (sum >> 16))
    }

    /// The bytes `old` became `new`: two slices of the same even length, at an even offset from where the checksum
    /// starts. Of slices of different lengths the longer one's end is ignored.
    #[must_use]
    pub(crate) fn bytes(self, old: &[u8], new: &[u8]) -> Self {
        let ((old, _), (new, _)) = (old.as_chunks::<2>(), new.as_chunks::<2>());
        let words = old.iter().zip(new);
        words.fold(self, |delta, (old, new)| delta.word(u16::from_be_bytes(*old), u16::from_be_bytes(*new)))
    }

    /// Both changes.
    #[must_use]
    pub(crate) const fn and(self, other: Self) -> Self {
        let sum = self.0 + other.0;
        Self((sum & 0xFFFF) + (sum >> 16))
    }

    /// The checksum `stored` after the change.
    #[must_use]
    pub(crate) const fn apply(self, stored: u16) -> u16 {
        if self.0 == 0 { stored } else { !fold((!stored) as u32 + self.0) }
    }

    /// The same for UDP, where 0 means that there is no checksum: 0 stays 0, and a checksum that comes out as 0 is
    /// written as 0xFFFF (RFC 768; RFC 8200 section 8.1 and RFC 6935 for IPv6).
    #[must_use]
    pub(crate) const fn apply_udp(self, stored: u16) -> u16 {
        match stored {
            0 => 0,
            _ => match self.apply(stored) {
                0 => 0xFFFF,
                checksum => checksum,
            },
        }
    }

    /// An unfinished checksum after a change of the pseudo header. The field holds the pseudo header's folded sum, not
    /// its complement (Linux, include/linux/skbuff.h, `CHECKSUM_PARTIAL`), and 0 has no meaning of its own.
    #[must_use]
    pub(crate) const fn apply_partial(self, stored: u16) -> u16 {
        if self.0 == 0 { stored } else { fold(stored as u32 + self.0) }
    }
}

/// Folds a sum below 2^32 - 2^16.
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as RFC 1071 section 1 says it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
        }
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum as u16
    }

    /// Every pair of words for the two representations of zero, where the arithmetic is delicate, and every old word
    /// with every 127th new one for stored checksums between. The other words of the packet come to a single one,
    /// `rest`, never 0: a packet has an IP version or a pseudo header.
    #[test]
    fn the_update_equals_recomputation_for_all_pairs_of_words() {
        let check = |(stored, step): (u16, usize)| {
            for old in 0..=0xFFFFu16 {
                let rest = match fold(u32::from(!stored) + u32::from(!old)) {
                    0 => 0xFFFF,
                    rest => rest,
                };
                let mut wrong = 0u32;
                for new in (0..=0xFFFFu16).step_by(step) {
                    let sum = u32::from(rest) + u32::from(new);
                    let recomputed = !(((sum & 0xFFFF) + (sum >> 16)) as u16);
                    let expected = if old == new { stored } else { recomputed };
                    // From 0xFFFF to 0x0000 the sum stays what it was, and so does a stored 0xFFFF.
                    let same_sum = old == 0xFFFF && new == 0 && stored == 0xFFFF;
                    wrong += u32::from(Delta::new().word(old, new).apply(stored) != expected && !same_sum);
                }
                assert_eq!(wrong, 0, "stored {stored:#06x}, old {old:#06x}");
            }
        };
        std::thread::scope(|threads| {
            threads.spawn(|| check((0x0000, 1)));
            threads.spawn(|| check((0xFFFF, 1)));
            for stored in [0x0001, 0x7FFF, 0x8000, 0x3C5A, 0xFFFE] {
                check((stored, 127));
            }
        });
    }

    #[test]
    fn an_unchanged_word_leaves_every_checksum_as_it_is() {
        for stored in 0..=0xFFFF {
            for word in [0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF] {
                assert_eq!(Delta::new().word(word, word).apply(stored), stored);
                assert_eq!(Delta::new().word(word, word).apply_partial(stored), stored);
            }
        }
    }

    #[test]
    fn udp_keeps_no_checksum_and_never_writes_zero() {
        for stored in 0..=0xFFFF {
            for (old, new) in [(1, 2), (0, 0xFFFF), (0xFFFF, 0), (0x1234, 0xFEDC), (7, 7)] {
                let updated = Delta::new().word(old, new).apply_udp(stored);
                assert_eq!(updated == 0, stored == 0, "stored {stored:#06x}, {old:#06x} to {new:#06x}");
            }
        }
        // ~(~0x0001 + ~0x0000 + 0x0001) = 0: written as 0xFFFF.
        assert_eq!(Delta::new().word(0, 1).apply(1), 0);
        assert_eq!(Delta::new().word(0, 1).apply_udp(1), 0xFFFF);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        assert_eq!(Delta::new().word(0x5555, 0x3285).apply(0xDD2F), 0x0000);
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]);
        assert_eq!(sum.fold(), 0xDDF2);
        assert_eq!(sum.checksum(), !0xDDF2);
    }

    #[test]
    fn a_pseudo_header_adds_its_fields() {
        let sum =
            Sum::new().pseudo_header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 0x0001_0008).fold();
        assert_eq!(sum, naive(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, 1, 0, 8]));
    }

    proptest! {
        #[test]
        fn the_sum_equals_the_naive_sum(bytes in prop::collection::vec(any::<u8>(), 0..4000), cut in 0usize..2000) {
            let cut = (cut * 2).min(bytes.len() & !1);
            prop_assert_eq!(Sum::new().bytes(&bytes).fold(), naive(&bytes));
            prop_assert_eq!(Sum::new().bytes(&bytes[..cut]).bytes(&bytes[cut..]).fold(), naive(&bytes));
        }

        #[test]
        fn a_change_of_many_words_equals_recomputation(
            (old, new) in (1usize..600).prop_flat_map(|words| {
                let bytes = || prop::collection::vec(any::<u8>(), words * 2);
                (bytes(), bytes())
            }),
        ) {
            let (mut before, mut after) = (vec![0x45, 0], vec![0x45, 0]);
            before.extend(&old);
            after.extend(&new);
            let stored = Sum::new().bytes(&before).checksum();
            let delta = Delta::new().bytes(&old, &new);
            prop_assert_eq!(delta.apply(stored), Sum::new().bytes(&after).checksum());
            prop_assert_eq!(delta.apply_partial(!stored), Sum::new().bytes(&after).fold());
        }
    }
}
