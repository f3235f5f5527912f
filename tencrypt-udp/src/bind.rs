//! Making the two sockets: one port for both families, no fragmentation, errors of the path readable.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::sys;

/// Bytes asked for as receive and send buffer of a socket: a burst of some 2,700 full-sized records, 3 ms at 10 Gbit/s,
/// may wait while the lane is busy. The kernel doubles the figure for its own bookkeeping (socket(7), SO_RCVBUF).
const SOCKET_BUFFER: usize = 4 << 20;

/// Tries to find a port that is free in both families when the kernel picks it.
const PICKS: usize = 16;

/// The IP version of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(crate) fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Reason for which there is no transport.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket of this namespace holds the port.
    #[error("UDP port {port} is taken ({family})")]
    PortTaken {
        /// The port.
        port: u16,
        /// In which family.
        family: Family,
    },
    /// Neither IPv4 nor IPv6 exists here.
    #[error("neither IPv4 nor IPv6 is available")]
    NoFamily,
    /// The sockets given do not belong together: both of one family, or bound to different ports.
    #[error("the sockets given are not one IPv4 and one IPv6 socket bound to the same port")]
    Mismatch,
    /// The caller's set-up of the socket failed, for instance for lack of the right to mark it.
    #[error("cannot set up the {family} socket")]
    SetUp {
        /// Family of the socket.
        family: Family,
        /// Error of the set-up.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot open the {family} socket")]
    Socket {
        /// Family of the socket.
        family: Family,
        /// Error of the kernel.
        source: io::Error,
    },
}

/// The sockets of a transport; at least one exists.
pub(crate) struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    pub(crate) port: u16,
}

impl Sockets {
    pub(crate) fn bind(
        port: u16,
        mut set_up: impl FnMut(&UdpSocket) -> io::Result<()>,
    ) -> Result<Self, BindError> {
        let mut left = if port == 0 { PICKS } else { 1 };
        loop {
            left -= 1;
            let v4 = open(Family::V4, port, &mut set_up)?;
            let chosen = match &v4 {
                Some(socket) => bound_port(socket, Family::V4)?,
                None => port,
            };
            match open(Family::V6, chosen, &mut set_up) {
                // The kernel picked a port that IPv6 has in use: pick again.
                Err(BindError::PortTaken { .. }) if left > 0 => {}
                Err(error) => return Err(error),
                Ok(v6) => return Self::from_sockets(v4, v6),
            }
        }
    }

    /// The socket of `family`.
    pub(crate) fn of(&self, family: Family) -> Option<BorrowedFd<'_>> {
        let socket = match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        };
        socket.map(AsFd::as_fd)
    }

    /// Applies `option` to every socket; whether all have it.
    pub(crate) fn all<T>(&self, mut option: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> bool {
        let mut all = true;
        for family in [Family::V4, Family::V6] {
            if let Some(socket) = self.of(family) {
                all &= option(socket).is_ok();
            }
        }
        all
    }

    pub(crate) fn from_sockets(v4: Option<UdpSocket>, v6: Option<UdpSocket>) -> Result<Self, BindError> {
        let mut ports = Vec::with_capacity(2);
        for (socket, family) in [(&v4, Family::V4), (&v6, Family::V6)] {
            let Some(socket) = socket else { continue };
            ports.push(bound_port(socket, family)?);
            configure(socket, family).map_err(|source| BindError::Socket { family, source })?;
        }
        match *ports {
            [] => Err(BindError::NoFamily),
            [port] => Ok(Self { v4, v6, port }),
            [first, second] if first == second => Ok(Self { v4, v6, port: first }),
            _ => Err(BindError::Mismatch),
        }
    }
}

/// A socket of `family` bound to the wildcard address; `None` if the family does not exist here.
fn open(
    family: Family,
    port: u16,
    set_up: &mut impl FnMut(&UdpSocket) -> io::Result<()>,
) -> Result<Option<UdpSocket>, BindError> {
    let (domain, address) = match family {
        Family::V4 => (Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Family::V6 => (Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
    };
    let socket = match Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)) {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
        Err(source) => return Err(BindError::Socket { family, source }),
    };
    if family == Family::V6 {
        socket.set_only_v6(true).map_err(|source| BindError::Socket { family, source })?;
    }
    let socket = UdpSocket::from(socket);
    set_up(&socket).map_err(|source| BindError::SetUp { family, source })?;
    match SockRef::from(&socket).bind(&address.into()) {
        Ok(()) => Ok(Some(socket)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Err(BindError::PortTaken { port, family }),
            Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => Ok(None),
            _ => Err(BindError::Socket { family, source: error }),
        },
    }
}

/// The port of a bound socket, which must be of `family`.
fn bound_port(socket: &UdpSocket, family: Family) -> Result<u16, BindError> {
    let address = socket.local_addr().map_err(|source| BindError::Socket { family, source })?;
    match (family, address) {
        (Family::V4, SocketAddr::V4(address)) if address.port() != 0 => Ok(address.port()),
        (Family::V6, SocketAddr::V6(address)) if address.port() != 0 => Ok(address.port()),
        _ => Err(BindError::Mismatch),
    }
}

fn configure(socket: &UdpSocket, family: Family) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let fd = socket.as_fd();
    // PROBE: never fragment, and never believe a forged "fragmentation needed" below the device's MTU (ip(7)).
    match family {
        Family::V4 => {
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
            sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        }
        Family::V6 => {
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
    }
    // The FORCE options pass net.core.rmem_max and need CAP_NET_ADMIN in the initial user namespace; without it the
    // plain ones take what the limit allows. A smaller buffer only loses more in a burst.
    let size = SOCKET_BUFFER as i32;
    if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        let _ = SockRef::from(socket).set_recv_buffer_size(SOCKET_BUFFER);
    }
    if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
        let _ = SockRef::from(socket).set_send_buffer_size(SOCKET_BUFFER);
    }
    Ok(())
}
