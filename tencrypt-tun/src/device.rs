//! The TUN device.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read as _, Write as _},
    num::NonZeroU8,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::OpenOptionsExt as _,
    },
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use tencrypt::offload::{GsoType, VnetHdr};
use thiserror::Error;

use crate::{name::InterfaceName, probe, steering, sys};

const DRIVER: &str = "/dev/net/tun";

/// IP packets without a header of the driver's own; a virtio-net header instead; and nobody else's device
/// (include/uapi/linux/if_tun.h). Non-persistent: the device goes with its last descriptor.
const FLAGS: i32 = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;

/// Added for a device of several queues, each with a descriptor of its own.
const MULTI_QUEUE: i32 = libc::IFF_MULTI_QUEUE;

/// `TUN_F_*` of include/uapi/linux/if_tun.h: unfinished checksums, TCP super-packets, UDP super-packets (Linux 6.2).
const CHECKSUM: u32 = 0x01;
const TCP: u32 = 0x02 | 0x04;
const UDP: u32 = 0x20 | 0x40;

/// Work on packets that the kernel leaves to the reader of a device: what a creator asks for, and what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "the driver's features for a layer 3 device")]
pub struct DeviceOffload {
    /// TCP and UDP checksums.
    pub checksum: bool,
    /// The cutting of TCP super-packets, of both families. The driver grants it with `checksum` only.
    pub tcp: bool,
    /// The cutting of UDP super-packets (`UDP_SEGMENT`), of both families. The driver grants it with `checksum` only,
    /// since Linux 6.2.
    pub udp: bool,
}

impl DeviceOffload {
    /// Single packets with finished checksums.
    pub const NONE: Self = Self { checksum: false, tcp: false, udp: false };

    /// All that the driver has. Not `TUN_F_TSO_ECN`: the few super-packets that carry CWR are cut by the kernel, which
    /// knows that it belongs on the first segment only.
    pub const ALL: Self = Self { checksum: true, tcp: true, udp: true };

    /// `TUN_F_*` of these.
    fn flags(self) -> u32 {
        let of = |wanted: bool, flags: u32| if wanted { flags } else { 0 };
        of(self.checksum, CHECKSUM) | of(self.tcp, TCP) | of(self.udp, UDP)
    }
}

/// System calls that moved a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Calls {
    /// Out of the device.
    pub reads: u64,
    /// Into the device.
    pub writes: u64,
}

/// A TUN device and its queue, or one of its queues, non-blocking. The device exists for as long as a queue of it does.
///
/// Reading and writing take `&self`: one thread may read while another writes; each call is one packet, which may be a
/// super-packet where [`DeviceOffload`] allows.
#[derive(Debug)]
pub struct TunDevice {
    file: File,
    name: InterfaceName,
    offloads: DeviceOffload,
    gso_writes: AtomicBool,
    gso_udp_writes: AtomicBool,
    // Added to, not stored: exact whoever shares the device, for a few nanoseconds a system call.
    reads: AtomicU64,
    writes: AtomicU64,
}

/// Options of a device to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunOptions {
    /// Its name.
    pub name: InterfaceName,
    /// Work that the kernel may leave unfinished, as far as it can.
    pub offload: DeviceOffload,
}

impl TunOptions {
    /// A device of this name without offload.
    #[must_use]
    pub const fn new(name: InterfaceName) -> Self {
        Self { name, offload: DeviceOffload::NONE }
    }

    /// The same with these offloads.
    #[must_use]
    pub const fn with_offload(self, offload: DeviceOffload) -> Self {
        Self { offload, ..self }
    }
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
    /// The kernel does not let this process choose the queue of a packet, so that a device of several queues would mix
    /// up the lanes. `PermissionDenied` without `CAP_BPF` outside every user namespace.
    #[error("the kernel refuses the program that steers flows to queues")]
    SteeringRefused(#[source] io::Error),
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
    /// Creates a device in the calling thread's namespace: layer 3, down, with a virtio-net header of [`VnetHdr::LEN`]
    /// bytes. It has the offloads of `options` as far as the kernel has them: see [`offloads`](Self::offloads),
    /// [`gso_writes`](Self::gso_writes) and [`gso_udp_writes`](Self::gso_udp_writes).
    ///
    /// # Errors
    /// [`DeviceError`]; not for lack of an offload.
    pub fn create(options: TunOptions) -> Result<Self, DeviceError> {
        Self::first(options, FLAGS)
    }

    /// Creates one, as [`create`](Self::create) does, of several queues: in each, what the kernel sends of the flows whose
    /// [`steer`](crate::steer)ing hash it is, modulo the number of queues. Packets written to any of them come in alike.
    ///
    /// The device goes with the last of its queues. While one is missing the kernel spreads all flows anew over those
    /// left.
    ///
    /// # Errors
    /// [`DeviceError`]; [`DeviceError::SteeringRefused`] for more than one queue only.
    pub fn create_queues(options: TunOptions, queues: NonZeroU8) -> Result<Vec<Self>, DeviceError> {
        if queues.get() == 1 {
            return Ok(vec![Self::create(options)?]);
        }
        let first = Self::first(options, FLAGS | MULTI_QUEUE)?;
        steering::attach(first.as_fd()).map_err(DeviceError::SteeringRefused)?;
        let mut devices = Vec::with_capacity(queues.get().into());
        devices.push(first);
        for _ in 1..queues.get() {
            let next = devices[0].another()?;
            devices.push(next);
        }
        Ok(devices)
    }

    fn first(options: TunOptions, flags: i32) -> Result<Self, DeviceError> {
        let TunOptions { name, offload: wanted } = options;
        let file = open()?;
        sys::tun_set_iff(file.as_fd(), &name, flags).map_err(|error| match error.raw_os_error() {
            // IFF_TUN_EXCL on an idle device, any flag on one in use, and on a device that is not TUN.
            Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => DeviceError::NameTaken,
            _ => DeviceError::Io(error),
        })?;
        sys::tun_set_vnet_header(file.as_fd(), VnetHdr::LEN as i32)?;
        let offloads = negotiate(file.as_fd(), wanted)?;
        let device = Self::of(file, name, offloads);
        if wanted.tcp {
            device.gso_writes.store(device.accepts(&probe::tcp()), Ordering::Relaxed);
        }
        if wanted.udp {
            device.gso_udp_writes.store(device.accepts(&probe::udp()), Ordering::Relaxed);
        }
        Ok(device)
    }

    /// Another queue of a device of several. Header size and offloads are the device's.
    fn another(&self) -> Result<Self, DeviceError> {
        let file = open()?;
        sys::tun_set_iff(file.as_fd(), &self.name, (FLAGS | MULTI_QUEUE) & !libc::IFF_TUN_EXCL)?;
        let queue = Self::of(file, self.name, self.offloads);
        queue.gso_writes.store(self.gso_writes(), Ordering::Relaxed);
        queue.gso_udp_writes.store(self.gso_udp_writes(), Ordering::Relaxed);
        Ok(queue)
    }

    fn of(file: File, name: InterfaceName, offloads: DeviceOffload) -> Self {
        Self {
            file,
            name,
            offloads,
            gso_writes: AtomicBool::new(false),
            gso_udp_writes: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> InterfaceName {
        self.name
    }

    /// Work that the kernel leaves unfinished in what [`read`](Self::read) returns. Nothing is left unfinished that is
    /// not said here.
    #[must_use]
    pub fn offloads(&self) -> DeviceOffload {
        self.offloads
    }

    /// Tells if the kernel takes TCP super-packets. False unless [`DeviceOffload::tcp`] was asked for; otherwise found
    /// out at creation, and false for good once it has refused one: kernels with commit e269d79c7d35 (6.11-rc1 and its
    /// backports, until 89add40066f9) refuse some by their size. Each queue finds out for itself.
    #[must_use]
    pub fn gso_writes(&self) -> bool {
        self.gso_writes.load(Ordering::Relaxed)
    }

    /// As [`gso_writes`](Self::gso_writes), for UDP super-packets, which Linux knows since 6.2.
    #[must_use]
    pub fn gso_udp_writes(&self) -> bool {
        self.gso_udp_writes.load(Ordering::Relaxed)
    }

    /// System calls that moved a packet so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls { reads: self.reads.load(Ordering::Relaxed), writes: self.writes.load(Ordering::Relaxed) }
    }

    /// Reads one packet, header first; does not wait. `buf` must have room for the header and the largest packet, which
    /// is 65,535 bytes with offloads: what does not fit is cut off.
    ///
    /// # Errors
    /// Errors of read(2) that are no case of [`Received`], such as `EINVAL` for a buffer without room for the header.
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
        self.reads.fetch_add(1, Ordering::Relaxed);
        let header = buf.get(..length).map_or(&[][..], |packet| packet);
        Ok(match VnetHdr::decode(header) {
            Ok(vnet) => Received::Packet { vnet, len: length - VnetHdr::LEN },
            Err(_) => Received::Malformed,
        })
    }

    /// Hands a packet to the kernel, as if it came in on the device; does not wait.
    ///
    /// # Errors
    /// Errors of writev(2) that are no case of [`Delivered`], such as `ENOMEM`.
    pub fn write(&self, vnet: VnetHdr, packet: &[u8]) -> io::Result<Delivered> {
        self.write_parts(&[IoSlice::new(&vnet.encode()), IoSlice::new(packet)])
    }

    /// As [`write`](Self::write), for a packet in pieces: one `writev`, which copies nothing in user space. The first
    /// slice is the encoded header of [`VnetHdr::LEN`] bytes, the others are the packet; at most 1,024 in all
    /// (`UIO_MAXIOV`), those after it are not written.
    ///
    /// A refused super-packet ends [`gso_writes`](Self::gso_writes) or [`gso_udp_writes`](Self::gso_udp_writes); its
    /// segments may be written one by one.
    ///
    /// # Errors
    /// Errors of writev(2) that are no case of [`Delivered`], such as `ENOMEM`.
    pub fn write_parts(&self, slices: &[IoSlice<'_>]) -> io::Result<Delivered> {
        match (&self.file).write_vectored(slices) {
            Ok(0) => Ok(Delivered::Refused),
            Ok(_) => {
                self.writes.fetch_add(1, Ordering::Relaxed);
                Ok(Delivered::Done)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Delivered::Full),
            Err(error) => match error.raw_os_error() {
                // EMSGSIZE: more pages than a packet can have.
                Some(libc::EINVAL | libc::EMSGSIZE) => {
                    self.remember_refusal(slices);
                    Ok(Delivered::Refused)
                }
                // tun_get_user: the device is down; tun_get: it is gone.
                Some(libc::EIO | libc::EBADFD) => Ok(Delivered::Down),
                Some(libc::ENOMEM | libc::ENOBUFS | libc::EINTR) => Ok(Delivered::Full),
                _ => Err(error),
            },
        }
    }

    #[cold]
    fn remember_refusal(&self, slices: &[IoSlice<'_>]) {
        let header = slices.first().map(|header| VnetHdr::decode(header));
        match header {
            Some(Ok(VnetHdr { gso_type: GsoType::TcpV4 | GsoType::TcpV6, .. })) => {
                self.gso_writes.store(false, Ordering::Relaxed);
            }
            Some(Ok(VnetHdr { gso_type: GsoType::UdpL4, .. })) => {
                self.gso_udp_writes.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Tells if the kernel takes a header of this kind. The device must be down: the header is looked at before that is
    /// found (`tun_get_user`, drivers/net/tun.c, since Linux 5.1; before, nothing is refused here), so that the packet
    /// goes nowhere. Only the link's count of dropped packets grows by one.
    fn accepts(&self, (vnet, packet): &(VnetHdr, Vec<u8>)) -> bool {
        let written = (&self.file).write_vectored(&[IoSlice::new(&vnet.encode()), IoSlice::new(packet)]);
        !matches!(written, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
    }
}

fn open() -> Result<File, DeviceError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DRIVER);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::NoDriver(error),
        _ => DeviceError::Io(error),
    })
}

/// Sets what the reader takes unfinished, also when that is nothing: a device keeps its mask for its next user.
fn negotiate(file: BorrowedFd<'_>, wanted: DeviceOffload) -> io::Result<DeviceOffload> {
    // A kernel that does not know all of a mask refuses the whole (EINVAL).
    for offload in [wanted, DeviceOffload { udp: false, ..wanted }] {
        match sys::tun_set_offload(file, offload.flags()) {
            Ok(()) => return Ok(offload),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    sys::tun_set_offload(file, DeviceOffload::NONE.flags())?;
    Ok(DeviceOffload::NONE)
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
