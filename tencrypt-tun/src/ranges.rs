//! Sets of addresses as disjoint ranges: what an nftables interval set holds.
//!
//! The kernel refuses ranges that overlap (`nft_rbtree_insert`: `ENOTEMPTY`) while facts nest, the longest prefix
//! winning. Painting the prefixes from the shortest to the longest gives every address the class of its longest
//! prefix and leaves ranges that cannot overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tencrypt::IpNet;

/// Addresses of one family, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

impl From<IpNet> for Range {
    fn from(prefix: IpNet) -> Self {
        Self { first: prefix.network(), last: prefix.broadcast() }
    }
}

impl From<IpAddr> for Range {
    fn from(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }
}

/// Disjoint ranges in ascending order, IPv4 before IPv6; neighbours are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    pub(crate) fn from_prefixes(prefixes: &[IpNet]) -> Self {
        let mut ranges = Self::default();
        for prefix in prefixes {
            ranges.insert((*prefix).into());
        }
        ranges
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Range> {
        self.0.iter().copied()
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let after = self.0.partition_point(|range| range.first <= address);
        let range = after.checked_sub(1).and_then(|at| self.0.get(at));
        range.is_some_and(|range| same_family(range.first, address) && address <= range.last)
    }

    pub(crate) fn insert(&mut self, new: Range) {
        let joins = |range: &Range| {
            let before = next(range.last).is_none_or(|next| next < new.first) && range.last < new.first;
            let after = next(new.last).is_none_or(|next| next < range.first) && new.last < range.first;
            same_family(range.first, new.first) && !before && !after
        };
        let mut merged = new;
        self.0.retain(|range| {
            let joined = joins(range);
            if joined {
                merged.first = merged.first.min(range.first);
                merged.last = merged.last.max(range.last);
            }
            !joined
        });
        let at = self.0.partition_point(|range| range.first < merged.first);
        self.0.insert(at, merged);
    }

    pub(crate) fn remove(&mut self, gone: Range) {
        let mut rest = Vec::with_capacity(self.0.len() + 1);
        for range in &self.0 {
            if range.last < gone.first || gone.last < range.first {
                rest.push(*range);
                continue;
            }
            if let Some(last) = previous(gone.first).filter(|last| *last >= range.first) {
                rest.push(Range { first: range.first, last });
            }
            if let Some(first) = next(gone.last).filter(|first| *first <= range.last) {
                rest.push(Range { first, last: range.last });
            }
        }
        self.0 = rest;
    }
}

/// Splits the address space among `classes`: each address goes to the class of its longest prefix; of equal prefixes
/// the class named last wins.
pub(crate) fn paint<const N: usize>(classes: [&[IpNet]; N]) -> [Ranges; N] {
    let mut prefixes: Vec<(u8, usize, IpNet)> = classes
        .iter()
        .enumerate()
        .flat_map(|(class, prefixes)| {
            prefixes.iter().map(move |prefix| (prefix.prefix_len(), class, *prefix))
        })
        .collect();
    prefixes.sort_unstable();
    let mut painted = [const { Ranges(Vec::new()) }; N];
    for (_, class, prefix) in prefixes {
        for (other, ranges) in painted.iter_mut().enumerate() {
            if other == class {
                ranges.insert(prefix.into());
            } else {
                ranges.remove(prefix.into());
            }
        }
    }
    painted
}

/// The address after `address` in its family; nothing after the last.
pub(crate) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

pub(crate) fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(prefixes: &[&str]) -> Vec<IpNet> {
        prefixes.iter().map(|prefix| prefix.parse().expect("prefix")).collect()
    }

    fn shown(ranges: &Ranges) -> Vec<String> {
        ranges.iter().map(|range| format!("{}-{}", range.first, range.last)).collect()
    }

    #[test]
    fn neighbours_and_nested_prefixes_are_joined() {
        let ranges =
            Ranges::from_prefixes(&nets(&["10.0.1.0/24", "10.0.0.0/24", "10.0.0.8/32", "fd00::/16", "::/1"]));
        assert_eq!(
            shown(&ranges),
            [
                "10.0.0.0-10.0.1.255",
                "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fd00::-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ]
        );
    }

    #[test]
    fn the_end_of_a_family_does_not_join_the_other() {
        let ranges = Ranges::from_prefixes(&nets(&["255.255.255.255/32", "::/128"]));
        assert_eq!(shown(&ranges), ["255.255.255.255-255.255.255.255", "::-::"]);
    }

    #[test]
    fn the_longest_prefix_wins_and_of_equal_ones_the_last_class() {
        let [outer, inner] = paint([
            &nets(&["10.0.0.0/8", "10.1.2.0/24", "10.9.0.0/16"]),
            &nets(&["10.1.0.0/16", "10.9.0.0/16"]),
        ]);
        assert_eq!(
            shown(&outer),
            [
                "10.0.0.0-10.0.255.255",
                "10.1.2.0-10.1.2.255",
                "10.2.0.0-10.8.255.255",
                "10.10.0.0-10.255.255.255"
            ]
        );
        assert_eq!(shown(&inner), ["10.1.0.0-10.1.1.255", "10.1.3.0-10.1.255.255", "10.9.0.0-10.9.255.255"]);
    }

    #[test]
    fn painting_agrees_with_the_longest_prefix_of_each_address() {
        let prefixes = |class: usize| -> Vec<IpNet> {
            // All prefixes of 10.0.0.0/28 and fd00::/124 whose number gives this class by a fixed scramble.
            (28..=32)
                .flat_map(|len| (0..16_u32).map(move |at| (len, at)))
                .filter(|(len, at)| (u32::from(*len) * 7 + (at >> (32 - len)) * 5) % 6 == class as u32)
                .flat_map(|(len, at)| {
                    let v4 = IpNet::new(IpAddr::from([10, 0, 0, at as u8]), len).expect("v4").trunc();
                    let v6 = IpNet::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, at as u16]), len + 96)
                        .expect("v6");
                    [v4, v6.trunc()]
                })
                .collect()
        };
        let classes = [prefixes(0), prefixes(1), prefixes(2)];
        let painted = paint([&classes[0], &classes[1], &classes[2]]);
        let v4 = (0..16).map(|last| IpAddr::from([10, 0, 0, last]));
        let v6 = (0..16).map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
        for address in v4.chain(v6) {
            let longest = (0..classes.len())
                .flat_map(|class| classes[class].iter().map(move |prefix| (prefix, class)))
                .filter(|(prefix, _)| prefix.contains(&address))
                .map(|(prefix, class)| (prefix.prefix_len(), class))
                .max();
            for (class, ranges) in painted.iter().enumerate() {
                let inside = ranges.iter().any(|range| range.first <= address && address <= range.last);
                assert_eq!(
                    inside,
                    longest.is_some_and(|(_, winner)| winner == class),
                    "{address} in {class}"
                );
            }
        }
    }
}
