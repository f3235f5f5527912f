//! Refusals of packets and of what a virtio-net header says of them.

use thiserror::Error;

use crate::packet::ParseError;

/// Reason for which a packet, or its virtio-net header, is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// A virtio-net header shorter than [`VnetHdr::LEN`](super::VnetHdr::LEN).
    #[error("virtio-net header is shorter than 10 bytes")]
    Short,
    /// A GSO type that was not negotiated.
    #[error("virtio-net header has unknown GSO type {0}")]
    UnknownType(u8),
    /// The bytes are no IP packet.
    #[error(transparent)]
    Packet(#[from] ParseError),
    /// The header calls it a super-packet: [`Segments`](super::Segments) cuts it.
    #[error("a super-packet is to be cut first")]
    SuperPacket,
    /// The header calls a checksum unfinished that is not the TCP or UDP checksum of this packet, or the packet is a
    /// fragment.
    #[error("not the TCP or UDP checksum of the packet")]
    Checksum,
    /// The GSO type names another IP version or transport than the packet has, or the packet is a fragment.
    #[error("GSO type does not fit the packet")]
    Type,
    /// A segment size of 0, or segments that cannot be numbered in 16 bits.
    #[error("impossible GSO segment size")]
    Size,
    /// Headers longer than [`Segments::MAX_HEADER`](super::Segments::MAX_HEADER), or data behind the transport's payload.
    #[error("headers are too long to be repeated")]
    Header,
}
