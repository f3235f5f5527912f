//! The system calls on packet sockets that have no safe form.
#![expect(unsafe_code, reason = "addresses and statistics of packet sockets have no safe interface")]

use std::{
    io, mem,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// Takes in all frames of the device with this index from now on, and returns the kind of its hardware (ARPHRD_*).
///
/// # Errors
/// The kernel's answer.
pub(super) fn bind(socket: BorrowedFd<'_>, index: u32) -> io::Result<u16> {
    // SAFETY: sockaddr_ll is plain data for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: pointer and length describe `address`, which outlives the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    // SAFETY: pointer and length describe `address`, valid for writes for the call; the kernel writes no more than that.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut length) })?;
    Ok(address.sll_hatype)
}

/// Returns the numbers of frames that a packet socket took in, and that it had no room for, since the last call (PACKET_STATISTICS).
///
/// # Errors
/// The kernel's answer.
pub(super) fn statistics(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    // struct tpacket_stats: packets with the dropped ones, and these.
    let mut counts = [0u32; 2];
    let mut length = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: pointer and length describe `counts`, valid for writes for the call; the kernel writes no more than that.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            counts.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let [all, lost] = counts;
    Ok((all.saturating_sub(lost), lost))
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
