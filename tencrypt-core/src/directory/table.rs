//! A longest-prefix table: one hash table per family and prefix length in use.

use std::{collections::HashMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::keyed_hash::KeyedState;

/// Values by prefix. A lookup probes one hash table per prefix length present, longest first: in a cluster most
/// facts are host addresses and a few are ranges, so that is two or three probes however many facts there are.
#[derive(Debug, Clone)]
pub(crate) struct PrefixTable<T> {
    entries: HashMap<IpNet, T, KeyedState>,
    /// `(prefix length, entries of that length)`, longest first.
    lengths_v4: Vec<(u8, u32)>,
    lengths_v6: Vec<(u8, u32)>,
}

impl<T> PrefixTable<T> {
    pub(crate) fn new(key: u64) -> Self {
        Self {
            entries: HashMap::with_hasher(KeyedState { key }),
            lengths_v4: Vec::new(),
            lengths_v6: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn find(&self, prefix: IpNet) -> Option<&T> {
        self.entries.get(&prefix.trunc())
    }

    /// The value of `prefix`, made by `make` if there is none.
    pub(crate) fn entry(&mut self, prefix: IpNet, make: impl FnOnce() -> T) -> &mut T {
        let prefix = prefix.trunc();
        if !self.entries.contains_key(&prefix) {
            let lengths = self.lengths(prefix.addr());
            match lengths.binary_search_by(|(length, _)| prefix.prefix_len().cmp(length)) {
                Ok(at) => lengths[at].1 += 1,
                Err(at) => lengths.insert(at, (prefix.prefix_len(), 1)),
            }
        }
        self.entries.entry(prefix).or_insert_with(make)
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) -> Option<T> {
        let prefix = prefix.trunc();
        let value = self.entries.remove(&prefix)?;
        let lengths = self.lengths(prefix.addr());
        if let Ok(at) = lengths.binary_search_by(|(length, _)| prefix.prefix_len().cmp(length)) {
            lengths[at].1 -= 1;
            if lengths[at].1 == 0 {
                lengths.remove(at);
            }
        }
        Some(value)
    }

    /// Every prefix that holds `address`, longest first.
    pub(crate) fn matches(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().filter_map(move |(length, _)| {
            let prefix = truncated(address, *length)?;
            self.entries.get(&prefix).map(|value| (prefix, value))
        })
    }

    fn lengths(&mut self, address: IpAddr) -> &mut Vec<(u8, u32)> {
        if address.is_ipv4() { &mut self.lengths_v4 } else { &mut self.lengths_v6 }
    }
}

fn truncated(address: IpAddr, length: u8) -> Option<IpNet> {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, length).ok().map(|net| net.trunc().into()),
        IpAddr::V6(v6) => Ipv6Net::new(v6, length).ok().map(|net| net.trunc().into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            // Few distinct bits, so that prefixes nest and collide.
            (0u32..16, 0u8..=32).prop_map(|(bits, length)| {
                IpNet::from(Ipv4Net::new((bits << 28 | bits).into(), length).unwrap().trunc())
            }),
            (0u128..16, 0u8..=128).prop_map(|(bits, length)| {
                IpNet::from(Ipv6Net::new((bits << 124 | bits).into(), length).unwrap().trunc())
            }),
        ]
    }

    proptest! {
        #[test]
        fn matches_agree_with_a_linear_scan(
            insert in prop::collection::vec(net(), 0..40),
            remove in prop::collection::vec(net(), 0..20),
            probe in prop_oneof![
                (0u32..16).prop_map(|b| IpAddr::from(std::net::Ipv4Addr::from(b << 28 | b))),
                (0u128..16).prop_map(|b| IpAddr::from(std::net::Ipv6Addr::from(b << 124 | b))),
            ],
            key: u64,
        ) {
            let mut table = PrefixTable::new(key);
            let mut scan: Vec<IpNet> = Vec::new();
            for prefix in insert {
                table.entry(prefix, || prefix);
                if !scan.contains(&prefix) {
                    scan.push(prefix);
                }
            }
            for prefix in remove {
                prop_assert_eq!(table.remove(prefix).is_some(), scan.contains(&prefix));
                scan.retain(|kept| *kept != prefix);
            }
            scan.retain(|prefix| prefix.contains(&probe));
            scan.sort_by_key(|prefix| std::cmp::Reverse(prefix.prefix_len()));
            let found: Vec<IpNet> = table.matches(probe).map(|(_, value)| *value).collect();
            prop_assert_eq!(found, scan);
        }
    }
}
