//! Socket addresses as the kernel reads and writes them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Bytes of `struct sockaddr_in` and `struct sockaddr_in6` (include/uapi/linux/in.h, in6.h).
const V4_BYTES: usize = 16;
const V6_BYTES: usize = 28;

/// Either structure. Made once per message and not per system call, and without the 128 bytes of
/// `struct sockaddr_storage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(4))]
pub(crate) struct RawAddress {
    bytes: [u8; V6_BYTES],
    len: u8,
}

impl RawAddress {
    /// Room for what a system call writes.
    pub(crate) const EMPTY: Self = Self { bytes: [0; V6_BYTES], len: 0 };

    /// The bytes to hand to the kernel.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// All bytes the kernel may write to; [`set_len`](Self::set_len) then says how many it did.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Notes that the kernel wrote an address of `len` bytes, of which it may have cut some.
    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = len.min(V6_BYTES) as u8;
    }

    /// Tells if it is an IPv4 address.
    pub(crate) fn is_ipv4(&self) -> bool {
        usize::from(self.len) == V4_BYTES
    }

    /// The address; `None` if it is no IP address.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        let bytes = self.as_bytes();
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let address: [u8; 4] = *rest.first_chunk()?;
                Some(SocketAddr::from((Ipv4Addr::from(address), port)))
            }
            libc::AF_INET6 => {
                let (flow, rest) = rest.split_first_chunk::<4>()?;
                let (address, rest) = rest.split_first_chunk::<16>()?;
                let scope = rest.first_chunk::<4>()?;
                // Both as std keeps them: uninterpreted.
                Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(*address),
                    port,
                    u32::from_ne_bytes(*flow),
                    u32::from_ne_bytes(*scope),
                )))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        let mut raw = Self::EMPTY;
        let family = match address {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        raw.bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        raw.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                raw.bytes[4..8].copy_from_slice(&address.ip().octets());
                raw.len = V4_BYTES as u8;
            }
            SocketAddr::V6(address) => {
                raw.bytes[4..8].copy_from_slice(&address.flowinfo().to_ne_bytes());
                raw.bytes[8..24].copy_from_slice(&address.ip().octets());
                raw.bytes[24..].copy_from_slice(&address.scope_id().to_ne_bytes());
                raw.len = V6_BYTES as u8;
            }
        }
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockAddr;

    fn addresses() -> [SocketAddr; 2] {
        let v6 = SocketAddrV6::new("2001:db8::1:2".parse().unwrap(), 8_362, 0x0102_0304, 7);
        [SocketAddr::from(([192, 0, 2, 7], 8_362)), SocketAddr::V6(v6)]
    }

    #[test]
    fn an_address_survives_the_way_there_and_back() {
        for address in addresses() {
            assert_eq!(RawAddress::from(address).decode(), Some(address));
        }
    }

    #[test]
    fn the_length_is_that_of_the_c_structures() {
        for address in addresses() {
            assert_eq!(RawAddress::from(address).as_bytes().len(), SockAddr::from(address).len() as usize);
        }
    }

    #[test]
    fn what_is_cut_or_no_ip_address_is_none() {
        for address in addresses() {
            let mut raw = RawAddress::from(address);
            raw.set_len(7);
            assert_eq!(raw.decode(), None);
        }
        let mut raw = RawAddress::EMPTY;
        assert_eq!(raw.decode(), None);
        raw.set_len(100);
        assert_eq!(raw.decode(), None);
    }
}
