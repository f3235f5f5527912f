//! Addresses that sockets of the namespace are connected to.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};

use crate::{name::InterfaceName, netlink::Netlink, underlay::Link};

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

/// States of sockets that wait for somebody, as bits: listening TCP, UDP without a peer ("closed").
const TCP_LISTENS: u32 = 1 << 10;
const UDP_WAITS: u32 = 1 << 7;

/// Places of the own port, the own address and the interface's index in `struct inet_diag_msg`.
const SOURCE_PORT: std::ops::Range<usize> = 4..6;
const SOURCE: std::ops::Range<usize> = 8..24;
const INTERFACE: std::ops::Range<usize> = 40..44;

/// Ports of DHCP clients (RFC 2131, RFC 8415), which are bound to an interface for a reason: their answers come from the link.
const DHCP_CLIENTS: [u16; 2] = [68, 546];

/// A server's socket that is bound to an interface (`SO_BINDTODEVICE`, socket(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct BoundServer {
    /// True for TCP, false for UDP.
    pub tcp: bool,
    /// The address and port that it waits at.
    pub address: SocketAddr,
}

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
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
            self.dump(protocol, STATES, |message| found.extend(destination(message)))?;
        }
        Ok(found)
    }

    /// The servers that are bound to `interface`, as it is called in the calling thread's namespace: packets that come in by
    /// another do not reach them. Those of DHCP clients are left out.
    ///
    /// # Errors
    /// Netlink refuses the query or cannot be read; a family that the kernel lacks is no error.
    pub fn bound_servers(&mut self, interface: InterfaceName) -> io::Result<BTreeSet<BoundServer>> {
        let mut found = BTreeSet::new();
        let Some(Link { index, .. }) = Link::find(&mut Netlink::open(NETLINK_ROUTE)?, interface)? else {
            return Ok(found);
        };
        for (protocol, states) in [(libc::IPPROTO_TCP, TCP_LISTENS), (libc::IPPROTO_UDP, UDP_WAITS)] {
            let tcp = protocol == libc::IPPROTO_TCP;
            self.dump(protocol, states, |message| {
                let address = bound_to(message, index).filter(|at| tcp || !DHCP_CLIENTS.contains(&at.port()));
                found.extend(address.map(|address| BoundServer { tcp, address }));
            })?;
        }
        Ok(found)
    }

    /// Calls `look` with each socket of a protocol in these states, of both families.
    fn dump(&mut self, protocol: i32, states: u32, mut look: impl FnMut(&[u8])) -> io::Result<()> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = [0; REQUEST];
            request[0] = family as u8;
            request[1] = protocol as u8;
            request[4..8].copy_from_slice(&states.to_ne_bytes());
            let result = self.netlink.dump_raw(SOCK_DIAG_BY_FAMILY, &request, |kind, message| {
                if kind == SOCK_DIAG_BY_FAMILY {
                    look(message);
                }
            });
            match result {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// The address of a socket that is bound to the interface with this index.
fn bound_to(message: &[u8], index: u32) -> Option<SocketAddr> {
    if u32::from_ne_bytes(*message.get(INTERFACE)?.first_chunk()?) != index {
        return None;
    }
    let port = u16::from_be_bytes(*message.get(SOURCE_PORT)?.first_chunk()?);
    let octets: [u8; 16] = *message.get(SOURCE)?.first_chunk()?;
    let address = match i32::from(*message.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::from(*octets.first_chunk::<4>()?)),
        libc::AF_INET6 => Ipv6Addr::from(octets).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
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
