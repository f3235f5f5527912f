//! Cutting a super-packet, one segment at a time, in place.

use super::{GsoType, OffloadError, VnetHdr, tcp_flag};
use crate::packet::{IpPacket, IpVersion, Transport, checksum::Sum};

/// Longest chain of IP and transport headers that is cut, in bytes: IPv4 and TCP with all options are 120; the rest
/// leaves room for IPv6 extension headers.
pub(crate) const MAX_SEGMENT_HEADER: usize = 256;

const IPV4_ID: usize = 4;
const IPV4_CHECKSUM: usize = 10;
const IPV6_HEADER: usize = 40;
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

/// A super-packet and how far it is cut.
///
/// Each segment is made in place: the headers are written right before its payload, over the end of the payload before
/// it, which is why the caller uses up a segment before it asks for the next one, and why nothing of the packet can be
/// used otherwise once the first one was taken.
///
/// Segments differ from the super-packet's headers as Linux makes them differ (net/ipv4/tcp_offload.c,
/// `tcp_gso_segment`; net/ipv4/udp_offload.c, `__udp_gso_segment`; net/ipv4/af_inet.c, `inet_gso_segment`): lengths;
/// the IPv4 identification counts up; the TCP sequence number goes on; FIN and PSH are on the last one only, CWR on the
/// first one only.
///
/// ```
/// use tencrypt::{offload::{GsoType, Segments, VnetHdr}, packet::IpPacket};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // TCP over IPv4 with 2,000 bytes of data, as a device with segmentation offload gives it out: in the checksum field
/// // the pseudo header's sum alone.
/// let mut bytes = [0; 2_040];
/// bytes[..40].copy_from_slice(b"\x45\0\x07\xf8\0\0\x40\0\x40\x06\0\0\x0a\0\0\x01\x0a\0\0\x02\
///     \x13\x88\0\x50\0\0\0\x01\0\0\0\x01\x50\x10\x20\0\x1b\xed\0\0");
/// let csum = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 16, ..VnetHdr::default() };
/// let vnet = VnetHdr { gso_type: GsoType::TcpV4, gso_size: 800, ..csum };
///
/// let mut segments = Segments::plan(&vnet, &IpPacket::parse(&bytes[..])?, true)?;
/// assert_eq!((segments.count(), segments.segment_len(), segments.last_len()), (3, 840, 440));
/// while let Some(segment) = segments.cut_next(&mut bytes) {
///     let packet = IpPacket::parse(&*segment)?; // one of its own
///     // RFC 9293 section 3.1: addresses, protocol, length and the TCP segment add up to zero.
///     let words = packet.bytes()[12..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
///     let sum = words.sum::<u32>() + 6 + (packet.bytes().len() as u32 - 20);
///     assert_eq!(sum % 0xffff, 0, "complete");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Segments {
    header: [u8; MAX_SEGMENT_HEADER],
    header_len: usize,
    transport: usize,
    version: IpVersion,
    udp: bool,
    /// Payload bytes of every segment but the last.
    size: usize,
    /// Payload bytes in all.
    payload: usize,
    count: u16,
    next: u16,
    /// Checksums are completed, not carried on.
    finish: bool,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip_sum: Sum,
    /// Sum of the pseudo header without the length.
    pseudo: Sum,
}

impl Segments {
    /// Longest headers in bytes that are repeated before each segment.
    pub const MAX_HEADER: usize = MAX_SEGMENT_HEADER;

    /// Works out how `packet`, which `vnet` calls a super-packet, is cut. With `finish`, or if the super-packet's own
    /// checksum is not unfinished, every segment gets a complete checksum; else all of them an unfinished one: the
    /// pseudo header's sum alone.
    ///
    /// A packet that `vnet` does not call a super-packet has no segments: [`OffloadError::Type`].
    ///
    /// # Errors
    /// [`OffloadError`].
    pub fn plan<B: AsRef<[u8]>>(
        vnet: &VnetHdr,
        packet: &IpPacket<B>,
        finish: bool,
    ) -> Result<Self, OffloadError> {
        let layout = packet.layout();
        let udp = match (vnet.gso_type, packet.version(), packet.transport()) {
            (GsoType::TcpV4, IpVersion::V4, Some(Transport::Tcp))
            | (GsoType::TcpV6, IpVersion::V6, Some(Transport::Tcp)) => false,
            (GsoType::UdpL4, _, Some(Transport::Udp)) => true,
            _ => return Err(OffloadError::Type),
        };
        if packet.fragment().is_some() {
            return Err(OffloadError::Type);
        }
        let bytes = packet.bytes();
        let (transport, header_len) = (layout.transport_offset(), layout.payload_offset());
        if header_len > MAX_SEGMENT_HEADER || packet.payload().end != bytes.len() {
            return Err(OffloadError::Header);
        }
        let (size, payload) = (usize::from(vnet.gso_size), bytes.len() - header_len);
        if size == 0 || header_len + size > usize::from(u16::MAX) {
            return Err(OffloadError::Size);
        }
        let count = u16::try_from(payload.div_ceil(size).max(1)).map_err(|_| OffloadError::Size)?;
        let mut header = [0; MAX_SEGMENT_HEADER];
        header[..header_len].copy_from_slice(&bytes[..header_len]);
        let mut ip = header;
        for field in [2, IPV4_ID, IPV4_CHECKSUM] {
            ip[field..field + 2].fill(0);
        }
        Ok(Self {
            header,
            header_len,
            transport,
            version: packet.version(),
            udp,
            size,
            payload,
            count,
            next: 0,
            finish: finish || !vnet.needs_csum,
            ip_sum: match packet.version() {
                IpVersion::V4 => Sum::new().bytes(&ip[..usize::from(ip[0] & 0xF) * 4]),
                IpVersion::V6 => Sum::new(),
            },
            pseudo: if vnet.needs_csum {
                // The field holds the pseudo header's sum with the whole length: that comes off again. (Along a source
                // route it covers another destination than the packet's.)
                let at = transport + if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
                let len = !((bytes.len() - transport) as u16);
                Sum::new().bytes(&bytes[at..at + 2]).bytes(&len.to_be_bytes())
            } else {
                Sum::new().pseudo_header(packet.source(), packet.destination(), packet.protocol(), 0)
            },
        })
    }

    /// Number of segments in all, at least 1.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Number of segments that were not taken yet.
    #[must_use]
    pub fn left(&self) -> u16 {
        self.count - self.next
    }

    /// Bytes of every segment but the last.
    #[must_use]
    pub fn segment_len(&self) -> usize {
        self.header_len + self.size.min(self.payload)
    }

    /// Bytes of the last segment.
    #[must_use]
    pub fn last_len(&self) -> usize {
        self.header_len + self.payload - self.size * usize::from(self.count - 1)
    }

    /// Tells if checksums of segments are complete.
    #[must_use]
    pub fn finishes(&self) -> bool {
        self.finish
    }

    /// Makes the next segment inside `packet`, which must be the packet this was planned for. `None` when all were
    /// taken, or when `packet` is shorter than it was.
    pub fn cut_next<'p>(&mut self, packet: &'p mut [u8]) -> Option<&'p mut [u8]> {
        if self.next == self.count {
            return None;
        }
        let (first, last) = (self.next == 0, self.next + 1 == self.count);
        let at = usize::from(self.next) * self.size;
        let len = if last { self.last_len() } else { self.segment_len() };
        let segment = packet.get_mut(at..at + len)?;
        let (header, payload) = segment.split_at_mut(self.header_len);
        header.copy_from_slice(&self.header[..self.header_len]);
        let (ip, transport) = header.split_at_mut(self.transport);
        match self.version {
            IpVersion::V4 => {
                let id = u16::from_be_bytes([ip[IPV4_ID], ip[IPV4_ID + 1]]).wrapping_add(self.next);
                put(ip, 2, len as u16);
                put(ip, IPV4_ID, id);
                let sum = self.ip_sum.bytes(&(len as u16).to_be_bytes()).bytes(&id.to_be_bytes());
                put(ip, IPV4_CHECKSUM, sum.checksum());
            }
            IpVersion::V6 => put(ip, 4, (len - IPV6_HEADER) as u16),
        }
        let transport_len = (len - self.transport) as u32;
        let checksum = if self.udp {
            put(transport, UDP_LENGTH, transport_len as u16);
            UDP_CHECKSUM
        } else {
            let sequence = [transport[TCP_SEQUENCE], transport[5], transport[6], transport[7]];
            let sequence = u32::from_be_bytes(sequence).wrapping_add(at as u32);
            transport[TCP_SEQUENCE..8].copy_from_slice(&sequence.to_be_bytes());
            let mut gone = 0;
            if !last {
                gone |= tcp_flag::FIN | tcp_flag::PSH;
            }
            if !first {
                gone |= tcp_flag::CWR;
            }
            transport[TCP_FLAGS] &= !gone;
            TCP_CHECKSUM
        };
        let pseudo = self.pseudo.bytes(&transport_len.to_be_bytes());
        if self.finish {
            put(transport, checksum, 0);
            // The header has an even length, so the payload's words line up.
            let complete = match pseudo.bytes(transport).bytes(payload).checksum() {
                0 if self.udp => 0xFFFF,
                complete => complete,
            };
            put(transport, checksum, complete);
        } else {
            put(transport, checksum, pseudo.fold());
        }
        self.next += 1;
        Some(segment)
    }
}

/// Writes the big-endian word at `at`.
fn put(bytes: &mut [u8], at: usize, word: u16) {
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
#[path = "tests/segment.rs"]
mod tests;
