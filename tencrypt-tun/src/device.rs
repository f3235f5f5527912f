//! The TUN device.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::LinkUnspec;
use tencrypt_core::offload::VnetHdr;
use thiserror::Error;

use crate::name::InterfaceName;
use crate::netlink::Netlink;
use crate::sys;
use crate::underlay::Link;

const DRIVER: &str = "/dev/net/tun";

/// IP packets without a header of the driver's own; a virtio-net header instead; and nobody else's device
/// (include/uapi/linux/if_tun.h). Non-persistent: the device goes with its last descriptor.
const FLAGS: i32 = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;

/// `TUN_F_*`: the reader takes nothing unfinished, neither checksums nor super-packets.
const OFFLOAD: u32 = 0;

/// A TUN device and its queue, non-blocking. It exists for as long as this value does.
///
/// Reading and writing take `&self`: one thread may read while another writes; each call is one packet.
#[derive(Debug)]
pub struct TunDevice {
    file: File,
    name: InterfaceName,
}

/// A device that cannot be created.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is a device of this name, whoever made it.
    #[error("a device of this name exists already")]
    NameTaken,
    /// `/dev/net/tun` is absent or has no driver.
    #[error("no TUN driver")]
    NoDriver(#[source] io::Error),
    /// Any other failure; `PermissionDenied` without `CAP_NET_ADMIN` or access to `/dev/net/tun`.
    #[error("cannot create a TUN device")]
    Io(#[from] io::Error),
}

/// The outcome of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// A packet.
    Packet {
        /// Its offload state.
        vnet: VnetHdr,
        /// Its length in bytes. It starts at [`VnetHdr::LEN`] in the buffer.
        len: usize,
    },
    /// Nothing there. So says a device that is down, too (measured on Linux 6.18).
    Empty,
    /// A packet whose header has a GSO type that was never negotiated. It is gone.
    Malformed,
    /// The device is gone: the descriptor counts as readable for ever, and reading again says the same at once.
    Gone,
}

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivered {
    /// The kernel has the packet.
    Done,
    /// No room; the packet is dropped or may be tried again.
    Full,
    /// The kernel finds the packet or its header wrong.
    Refused,
    /// The device is down or gone.
    Down,
}

impl TunDevice {
    /// Creates the device `name` in the calling thread's namespace: layer 3, down, with a virtio-net header of
    /// [`VnetHdr::LEN`] bytes, nothing offloaded.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn create(name: InterfaceName) -> Result<Self, DeviceError> {
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DRIVER);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoDriver(error),
            _ => DeviceError::Io(error),
        })?;
        sys::tun_set_iff(file.as_fd(), &name, FLAGS).map_err(|error| match error.raw_os_error() {
            // IFF_TUN_EXCL on an idle device, any flag on one in use, and on a device that is not TUN.
            Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => DeviceError::NameTaken,
            _ => DeviceError::Io(error),
        })?;
        sys::tun_set_vnet_header(file.as_fd(), VnetHdr::LEN as i32)?;
        sys::tun_set_offload(file.as_fd(), OFFLOAD)?;
        Ok(Self { file, name })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> InterfaceName {
        self.name
    }

    /// Reads one packet, header first; does not wait. `buf` must have room for the header and the largest packet: what
    /// does not fit is cut off.
    ///
    /// # Errors
    /// What the kernel reports beside the cases of [`Received`].
    pub fn read(&self, buf: &mut [u8]) -> io::Result<Received> {
        let length = match (&self.file).read(buf) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Empty),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Received::Empty),
            // EFAULT from tun_ring_recv while the device goes, EBADFD from tun_get after that.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EFAULT)) => {
                return Ok(Received::Gone);
            }
            Err(error) => return Err(error),
        };
        let header = buf.get(..length).map_or(&[][..], |packet| packet);
        Ok(match VnetHdr::decode(header) {
            Ok(vnet) => Received::Packet { vnet, len: length - VnetHdr::LEN },
            Err(_) => Received::Malformed,
        })
    }

    /// Hands a packet to the kernel, as if it came in on the device; does not wait.
    ///
    /// # Errors
    /// What the kernel reports beside the cases of [`Delivered`].
    pub fn write(&self, vnet: VnetHdr, packet: &[u8]) -> io::Result<Delivered> {
        match (&self.file).write_vectored(&[IoSlice::new(&vnet.encode()), IoSlice::new(packet)]) {
            Ok(_) => Ok(Delivered::Done),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Delivered::Full),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINVAL) => Ok(Delivered::Refused),
                // tun_get_user: the device is down; tun_get: it is gone.
                Some(libc::EIO | libc::EBADFD) => Ok(Delivered::Down),
                Some(libc::ENOMEM | libc::ENOBUFS | libc::EINTR) => Ok(Delivered::Full),
                _ => Err(error),
            },
        }
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for TunDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Sets MTU and queue length (packets) of a link and brings it up.
pub(crate) fn bring_up(netlink: &mut Netlink, link: Link, mtu: u32, queue: u32) -> io::Result<()> {
    let change = LinkUnspec::new_with_index(link.index).mtu(mtu).txqueuelen(queue).up().build();
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Sets the MTU of a link in bytes.
pub(crate) fn set_mtu(netlink: &mut Netlink, link: Link, mtu: u32) -> io::Result<()> {
    let change = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Takes a link down.
pub(crate) fn take_down(netlink: &mut Netlink, link: Link) -> io::Result<()> {
    let change = LinkUnspec::new_with_index(link.index).down().build();
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Removes the TUN device `name`, whoever holds it; false: there is none of this name and kind.
pub(crate) fn remove(netlink: &mut Netlink, name: InterfaceName) -> io::Result<bool> {
    let mut query = LinkMessage::default();
    query.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    let answers = match netlink.request(RouteNetlinkMessage::GetLink(query), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        answers => answers?,
    };
    let index = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) if is_tun(link) => Some(link.header.index),
        _ => None,
    });
    let Some(index) = index else { return Ok(false) };
    let gone = LinkUnspec::new_with_index(index).build();
    match netlink.request(RouteNetlinkMessage::DelLink(gone), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        result => result.map(|_| true),
    }
}

fn is_tun(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Tun)),
        _ => false,
    })
}
