//! Addresses that sockets of the namespace are connected to.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::netlink::Netlink;

/// `SOCK_DIAG_BY_FAMILY` (include/uapi/linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Bytes of `struct inet_diag_req_v2` (include/uapi/linux/inet_diag.h): family, protocol, ext, pad, states (u32), then
/// a socket id of 48 bytes, all zero for all sockets.
const REQUEST: usize = 56;

/// Place of the foreign address in `struct inet_diag_msg`: family, state, timer, retrans, then the id: ports 2 and 2,
/// source 16, destination 16.
const DESTINATION: std::ops::Range<usize> = 24..40;

/// All states with a peer but `TIME_WAIT` (6), as bits (include/net/tcp_states.h): established, SYN sent and received,
/// FIN wait 1 and 2, close wait, last ack, closing. Connected UDP sockets are "established".
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A connection to the kernel's socket tables in one namespace.
#[derive(Debug)]
pub struct SocketTable {
    netlink: Netlink,
}

impl SocketTable {
    /// Opens a connection in the calling thread's namespace.
    ///
    /// # Errors
    /// The netlink socket cannot be opened: no descriptors, or a kernel without `sock_diag`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(NETLINK_SOCK_DIAG)? })
    }

    /// The remote addresses of all TCP and connected UDP sockets, without those in `TIME_WAIT`. A socket that sends
    /// with `sendto` only has no peer and is not seen. A family or protocol the kernel cannot list counts as empty
    /// (`ENOENT`: no `inet_diag` module).
    ///
    /// # Errors
    /// Netlink refuses the query or cannot be read; a family that the kernel lacks is no error.
    pub fn destinations(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        let mut found = BTreeSet::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
                let mut request = [0; REQUEST];
                request[0] = family as u8;
                request[1] = protocol as u8;
                request[4..8].copy_from_slice(&STATES.to_ne_bytes());
                let result = self.netlink.dump_raw(SOCK_DIAG_BY_FAMILY, &request, |kind, message| {
                    if kind == SOCK_DIAG_BY_FAMILY {
                        found.extend(destination(message));
                    }
                });
                match result {
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
                    result => result?,
                }
            }
        }
        Ok(found)
    }
}

fn destination(message: &[u8]) -> Option<IpAddr> {
    let family = i32::from(*message.first()?);
    let octets: [u8; 16] = *message.get(DESTINATION)?.first_chunk()?;
    let address = match family {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*octets.first_chunk::<4>()?)),
        // An IPv4 peer of a dual-stack socket is shown as ::ffff:a.b.c.d.
        libc::AF_INET6 => Ipv6Addr::from(octets).to_canonical(),
        _ => return None,
    };
    (!address.is_unspecified()).then_some(address)
}
