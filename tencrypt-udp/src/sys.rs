//! The system calls that the standard library and socket2 do not cover: messages with control data, the error queue,
//! and a few socket options.
#![expect(unsafe_code, reason = "recvmsg, sendmsg and setsockopt with control data have no safe form here")]

use std::{
    io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use socket2::SockAddr;

/// One received datagram.
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// The datagram was longer than the buffer.
    pub(crate) truncated: bool,
    /// Source; `None` if it is no IP address.
    pub(crate) from: Option<SocketAddr>,
    /// ECN bits of the IP header, 0 if the kernel did not say.
    pub(crate) ecn: u8,
}

/// One entry of a socket's error queue.
pub(crate) struct QueuedError {
    /// Destination of the datagram it is about.
    pub(crate) to: Option<SocketAddr>,
    /// `ee_errno` of `struct sock_extended_err`.
    pub(crate) errno: i32,
    /// `ee_info`: the MTU for EMSGSIZE.
    pub(crate) info: u32,
}

/// Room for the control messages of one call: TOS or traffic class, and an extended error with its offender
/// (16 + 28 bytes), each behind a 16-byte header.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Receives one datagram.
pub(crate) fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Received> {
    let mut ecn = 0;
    let (len, flags, from) = receive_message(socket, buf, 0, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_TOS) => ecn = data.first().map_or(0, |tos| tos & 3),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            ecn = data.first_chunk().map_or(0, |class| (i32::from_ne_bytes(*class) & 3) as u8);
        }
        _ => {}
    })?;
    Ok(Received { len, truncated: flags & libc::MSG_TRUNC != 0, from, ecn })
}

/// Takes one entry off the error queue; `WouldBlock` when it is empty.
pub(crate) fn receive_error(socket: BorrowedFd<'_>) -> io::Result<QueuedError> {
    let mut errno = 0;
    let mut info = 0;
    let (_, _, to) = receive_message(socket, &mut [], libc::MSG_ERRQUEUE, |level, kind, data| {
        let extended = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // struct sock_extended_err (include/uapi/linux/errqueue.h): errno u32, four bytes, info u32, data u32.
        if extended && let Some(error) = data.first_chunk::<16>() {
            errno = i32::from_ne_bytes([error[0], error[1], error[2], error[3]]);
            info = u32::from_ne_bytes([error[8], error[9], error[10], error[11]]);
        }
    })?;
    Ok(QueuedError { to, errno, info })
}

/// Sends one datagram with `ecn` in its IP header.
pub(crate) fn send(socket: BorrowedFd<'_>, to: SocketAddr, bytes: &[u8], ecn: u8) -> io::Result<()> {
    let address = SockAddr::from(to);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is a plain C struct for which all-zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if ecn & 3 != 0 {
        let (level, kind) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        let size = mem::size_of::<libc::c_int>() as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; CMSG_FIRSTHDR points into `control`, which is aligned and has
        // 128 bytes, more than CMSG_SPACE(4); the data written is within the length just set.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(header).cast::<libc::c_int>().write_unaligned(libc::c_int::from(ecn & 3));
        }
    }
    // SAFETY: every pointer in `message` refers to a local or to `bytes`, all of which outlive the call, with its
    // true length; the kernel only reads through them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets an integer socket option.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer refers to a local of the length given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `recvmsg`: bytes, flags, address; every control message goes to `each` as (level, type, data).
fn receive_message(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    flags: i32,
    mut each: impl FnMut(i32, i32, &[u8]),
) -> io::Result<(usize, i32, Option<SocketAddr>)> {
    let mut vector = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is a plain C struct for which all-zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: `message` refers to `buf`, `control` and the storage that try_init hands out, each with its true length,
    // all alive during the call. recvmsg initialises the address and its length is passed back.
    let (received, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            message.msg_name = storage.cast();
            message.msg_namelen = *len;
            let received = libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_DONTWAIT);
            if received < 0 {
                return Err(io::Error::last_os_error());
            }
            *len = message.msg_namelen;
            Ok(received)
        })?
    };
    // SAFETY: the kernel set msg_controllen to the bytes it wrote into `control`; CMSG_FIRSTHDR and CMSG_NXTHDR return
    // only headers within them or null, and cmsg_len, written by the kernel, is clamped to what is left of `control`.
    unsafe {
        let end = control.0.as_ptr() as usize + control.0.len().min(message.msg_controllen as usize);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            let len = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            let data = std::slice::from_raw_parts(data, len.min(end.saturating_sub(data as usize)));
            each((*header).cmsg_level, (*header).cmsg_type, data);
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((received as usize, message.msg_flags, address.as_socket()))
}
