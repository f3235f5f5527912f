//! Addresses as handshake messages spell them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an address: family, three bytes that are zero here, 16 bytes of address (IPv4 in the first 4, rest zero).
pub(crate) const ADDRESS_LEN: usize = 20;

/// The one spelling of an address.
pub(crate) fn encode_address(address: IpAddr) -> [u8; ADDRESS_LEN] {
    let mut bytes = [0; ADDRESS_LEN];
    match address {
        IpAddr::V4(v4) => {
            bytes[0] = 4;
            bytes[4..8].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes[0] = 6;
            bytes[4..].copy_from_slice(&v6.octets());
        }
    }
    bytes
}

/// The address that is spelt so, whatever it is; `None` for any other bytes.
pub(crate) fn decode_address(bytes: &[u8; ADDRESS_LEN]) -> Option<IpAddr> {
    match *bytes {
        [4, 0, 0, 0, a, b, c, d, ref rest @ ..] if rest.iter().all(|byte| *byte == 0) => {
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        [6, 0, 0, 0, octets @ ..] => Some(IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    }
}
