//! The system calls that have no safe function in the standard library and rustix.

#![expect(
    unsafe_code,
    reason = "an ioctl is unsafe until somebody says what its number means; getsockopt writes to memory"
)]

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// `NS_GET_NSTYPE`, `_IO(0xb7, 0x3)` (include/uapi/linux/nsfs.h, since Linux 4.11).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Tells if the file is a network namespace: nsfs answers `NS_GET_NSTYPE` with `CLONE_NEWNET` (ioctl_nsfs(2)).
pub(crate) fn is_netns(file: BorrowedFd<'_>) -> bool {
    // On other file systems the number may mean something else.
    let is_nsfs =
        rustix::fs::fstatfs(file).is_ok_and(|found| i128::from(found.f_type) == i128::from(libc::NSFS_MAGIC));
    // SAFETY: the ioctl takes no argument, and is asked of nsfs alone, where its number means this.
    is_nsfs && unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) } == libc::CLONE_NEWNET
}

/// The user who connected the other end of a Unix socket, or who listens there (`SO_PEERCRED`, unix(7)). rustix has this call
/// with a process id that must not be zero; that of a process outside of this one's pid namespace is.
///
/// # Errors
/// The kernel's answer.
pub(crate) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `len` bytes to `peer`, which has that many.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    if answer == 0 { Ok(peer.uid) } else { Err(io::Error::last_os_error()) }
}
