//! The system call that has no safe form.
#![expect(unsafe_code, reason = "the descriptors that a process was started with have no owner in it")]

use std::io;

/// Closes every descriptor from 3 on: what this process was started with beside the standard streams.
///
/// To be called once, before the program opens anything.
///
/// # Errors
/// The kernel's answer: close_range(2) came with Linux 5.9, and a seccomp filter can refuse it.
pub(super) fn close_inherited() -> io::Result<()> {
    let (first, last, flags) = (libc::STDERR_FILENO + 1, libc::c_int::MAX, 0);
    // SAFETY: close_range touches no memory; by this function's contract the program has opened nothing, so that no descriptor from 3 on
    // is owned by anything in it.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
