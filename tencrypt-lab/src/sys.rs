//! Every call into libc that the standard library and `socket2` do not offer.
#![expect(
    unsafe_code,
    reason = "namespaces, mounts, process signals, sendmmsg and the packet ring have no safe interface"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::SockAddr;

/// Moves the calling thread into the network namespace behind `namespace`.
pub(crate) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes two integers; the descriptor is open for the borrow.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Gives the calling thread a fresh network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Gives the calling thread a mount namespace of its own; nothing mounted in it is seen outside.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mounts_private()
}

/// Shows the file or directory `from` at `to` as well.
pub(crate) fn mount_bind(from: &CStr, to: &CStr) -> io::Result<()> {
    // SAFETY: both are terminated strings that outlive the call; type and data may be null for a bind mount.
    check(unsafe { libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) })
}

/// Puts an empty memory file system over the directory `to`.
pub(crate) fn mount_tmpfs(to: &CStr) -> io::Result<()> {
    let kind = c"tmpfs";
    // SAFETY: all strings are terminated and outlive the call; data may be null.
    check(unsafe { libc::mount(kind.as_ptr(), to.as_ptr(), kind.as_ptr(), libc::MS_NOSUID, ptr::null()) })
}

/// The index of a device of the calling thread's network namespace, 0 if there is none of that name.
pub(crate) fn interface_index(name: &CStr) -> u32 {
    // SAFETY: the string is terminated and outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// The user and group the process acts as.
pub(crate) fn effective_ids() -> (u32, u32) {
    // SAFETY: neither call has preconditions or can fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// The `id` maps of a world: 0 inside is the caller outside, nobody else is mapped (user_namespaces(7)).
pub(crate) struct WorldMaps {
    privileged: bool,
    users: Vec<u8>,
    groups: Vec<u8>,
}

impl WorldMaps {
    pub(crate) fn of_caller() -> Self {
        let (user, group) = effective_ids();
        Self {
            privileged: user == 0,
            users: format!("0 {user} 1\n").into_bytes(),
            groups: format!("0 {group} 1\n").into_bytes(),
        }
    }

    /// Only calls that are safe between fork and exec; allocates nothing.
    fn enter(&self) -> io::Result<()> {
        let fresh = libc::CLONE_NEWNET | libc::CLONE_NEWNS;
        // SAFETY: unshare takes flags only.
        let direct = self.privileged && unsafe { libc::unshare(fresh) } == 0;
        if !direct {
            // Root of a container without CAP_SYS_ADMIN comes here as well.
            // SAFETY: as above.
            check(unsafe { libc::unshare(fresh | libc::CLONE_NEWUSER) })?;
            write_file(c"/proc/self/setgroups", b"deny")?;
            write_file(c"/proc/self/uid_map", &self.users)?;
            write_file(c"/proc/self/gid_map", &self.groups)?;
        }
        mounts_private()
    }
}

/// Steps of a child between fork and exec. It always dies with the thread that started it.
#[derive(Default)]
pub(crate) struct ChildSetup {
    /// Enter this network namespace.
    pub(crate) network: Option<OwnedFd>,
    /// Make the namespaces of a world.
    pub(crate) world: Option<WorldMaps>,
}

/// Registers `setup` for the next spawn of `command`.
pub(crate) fn before_exec(command: &mut Command, setup: ChildSetup) {
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    let run = move || {
        if let Some(network) = &setup.network {
            enter_network(network.as_fd())?;
        }
        if let Some(maps) = &setup.world {
            maps.enter()?;
        }
        // Last, since a change of credentials may reset it; then a parent that died before is seen.
        // SAFETY: prctl with integer arguments; getppid has no preconditions.
        let orphan = unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong))?;
            libc::getppid() != parent
        };
        if orphan { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: the closure makes plain system calls only: no allocation, no lock, no access to other threads' state.
    unsafe { command.pre_exec(run) };
}

/// Sends `signal` to one process that is this process's unreaped child.
pub(crate) fn signal_process(process: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers.
    check(unsafe { libc::kill(process as i32, signal) })
}

/// Sends `signal` to the process group that `leader`, an unreaped child, leads.
pub(crate) fn signal_group(leader: u32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers.
    check(unsafe { libc::kill(-(leader as i32), signal) })
}

/// Tells if the child has ended; it stays unreaped, so its id stays its own.
pub(crate) fn has_exited(process: u32) -> io::Result<bool> {
    // SAFETY: siginfo_t is plain data for which zero is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writes for the call.
    check(unsafe { libc::waitid(libc::P_PID, process, &mut info, how) })?;
    // SAFETY: waitid filled the structure, or left it zero when no child has changed state.
    Ok(unsafe { info.si_pid() } != 0)
}

/// Sets a socket option whose value is plain data.
pub(crate) fn set_option<T: Copy>(socket: BorrowedFd<'_>, level: i32, name: i32, value: T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which outlives the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) })
}

/// Sends messages to one destination in one call, at most [`libc::UIO_MAXIOV`]; how many the kernel took.
pub(crate) fn send_all(socket: BorrowedFd<'_>, to: &SockAddr, messages: &[Vec<u8>]) -> io::Result<usize> {
    let mut vectors: Vec<libc::iovec> = messages
        .iter()
        .map(|bytes| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = vectors
        .iter_mut()
        .map(|vector| {
            // SAFETY: mmsghdr is a plain C struct for which all-zero bytes are a valid value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = to.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    // SAFETY: every header refers to its vector, every vector to its message, all with their true lengths and alive
    // during the call; the kernel reads through them and writes msg_len alone.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, 0) };
    usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
}

/// Packets a packet socket had no room for since the last call (PACKET_STATISTICS).
pub(crate) fn packet_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // struct tpacket_stats_v3: packets, drops, times the queue was frozen
    let mut stats = [0u32; 3];
    let mut length = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: pointer and length describe `stats`, valid for writes for the call.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &mut length,
        )
    })?;
    Ok(stats[1])
}

/// Waits until the descriptor is readable; false after `milliseconds`.
pub(crate) fn wait_readable(descriptor: BorrowedFd<'_>, milliseconds: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, count 1.
    match unsafe { libc::poll(&mut poll, 1, milliseconds) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// The blocks of a TPACKET_V3 receive ring, shared with the kernel (Documentation/networking/packet_mmap.rst).
pub(crate) struct RingMemory {
    start: *mut u8,
    block: usize,
    blocks: usize,
}

// SAFETY: the mapping is owned by this value alone and is not tied to a thread.
unsafe impl Send for RingMemory {}

impl RingMemory {
    /// Maps the ring that was configured on `socket`: `blocks` of `block` bytes each.
    pub(crate) fn map(socket: BorrowedFd<'_>, block: usize, blocks: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address the kernel chooses; nothing existing is touched.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), block * blocks, protection, libc::MAP_SHARED, socket.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), block, blocks })
    }

    /// The bytes of block `index` while it belongs to this process, `None` while it is the kernel's.
    pub(crate) fn filled(&mut self, index: usize) -> Option<&[u8]> {
        if self.status(index).load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return None;
        }
        // SAFETY: the block lies inside the mapping. The kernel does not write a block whose status says USER, and
        // the only way to give it back, `release`, needs the mutable borrow that this slice holds.
        Some(unsafe { std::slice::from_raw_parts(self.start.add(index * self.block), self.block) })
    }

    /// Gives block `index` back to the kernel.
    #[expect(clippy::needless_pass_by_ref_mut, reason = "ends every borrow of the block's bytes")]
    pub(crate) fn release(&mut self, index: usize) {
        self.status(index).store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }

    fn status(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.blocks, "block {index} of {}", self.blocks);
        // SAFETY: the status word is at byte 8 of the block (struct tpacket_block_desc), aligned since blocks are
        // page aligned, and is only accessed atomically on this side.
        unsafe { AtomicU32::from_ptr(self.start.add(index * self.block + 8).cast()) }
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `map`; no slice of it outlives `self`.
        unsafe { libc::munmap(self.start.cast(), self.block * self.blocks) };
    }
}

fn mounts_private() -> io::Result<()> {
    let how = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is a terminated constant; the other strings may be null when only propagation changes.
    check(unsafe { libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), how, ptr::null()) })
}

/// Safe between fork and exec.
fn write_file(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the path is terminated, pointer and length describe `bytes`, the descriptor is closed once.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(file)?;
        let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
        let error = io::Error::last_os_error();
        libc::close(file);
        if written == bytes.len() as isize { Ok(()) } else { Err(error) }
    }
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
