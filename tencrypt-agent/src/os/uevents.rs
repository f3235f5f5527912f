//! The kernel's word that this machine was cloned: the uevent `NEW_VMGENID=1` (drivers/virt/vmgenid.c). Linux 6.8 alone
//! sends it; it was taken back in 6.9. So it is heard and never promised.
//!
//! The kernel tells its own events to the network namespaces of the initial user namespace alone
//! (lib/kobject_uevent.c, `uevent_net_init`), so the socket is opened where the program is started, not in the pod's.
//!
//! An event that is not from the kernel does not count. A sender to the group itself (CAP_NET_ADMIN there) sends with its
//! own port id; who has the kernel pass an event on (CAP_SYS_ADMIN in the user namespace that owns the network
//! namespace, `uevent_net_rcv_skb`) is the host's root, and would cost the pod a handshake with each peer.

use std::{io, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recvfrom, socket_with, sockopt,
    },
};

use super::notice::Notice;

/// The group of the kernel's events; udev's own are in group 2.
const KERNEL: u32 = 1;

/// Longest event: a path of the device before `UEVENT_BUFFER_SIZE` (include/linux/kobject.h), 2,048 bytes.
const LONGEST: usize = 8 << 10;

/// Room for events that wait, bytes: some thousand of them, as many as a node's devices make at once. The kernel may
/// give less where CAP_NET_ADMIN is not of the initial user namespace.
const ROOM: usize = 4 << 20;

/// Events taken in one go.
const BURST: usize = 64;

/// The socket.
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(KOBJECT_UEVENT))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, ROOM)?;
        }
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// The descriptor, readable when events wait.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// Reads what waits, at most 64 events; `None` if nothing does.
///
/// # Errors
/// The socket fails, other than by lost events.
pub fn read(socket: &OwnedFd) -> io::Result<Option<Notice>> {
    let mut notice = None;
    for _ in 0..BURST {
        let mut event = [0; LONGEST];
        match recvfrom(socket, &mut event, RecvFlags::DONTWAIT) {
            Ok((read, _, from)) => {
                let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                let is_kernel = from.is_some_and(|from| from.pid() == 0 && from.groups() == KERNEL);
                let says = is_kernel && event.get(..read).is_some_and(says_cloned);
                if says {
                    return Ok(Some(Notice::Cloned));
                }
                notice = Some(Notice::Nothing);
            }
            Err(Errno::NOBUFS) => return Ok(Some(Notice::Lost)),
            Err(Errno::WOULDBLOCK) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(notice)
}

/// Returns true if this event says so: `ACTION@PATH`, then `NAME=VALUE`, each with a zero behind it.
fn says_cloned(event: &[u8]) -> bool {
    let mut parts = event.split(|byte| *byte == 0);
    let is_change = parts.next().is_some_and(|head| head.starts_with(b"change@"));
    is_change && parts.any(|part| part == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_event_says_so_and_others_do_not() {
        // As kobject_uevent_env writes it.
        let genuine = b"change@/devices/LNXSYSTM:00/VMGENCTR:00\0ACTION=change\0DEVPATH=/devices/LNXSYSTM:00/VMGENCTR:00\0SUBSYSTEM=acpi\0NEW_VMGENID=1\0MODALIAS=acpi:VMGENCTR:\0SEQNUM=4711\0";
        assert!(says_cloned(genuine));
        for other in [
            &b""[..],
            b"\0",
            b"NEW_VMGENID=1",
            b"change@/devices/virtual/net/eth0\0ACTION=change\0SEQNUM=1\0",
            b"add@/devices/virtual/net/NEW_VMGENID=1\0ACTION=add\0SEQNUM=1\0",
            b"change@/x\0NEW_VMGENID=0\0",
            b"change@/x\0XNEW_VMGENID=1\0",
            b"change@/x\0NEW_VMGENID=1x\0",
            b"change@/NEW_VMGENID=1\0",
            b"libudev\0\xfe\xed\xca\xfeNEW_VMGENID=1\0",
        ] {
            assert!(!says_cloned(other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn the_socket_is_to_be_had_and_quiet() {
        let socket = Uevents::open().unwrap().into_fd();
        // Others' devices may come and go meanwhile; nobody clones this machine.
        assert!(matches!(read(&socket).unwrap(), None | Some(Notice::Nothing)));
    }
}
