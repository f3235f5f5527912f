//! The system calls that the standard library and socket2 do not cover: messages with control data, several messages a
//! call, the error queue, and a few socket options.
//!
//! The reason not to use quinn-udp 0.6.3, which has the messages with control data, is not speed. Over IPv4 loopback
//! (Linux 6.18, x86-64, sender and receiver in one thread on one CPU of a shared virtual machine, five runs of 61
//! interleaved rounds of 600, medians of ours over the better of its `recv` with one buffer and with several, for send
//! and receive):
//!
//! | | ours / quinn-udp |
//! |---|---|
//! | 44 records of 1,472 bytes, one message (5 or 12 us, by run) | 0.90 to 1.08, median 0.98 |
//! | one record of 1,472 or 100 bytes (1.3 us) | 0.69 to 1.01, median 0.89 |
//! | ten messages of 5 x 1,472 + 700 bytes waiting | 0.89 to 1.09, median 1.01 |
//! | ten messages of 3 x 100 + 60 bytes waiting | 0.96 to 1.13, median 0.98 |
//!
//! So it is equal where bytes count, and `sendmmsg` gains nothing to speak of; what a lone record saves are probably
//! the packet information and the time stamp that quinn-udp has the kernel add to each, which was not measured apart.
//! (A train without offload takes 11 to 21 times as long.) What it lacks decides: its error queue names who reports and
//! not the destination it is about, which of many peers on one socket is the question; one path that refuses trains
//! ends them for the whole socket; and it leaves no choice of the options it sets.
#![expect(unsafe_code, reason = "recvmsg, sendmsg, sendmmsg and the options have no safe form here")]

use std::{
    io,
    mem::{self, MaybeUninit},
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use crate::{address::RawAddress, bpf::Instruction};

/// Bytes of a huge page: 2 MiB where base pages have 4 KiB. With another size a mapping is less well aligned, no more.
const HUGE: usize = 2 << 20;

/// Counters of SO_MEMINFO, and the place of the drops among them (include/uapi/linux/sock_diag.h).
const MEMINFO_VARS: usize = 9;
const MEMINFO_DROPS: usize = 8;

/// Messages in one call of `sendmmsg`.
pub(crate) const BATCH: usize = 64;

/// Result of one `recvmsg`.
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// Bytes of every record but the last if the kernel joined several, as it says.
    pub(crate) stride: Option<i32>,
    /// The data or the control data was longer than its buffer.
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
    /// This host says so, and of a datagram that it was just asked to send; else it came by ICMP.
    pub(crate) local: bool,
}

/// One message to send.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// Destination of the datagram.
    pub(crate) address: &'a RawAddress,
    /// Its records, without gaps.
    pub(crate) bytes: &'a [u8],
    /// Bytes of every record but the last; 0: it is one record.
    pub(crate) segment: u16,
    /// ECN bits for the IP header.
    pub(crate) ecn: u8,
}

/// Room for the control messages of one receive: TOS or traffic class, the stride, and an extended error with its
/// offender (16 + 28 bytes), each behind a 16-byte header.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Room for those of one send: TOS or traffic class, and the segment size.
#[repr(C, align(8))]
struct SendControl([u8; 48]);

/// Receives one datagram, or several that the kernel joined.
pub(crate) fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Received> {
    receive_datagram(socket, as_room(buf))
}

/// The same behind what is in `buf`, into all the room that is left there. What was truncated stays there as well.
#[cfg(feature = "tokio")]
pub(crate) fn receive_behind(socket: BorrowedFd<'_>, buf: &mut bytes::BytesMut) -> io::Result<Received> {
    let received = receive_datagram(socket, buf.spare_capacity_mut())?;
    // SAFETY: the kernel has written `received.len` bytes to the start of the spare capacity, and that is where they end.
    unsafe { buf.set_len(buf.len() + received.len) };
    Ok(received)
}

fn receive_datagram(socket: BorrowedFd<'_>, room: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
    let mut ecn = 0;
    let mut stride = None;
    let (len, flags, from) = receive_message(socket, room, 0, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_TOS) => ecn = data.first().map_or(0, |tos| tos & 3),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            ecn = data.first_chunk().map_or(0, |class| (i32::from_ne_bytes(*class) & 3) as u8);
        }
        (libc::SOL_UDP, libc::UDP_GRO) => stride = data.first_chunk().map(|size| i32::from_ne_bytes(*size)),
        _ => {}
    })?;
    let truncated = flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(Received { len, stride, truncated, from, ecn })
}

/// Takes one entry off the error queue; `WouldBlock` when it is empty.
pub(crate) fn receive_error(socket: BorrowedFd<'_>) -> io::Result<QueuedError> {
    let mut errno = 0;
    let mut info = 0;
    let mut local = false;
    let (_, _, to) = receive_message(socket, &mut [], libc::MSG_ERRQUEUE, |level, kind, data| {
        let extended = matches!(
            (level, kind),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        );
        // struct sock_extended_err (include/uapi/linux/errqueue.h): errno u32, origin, type, code and pad of a byte
        // each, info u32, data u32.
        if extended && let Some(error) = data.first_chunk::<16>() {
            errno = i32::from_ne_bytes([error[0], error[1], error[2], error[3]]);
            local = error[4] == libc::SO_EE_ORIGIN_LOCAL;
            info = u32::from_ne_bytes([error[8], error[9], error[10], error[11]]);
        }
    })?;
    Ok(QueuedError { to, errno, info, local })
}

/// Sends one message.
pub(crate) fn send(socket: BorrowedFd<'_>, outgoing: Outgoing<'_>) -> io::Result<()> {
    let mut vector = vector_of(outgoing);
    let mut control = SendControl([0; 48]);
    let message = message_of(outgoing, &mut vector, &mut control);
    // SAFETY: every pointer in `message` refers to a local or to what `outgoing` borrows, all of which outlive the call,
    // with its true length; the kernel only reads through them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends messages until one fails, at most [`BATCH`]. How many were sent; the error if the first failed. Why a later one
/// failed the kernel keeps to itself (`__sys_sendmmsg` in net/socket.c).
pub(crate) fn send_many<'a>(
    socket: BorrowedFd<'_>,
    messages: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut controls = [const { MaybeUninit::<SendControl>::uninit() }; BATCH];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let mut count = 0;
    let rooms = vectors.iter_mut().zip(&mut controls).zip(&mut headers);
    for (outgoing, ((vector, control), header)) in messages.zip(rooms) {
        let vector = vector.write(vector_of(outgoing));
        let control = control.write(SendControl([0; 48]));
        header.write(libc::mmsghdr { msg_hdr: message_of(outgoing, vector, control), msg_len: 0 });
        count += 1;
    }
    // SAFETY: the first `count` headers are initialised; their pointers refer to elements of `vectors` and `controls`
    // or to what the messages borrow, all of which outlive the call, with their true lengths. The kernel writes msg_len
    // of the headers and nothing else.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), count, libc::MSG_NOSIGNAL as _)
    };
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
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

/// Reads an integer socket option.
pub(crate) fn option(socket: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers refer to locals, `len` says how long `value` is.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Puts a filter on a socket, in place of the one before (SO_ATTACH_FILTER, socket(7)).
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_long| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` says where `len` instructions of the kernel's layout are; it only reads them, during the call, and
    // checks them.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            ptr::from_ref(&program).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the filter off a socket; none there is fine.
pub(crate) fn detach_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    match set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// Datagrams that the kernel dropped at the socket: kept out by a filter, or without room (SO_MEMINFO, Linux 4.12).
pub(crate) fn kernel_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut counters = [0_u32; MEMINFO_VARS];
    let mut len = mem::size_of_val(&counters) as libc::socklen_t;
    // SAFETY: both pointers refer to locals, `len` says how long `counters` is.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            counters.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(counters[MEMINFO_DROPS]) }
}

fn vector_of(outgoing: Outgoing<'_>) -> libc::iovec {
    libc::iovec { iov_base: outgoing.bytes.as_ptr().cast_mut().cast(), iov_len: outgoing.bytes.len() }
}

/// The header for `outgoing`. It points to its arguments, and is good for as long as they stay where they are.
fn message_of(outgoing: Outgoing<'_>, vector: &mut libc::iovec, control: &mut SendControl) -> libc::msghdr {
    let address = outgoing.address.as_bytes();
    // SAFETY: msghdr is a plain C struct for which all-zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len() as libc::socklen_t;
    message.msg_iov = ptr::from_mut(vector);
    message.msg_iovlen = 1;
    let mut used = 0;
    if outgoing.ecn & 3 != 0 {
        let (level, kind) = if outgoing.address.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        used += put_control(
            &mut control.0[used..],
            level,
            kind,
            libc::c_int::from(outgoing.ecn & 3).to_ne_bytes(),
        );
    }
    if outgoing.segment != 0 {
        let size = outgoing.segment.to_ne_bytes();
        used += put_control(&mut control.0[used..], libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }
    if used > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = used as _;
    }
    message
}

/// Writes one control message to the beginning of `room`, which is part of a [`SendControl`] and begins where the last
/// one ended. Bytes it takes.
fn put_control<const N: usize>(room: &mut [u8], level: i32, kind: i32, data: [u8; N]) -> usize {
    // SAFETY: both macros only compute.
    let (len, space) = unsafe { (libc::CMSG_LEN(N as u32), libc::CMSG_SPACE(N as u32) as usize) };
    let room = &mut room[..space];
    // SAFETY: `room` is CMSG_SPACE(N) bytes long, enough for the header and the data behind it. It is aligned for
    // cmsghdr: SendControl is, and what CMSG_SPACE returns is a multiple of that alignment. All bytes are a valid cmsghdr.
    unsafe {
        let header = room.as_mut_ptr().cast::<libc::cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = len as _;
        libc::CMSG_DATA(header).cast::<[u8; N]>().write_unaligned(data);
    }
    space
}

/// Bytes as room for others.
fn as_room(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same bytes for the same time; `receive_message`, which it is for, has the kernel write to them alone.
    unsafe { std::slice::from_raw_parts_mut(buf.as_mut_ptr().cast(), buf.len()) }
}

/// `recvmsg`: bytes, flags, address; every control message goes to `each` as (level, type, data).
fn receive_message(
    socket: BorrowedFd<'_>,
    room: &mut [MaybeUninit<u8>],
    flags: i32,
    mut each: impl FnMut(i32, i32, &[u8]),
) -> io::Result<(usize, i32, Option<SocketAddr>)> {
    let mut address = RawAddress::EMPTY;
    let name = address.room();
    let mut vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is a plain C struct for which all-zero bytes are a valid value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = name.len() as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: `message` refers to `room`, `control` and `address`, each with its true length, all alive during the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_DONTWAIT) };
    let received = usize::try_from(received).map_err(|_negative| io::Error::last_os_error())?;
    address.set_len(message.msg_namelen as usize);
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
    Ok((received, message.msg_flags, address.decode()))
}

/// A private anonymous mapping, writable, whose bytes begin where a huge page does.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Start of the mapping, and its length.
    base: *mut libc::c_void,
    mapped: usize,
    /// Start of the bytes in it, and their number: whole huge pages.
    start: usize,
    room: usize,
}

// SAFETY: the mapping belongs to this value alone, and no thread has a part in it.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Room for `len` bytes, zero.
    pub(crate) fn new(len: usize) -> Self {
        let room = len.max(1).next_multiple_of(HUGE);
        let mapped = room + HUGE;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address of the kernel's choice, touches no memory there is.
        let base = unsafe { libc::mmap(ptr::null_mut(), mapped, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            let layout =
                std::alloc::Layout::from_size_align(mapped, 1).unwrap_or(std::alloc::Layout::new::<u8>());
            std::alloc::handle_alloc_error(layout);
        }
        let start = base.align_offset(HUGE);
        Self { base, mapped, start: if start <= HUGE { start } else { 0 }, room }
    }

    /// The first `len` bytes.
    pub(crate) fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: `start + room <= mapped`, all of it mapped and initialised (anonymous memory is zero) for as long as
        // self lives; only `bytes_mut` gives out a way to write, and borrows self for it.
        unsafe { std::slice::from_raw_parts(self.base.cast::<u8>().add(self.start), len.min(self.room)) }
    }

    /// The same, to write to.
    pub(crate) fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        // SAFETY: as in `bytes`; self is borrowed for writing, so no other reference to them exists.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast::<u8>().add(self.start), len.min(self.room)) }
    }

    /// Asks for huge pages: now, else some time.
    pub(crate) fn make_huge(&mut self) {
        // SAFETY: within the mapping; the advice leaves its content as it is.
        unsafe {
            let bytes = self.base.cast::<u8>().add(self.start).cast();
            if libc::madvise(bytes, self.room, libc::MADV_COLLAPSE) != 0 {
                libc::madvise(bytes, self.room, libc::MADV_HUGEPAGE);
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base, self.mapped) };
    }
}
