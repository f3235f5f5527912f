//! Codec of `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), 10 bytes, native byte order as a TUN device
//! uses it without `TUNSETVNETLE`.

use super::OffloadError;
use crate::packet::IpPacket;

const F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Kind of a super-packet, which says how it is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_enums, reason = "the kernel's list for TUN devices")]
pub enum GsoType {
    /// Not a super-packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP of either family, one datagram a segment.
    UdpL4,
}

impl GsoType {
    /// Every kind of super-packet.
    pub const ALL: [Self; 3] = [Self::TcpV4, Self::TcpV6, Self::UdpL4];
}

/// A packet's offload state. The default is a finished single packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "mirrors the kernel's struct")]
pub struct VnetHdr {
    /// The TCP or UDP checksum field holds the pseudo-header sum only; `csum_start` and `csum_offset` say where.
    pub needs_csum: bool,
    /// Kind of the cut.
    pub gso_type: GsoType,
    /// TCP segments carry ECN (CWR goes to the first segment only).
    pub ecn: bool,
    /// Bytes of IP and transport header, as the sender says; not to be trusted.
    pub hdr_len: u16,
    /// Payload bytes a segment.
    pub gso_size: u16,
    /// Start of checksumming, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Place of the checksum, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHdr {
    /// Bytes of the header.
    pub const LEN: usize = 10;

    /// Tells if the checksum that it speaks of is the TCP or UDP checksum of the packet itself.
    pub(crate) fn is_of_transport<B: AsRef<[u8]>>(&self, packet: &IpPacket<B>) -> bool {
        let (start, offset) = (usize::from(self.csum_start), usize::from(self.csum_offset));
        let layout = packet.layout();
        packet.may_be_unfinished()
            && start == layout.transport_offset()
            && layout.checksum_offset() == Some(start + offset)
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let gso_type = match self.gso_type {
            GsoType::None => GSO_NONE,
            GsoType::TcpV4 => GSO_TCPV4,
            GsoType::TcpV6 => GSO_TCPV6,
            GsoType::UdpL4 => GSO_UDP_L4,
        } | if self.ecn { GSO_ECN } else { 0 };
        let mut out = [0; Self::LEN];
        out[0] = if self.needs_csum { F_NEEDS_CSUM } else { 0 };
        out[1] = gso_type;
        out[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        out[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        out[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        out[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
        out
    }

    /// Reads a header from the first bytes of `bytes`.
    ///
    /// # Errors
    /// [`OffloadError`] on fewer than 10 bytes or a GSO type other than those of [`GsoType`].
    pub fn decode(bytes: &[u8]) -> Result<Self, OffloadError> {
        let Some(&[flags, gso, h0, h1, g0, g1, s0, s1, o0, o1]) = bytes.first_chunk() else {
            return Err(OffloadError::Short);
        };
        let gso_type = match gso & !GSO_ECN {
            GSO_NONE => GsoType::None,
            GSO_TCPV4 => GsoType::TcpV4,
            GSO_TCPV6 => GsoType::TcpV6,
            GSO_UDP_L4 => GsoType::UdpL4,
            other => return Err(OffloadError::UnknownType(other)),
        };
        Ok(Self {
            needs_csum: flags & F_NEEDS_CSUM != 0,
            gso_type,
            ecn: gso & GSO_ECN != 0,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_then_decode_gives_the_same_header() {
        for gso_type in [GsoType::None, GsoType::TcpV4, GsoType::TcpV6, GsoType::UdpL4] {
            for (needs_csum, ecn) in [(false, false), (true, false), (false, true), (true, true)] {
                let header = VnetHdr {
                    needs_csum,
                    gso_type,
                    ecn,
                    hdr_len: 52,
                    gso_size: 1388,
                    csum_start: 20,
                    csum_offset: 16,
                };
                assert_eq!(VnetHdr::decode(&header.encode()), Ok(header));
            }
        }
    }

    #[test]
    fn short_and_unknown_headers_are_refused() {
        assert_eq!(VnetHdr::decode(&[0; 9]), Err(OffloadError::Short));
        assert_eq!(VnetHdr::decode(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), Err(OffloadError::UnknownType(3)));
    }
}
