//! Senders, as far as their addresses tell them apart.

use std::net::IpAddr;

/// Somebody for whom a share is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    V4(u32),
    /// An IPv6 network of 64 bits: whoever has one address there may have all.
    V6Network(u64),
    /// One IPv6 address, of many that this side itself has chosen to ask.
    V6(u128),
}

impl Source {
    /// The network that one sender has.
    pub(super) fn network(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6Network((address.to_bits() >> 64) as u64),
        }
    }

    /// The one address.
    pub(super) fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6(address.to_bits()),
        }
    }
}
