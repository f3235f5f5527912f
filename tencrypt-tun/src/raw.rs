//! Raw sockets: packets that leave as they are, past the tunnel.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsFd as _,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{sockets::mark_socket, sys};

/// `IP_NODEFRAG` (include/uapi/linux/in.h): connection tracking in the pod must not put fragments together, which the
/// interface could then not send.
const IP_NODEFRAG: i32 = 22;

/// One marked `IPPROTO_RAW` socket of each family, non-blocking. The packet brings its own IP header and is routed by
/// its destination.
#[derive(Debug)]
pub struct RawSockets {
    v4: Socket,
    /// Nothing where the kernel has no IPv6.
    v6: Option<Socket>,
}

impl RawSockets {
    /// Opens the sockets in the calling thread's namespace.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_RAW`; others when descriptors or memory have run out.
    pub fn open() -> io::Result<Self> {
        let v4 = open(Domain::IPV4)?;
        sys::set_option(v4.as_fd(), libc::IPPROTO_IP, IP_NODEFRAG, 1)?;
        let v6 = match open(Domain::IPV6) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            socket => Some(socket?),
        };
        Ok(Self { v4, v6 })
    }

    /// Sends one complete IP packet: no super-packet, its checksums finished, no larger than the interface's MTU, since
    /// raw sockets neither cut nor finish anything.
    ///
    /// # Errors
    /// `InvalidInput` for what is not an IP packet, `WouldBlock`, `EMSGSIZE` above the MTU, and what routing says.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let (socket, destination) = match packet.first().map(|first| first >> 4) {
            // Destinations: RFC 791 section 3.1, RFC 8200 section 3. Ports of raw addresses are zero.
            Some(4) => (Some(&self.v4), destination_v4(packet)),
            Some(6) => (self.v6.as_ref(), destination_v6(packet)),
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let destination = destination.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let socket = socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        socket.send_to(packet, &destination.into()).map(drop)
    }
}

fn open(domain: Domain) -> io::Result<Socket> {
    let socket =
        Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
    mark_socket(&socket)?;
    // IPPROTO_RAW receives nothing; the buffer would be idle memory.
    Ok(socket)
}

fn destination_v4(packet: &[u8]) -> Option<SocketAddr> {
    let octets: [u8; 4] = *packet.get(16..20)?.first_chunk()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(octets), 0).into())
}

fn destination_v6(packet: &[u8]) -> Option<SocketAddr> {
    let octets: [u8; 16] = *packet.get(24..40)?.first_chunk()?;
    Some(SocketAddrV6::new(Ipv6Addr::from(octets), 0, 0, 0).into())
}
