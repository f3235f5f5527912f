//! The system calls that the standard library does not cover.
#![expect(
    unsafe_code,
    reason = "an inherited descriptor, eventfd, inotify, memfd_secret, getsockopt, ppoll, geteuid and readiness of a descriptor in tokio have no safe form here"
)]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    ptr,
    time::Duration,
};

use tokio::io::{Interest, unix::AsyncFd};

/// The effective user id.
#[must_use]
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

/// A counter that wakes a poll (eventfd(2)).
///
/// # Errors
/// The kernel's answer.
pub(crate) fn event_counter() -> io::Result<File> {
    // SAFETY: eventfd returns a descriptor that nobody else owns, or a negative number, which is not wrapped.
    unsafe {
        let fd = checked(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
        Ok(File::from(OwnedFd::from_raw_fd(fd)))
    }
}

/// Opens a descriptor that becomes readable when something happens in a directory that [`watch_directory`] adds to it
/// (inotify(7)).
///
/// # Errors
/// The kernel's answer; it allows a user a limited number of these.
pub(crate) fn directory_events() -> io::Result<File> {
    // SAFETY: inotify_init1 returns a descriptor that nobody else owns, or a negative number, which is not wrapped.
    unsafe {
        let fd = checked(libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK))?;
        Ok(File::from(OwnedFd::from_raw_fd(fd)))
    }
}

/// Makes `events` tell when something in the directory at `path` appears, goes, is written or renamed.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn watch_directory(events: &File, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mask = libc::IN_CREATE | libc::IN_CLOSE_WRITE | libc::IN_MOVE | libc::IN_DELETE | libc::IN_ATTRIB;
    // SAFETY: inotify_add_watch reads a path that ends in zero and outlives the call.
    checked(unsafe { libc::inotify_add_watch(events.as_raw_fd(), path.as_ptr(), mask) }).map(drop)
}

/// Takes the descriptor of this number, which whoever started the program has left open for it, and closes all others from 3 on:
/// what the starter had open for somebody else is not for this program. To be called once, and before the program opens anything.
///
/// # Errors
/// It is not open, or is one of the standard streams, which are others' too; or the kernel cannot close the others (close_range(2),
/// Linux 5.9).
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no number from 3 on"));
    }
    // SAFETY: fcntl reads and writes no memory with these commands; it fails for a descriptor that is not open.
    unsafe { checked(libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC))? };
    let others = [(libc::STDERR_FILENO + 1, number - 1), (number.saturating_add(1), RawFd::MAX)];
    for (first, last) in others.into_iter().filter(|(first, last)| first <= last) {
        // SAFETY: by this function's contract the program has opened nothing: no descriptor from 3 on is owned by anything in it.
        unsafe { checked(libc::syscall(libc::SYS_close_range, first, last, 0) as i32)? };
    }
    // SAFETY: the descriptor is open, as the first call has shown, and by this function's contract nothing in the program owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Tells if the other end of a connected Unix socket may give orders: it is root's, or of the user who runs this.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn is_peer_allowed(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(is_allowed(peer_uid(socket)?, effective_uid()))
}

/// Tells if `peer` may give orders to a program of the user `own`.
pub(crate) fn is_allowed(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

/// The user id of the process at the other end of a connected Unix socket (SO_PEERCRED, unix(7)).
///
/// # Errors
/// The kernel's answer.
pub(crate) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `len` bytes to `peer`, which has that many.
    unsafe {
        checked(libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        ))?;
    }
    Ok(peer.uid)
}

/// A descriptor whose being readable a tokio runtime waits for. Must be called within one.
///
/// # Errors
/// The kernel's answer.
///
/// # Panics
/// Outside of a runtime with I/O.
pub fn watch_readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open, is handed over, is always the same one, and is closed with what owns it.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(io::Error::from)
}

/// Readiness of a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Reading does not block.
    pub readable: bool,
    /// The error queue holds something, or the device is gone.
    pub error: bool,
}

/// Waits until one of `descriptors` is ready or `timeout` has passed (`None`: for ever); `None` among them is never
/// ready. A signal ends the wait too, with nothing ready.
///
/// # Errors
/// The kernel's answer, other than the signal.
pub(crate) fn poll<const N: usize>(
    descriptors: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[Ready; N]> {
    let mut polled = descriptors.map(|descriptor| libc::pollfd {
        // A negative descriptor is passed over (poll(2)).
        fd: descriptor.map_or(-1, |descriptor| descriptor.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `polled` holds N entries, which the kernel writes to during the call only; `timeout` is null or refers
    // to a timespec that outlives the call; a null signal mask is allowed.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), N as libc::nfds_t, timeout, ptr::null()) };
    match checked(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([Ready::default(); N]),
        Err(error) => Err(error),
        Ok(_) => Ok(polled.map(|entry| Ready {
            readable: entry.revents & libc::POLLIN != 0,
            error: entry.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0,
        })),
    }
}

/// Makes a child that ends at once, and waits for it: for a test that it cannot be made.
///
/// # Errors
/// The kernel's answer.
#[cfg(test)]
pub(crate) fn fork() -> io::Result<()> {
    // SAFETY: the child calls nothing but _exit, which is safe after a fork of a process with threads
    // (signal-safety(7)); waitpid may be given no place for the status.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            child => {
                checked(child)?;
                checked(libc::waitpid(child, ptr::null_mut(), 0)).map(drop)
            }
        }
    }
}

/// A clone3 without arguments, which makes nothing (EINVAL, clone(2)): for a test that the kernel is not even asked.
///
/// # Errors
/// The kernel's answer, always.
#[cfg(test)]
pub(crate) fn clone3_of_nothing() -> io::Result<()> {
    // SAFETY: arguments of size 0 are refused before they are looked at.
    let result = unsafe { libc::syscall(libc::SYS_clone3, ptr::null_mut::<libc::c_void>(), 0_usize) };
    checked(result as i32).map(drop)
}

/// Memory that the kernel itself has not mapped (memfd_secret(2)).
pub(crate) struct SecretMapping {
    start: *mut libc::c_void,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and no thread has a part in it.
unsafe impl Send for SecretMapping {}
// SAFETY: through a shared reference it can only be read.
unsafe impl Sync for SecretMapping {}

impl SecretMapping {
    /// `len` bytes, zero.
    ///
    /// # Errors
    /// The kernel's answer: ENOSYS without `memfd_secret`, EAGAIN beyond the limit on locked memory.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        // SAFETY: memfd_secret takes flags and returns a descriptor nobody else owns, or -1, which is not wrapped.
        let memory = unsafe {
            let fd = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
            File::from(OwnedFd::from_raw_fd(checked(fd as i32)?))
        };
        memory.set_len(len as u64)?;
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, memory.as_raw_fd());
        // SAFETY: a new mapping, at an address of the kernel's choice, touches no memory there is.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped and initialised (zero) as long as self lives; the descriptor is closed, so
        // nobody else can write to them or make them fewer.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; self is borrowed for writing, so no other reference to them exists.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }
}

impl Drop for SecretMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
