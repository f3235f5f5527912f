//! Options of the sockets that the rest of the program opens.

use std::{io, os::fd::AsFd};

use socket2::SockRef;

use crate::{MARK, name::InterfaceName, sys};

/// Marks a socket as the tunnel's own: its packets pass by table 8362 and through the chains. Needs `CAP_NET_ADMIN` or
/// `CAP_NET_RAW` in the namespace.
///
/// # Errors
/// setsockopt(2) fails: `EPERM` without `CAP_NET_ADMIN` or `CAP_NET_RAW`.
pub fn mark_socket(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(MARK)
}

/// Binds a socket to one interface: it hears and answers nobody else.
///
/// # Errors
/// `ENODEV` where there is no such interface, `EPERM` without the right to bind (SO_BINDTODEVICE, socket(7)).
pub fn bind_to_interface(socket: &impl AsFd, interface: InterfaceName) -> io::Result<()> {
    SockRef::from(socket).bind_device(Some(interface.as_str().as_bytes()))
}

/// Forbids fragmentation of what an IP socket of either family sends (`IP_PMTUDISC_PROBE`: don't-fragment is set, and
/// what a router says about the path's MTU is not believed). On a dual-stack socket both families are set.
///
/// # Errors
/// setsockopt(2) refuses an option.
pub fn forbid_fragmentation(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if socket.domain()? == socket2::Domain::IPV6 {
        sys::set_option(
            socket.as_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_PROBE,
        )?;
        if socket.only_v6()? {
            return Ok(());
        }
    }
    sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
}

/// Asks for receive and send buffers of so many bytes: past the system's limit where the kernel lets this process
/// (`CAP_NET_ADMIN` in the first user namespace), else up to the limit.
///
/// # Errors
/// setsockopt(2) refuses the second try too.
pub fn set_buffers(socket: &impl AsFd, receive: usize, send: usize) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let forced = |name, bytes: usize| {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        sys::set_option(socket.as_fd(), libc::SOL_SOCKET, name, bytes)
    };
    forced(libc::SO_RCVBUFFORCE, receive).or_else(|_| socket.set_recv_buffer_size(receive))?;
    forced(libc::SO_SNDBUFFORCE, send).or_else(|_| socket.set_send_buffer_size(send))
}
