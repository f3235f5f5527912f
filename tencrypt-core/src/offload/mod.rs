//! Segmentation and checksum offload: super-packets cut into packets on the way out, packets joined into super-packets
//! on the way in, and the virtio-net header in which a TUN device speaks of both.
//!
//! Pure functions over slices. Nothing here believes a length from outside: what is cut or joined is what the packet's
//! own validated layout says.

mod checked;
mod coalesce;
mod error;
mod opened;
mod segment;
mod vnet;

pub use checked::CheckedPacket;
pub use coalesce::Coalescer;
pub use error::OffloadError;
pub use opened::Opened;
pub use segment::Segments;
pub use vnet::{GsoType, VnetHdr};

/// Bits of the TCP flags byte (RFC 9293 section 3.1, RFC 3168 section 6.1).
mod tcp_flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const URG: u8 = 0x20;
    pub(super) const CWR: u8 = 0x80;
}

/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: usize = 8;
