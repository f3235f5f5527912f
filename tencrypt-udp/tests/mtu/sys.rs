//! A child process in a network namespace of its own, and sockets that are set up unlike ours.
#![expect(unsafe_code, reason = "unshare, ioctl and these socket options have no safe form here")]

use std::{
    io, mem,
    net::UdpSocket,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

use socket2::{Domain, SockRef};

const MTU: i32 = 1_500;

/// Makes `child` start in a fresh network namespace whose `lo` is up with [`MTU`]; unless root, as the root of a fresh
/// user namespace, so that it may use raw sockets.
pub(crate) fn in_new_namespace(child: &mut Command) {
    // SAFETY: geteuid has no conditions.
    let root = format!("0 {} 1", unsafe { libc::geteuid() });
    // SAFETY: the closure runs between fork and exec and makes system calls only.
    unsafe { child.pre_exec(move || enter(&root)) };
}

fn enter(root: &str) -> io::Result<()> {
    // SAFETY: plain system calls; `root` has the length given; `request` is a valid ifreq with a NUL-terminated name for
    // as long as they run, and all-zero bytes are a valid ifreq.
    unsafe {
        let user = if libc::geteuid() == 0 { 0 } else { libc::CLONE_NEWUSER };
        checked(libc::unshare(user | libc::CLONE_NEWNET))?;
        if user != 0 {
            let map = checked(libc::open(c"/proc/self/uid_map".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
            checked(libc::write(map, root.as_ptr().cast(), root.len()) as i32)?;
            checked(libc::close(map))?;
        }
        let socket = checked(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let mut request: libc::ifreq = mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_mtu = MTU;
        checked(libc::ioctl(socket, libc::SIOCSIFMTU as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        checked(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw mut request))?;
        checked(libc::close(socket))?;
    }
    Ok(())
}

/// Makes `socket` send datagrams without a checksum, and take them over IPv6 too.
pub(crate) fn without_checksums(socket: &UdpSocket) -> io::Result<()> {
    if SockRef::from(socket).domain()? == Domain::IPV4 {
        switch_on(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK)
    } else {
        switch_on(socket, libc::SOL_UDP, libc::UDP_NO_CHECK6_TX)?;
        switch_on(socket, libc::SOL_UDP, libc::UDP_NO_CHECK6_RX)
    }
}

/// Makes `socket` tell more of every datagram than the transport has room for.
pub(crate) fn with_much_to_tell(socket: &UdpSocket) -> io::Result<()> {
    switch_on(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
    if SockRef::from(socket).domain()? == Domain::IPV4 {
        switch_on(socket, libc::IPPROTO_IP, libc::IP_PKTINFO)?;
        switch_on(socket, libc::IPPROTO_IP, libc::IP_RECVTTL)?;
        switch_on(socket, libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR)
    } else {
        switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?;
        switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)?;
        switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR)
    }
}

fn switch_on(socket: &UdpSocket, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the pointer refers to a local of the length given.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), len) })?;
    Ok(())
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
