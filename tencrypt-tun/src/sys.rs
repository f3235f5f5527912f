//! The system calls this crate needs and neither the standard library nor socket2 offers.

#![expect(
    unsafe_code,
    reason = "ioctl, bpf, fstatfs, setns, setsockopt and poll have no safe wrapper in this crate's dependencies"
)]

use std::{
    ffi::c_int,
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use crate::name::InterfaceName;

/// `NS_GET_NSTYPE`, `_IO(0xb7, 0x3)` (include/uapi/linux/nsfs.h).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// `TUNSETSTEERINGEBPF`, `_IOR('T', 224, int)` (include/uapi/linux/if_tun.h).
const TUNSETSTEERINGEBPF: libc::Ioctl = libc::_IOR::<c_int>(b'T' as u32, 224);

/// `BPF_PROG_LOAD` and `BPF_PROG_TYPE_SOCKET_FILTER` (include/uapi/linux/bpf.h).
const BPF_PROG_LOAD: c_int = 5;
const SOCKET_FILTER: u32 = 1;

/// `struct bpf_insn` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination and source, four bits each.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` has had from the start.
#[repr(C, align(8))]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Moves the calling thread, and no other, into the network namespace `namespace` refers to.
pub(crate) fn enter_netns(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns reads nothing from our memory; the descriptor is open for the duration of the call.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Tells if the file is a network namespace: nsfs answers `NS_GET_NSTYPE` with `CLONE_NEWNET` (ioctl_nsfs(2)).
pub(crate) fn is_netns(file: BorrowedFd<'_>) -> bool {
    let mut filesystem = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: fstatfs writes a whole statfs to the pointer when it returns 0, and it is read only then. The ioctl takes
    // no argument and is asked of nsfs alone, where its number means this.
    unsafe {
        libc::fstatfs(file.as_raw_fd(), filesystem.as_mut_ptr()) == 0
            && i128::from(filesystem.assume_init().f_type) == i128::from(libc::NSFS_MAGIC)
            && libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) == libc::CLONE_NEWNET
    }
}

/// `TUNSETIFF`: makes the device `name` with `flags` and attaches it to `file`, an open `/dev/net/tun`.
pub(crate) fn tun_set_iff(file: BorrowedFd<'_>, name: &InterfaceName, flags: c_int) -> io::Result<()> {
    // SAFETY: ifreq is plain old data, all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call; its name ends in a zero byte, since
    // an InterfaceName has at most 15 bytes.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) })
        .map(drop)
}

/// `TUNSETVNETHDRSZ`: bytes of the header in front of every packet.
pub(crate) fn tun_set_vnet_header(file: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives across the call.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as libc::Ioctl, &raw const bytes) })
        .map(drop)
}

/// `TUNSETOFFLOAD`: what the reader takes unfinished, `TUN_F_*`.
pub(crate) fn tun_set_offload(file: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    let argument = libc::c_ulong::from(flags);
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, argument) }).map(drop)
}

/// `TUNSETSTEERINGEBPF`: the program whose result chooses the queue of a packet. The device keeps the program.
pub(crate) fn tun_set_steering(file: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let program: c_int = program.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads one int, which lives across the call.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETSTEERINGEBPF, &raw const program) }).map(drop)
}

/// Loads a program that looks at packets.
pub(crate) fn bpf_load_socket_filter(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let load = ProgramLoad {
        kind: SOCKET_FILTER,
        count: u32::try_from(instructions.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        // It calls nothing that asks for a licence.
        license: c"MIT OR Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads size_of::<ProgramLoad>() bytes of `load`, `count` instructions and a string with its zero
    // byte, all of which live across the call; it writes nothing.
    let file =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<ProgramLoad>()) };
    let file = checked(RawFd::try_from(file).unwrap_or(-1))?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Sets an option whose value is an `int`.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads size_of::<c_int>() bytes from a c_int that lives across the call.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Waits until one of `files` can be read or has an error; false when `timeout` passes first.
pub(crate) fn wait_any_readable<const N: usize>(
    files: [Option<BorrowedFd<'_>>; N],
    timeout: Duration,
) -> io::Result<bool> {
    // poll leaves out a negative descriptor.
    let mut entries = files.map(|file| libc::pollfd {
        fd: file.map_or(-1, |file| file.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: poll reads and writes the N entries it is told of, which live across the call.
    checked(unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, milliseconds) })
        .map(|ready| ready > 0)
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The descriptor of a netlink socket, whose type has no `AsFd`.
pub(crate) fn borrow(socket: &netlink_sys::Socket) -> BorrowedFd<'_> {
    // SAFETY: the socket owns its descriptor and closes it no sooner than on drop, which the borrow outlives not.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}
