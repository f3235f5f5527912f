//! Joining packets into super-packets, so that a train becomes one gather write.

use std::{array, io::IoSlice};

use super::{CheckedPacket, GsoType, UDP_HEADER, VnetHdr, tcp_flag};
use crate::packet::{IpVersion, Transport, checksum::Sum};

/// Packets taken before the coalescer has to be emptied: two trains of 64 records, which is what one receive of small
/// records brings.
pub(crate) const MAX_PARTS: usize = 128;

/// Super-packets and lone packets open at one time. Eight flows in one train are many; what exceeds this is written
/// earlier.
pub(crate) const MAX_HEADS: usize = 16;

/// UDP segments of one super-packet: what every kernel with `TUN_F_USO4` takes (`UDP_MAX_SEGMENTS`,
/// include/linux/udp.h: 64 up to Linux 6.8).
const MAX_UDP_SEGMENTS: u8 = 64;

/// Longest super-packet in bytes: the length field of IPv4.
const MAX_SUPER: usize = 65_535;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const DONT_FRAGMENT: u8 = 0x40;
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Gathers packets, in place, until they are written.
///
/// Packets of one flow are joined while they are what one super-packet would be cut into: the same headers, sequence
/// numbers that go on (TCP), one payload length, of which only the last may be shorter. The rules are those of Linux'
/// receive offload (net/ipv4/tcp_offload.c, `tcp_gro_receive`; net/ipv4/udp_offload.c, `udp_gro_receive_segment`).
/// Packets of one flow keep their order; an acknowledgement without data is never joined and holds nothing up.
///
/// A super-packet's checksum is unfinished by nature. Packets whose checksum is finished are joined only after it
/// proved right, so a corrupt one stays what it is and is the receiving host's to refuse.
///
/// No allocation. `'b` is the lifetime of the receive buffers.
///
/// ```
/// use tencrypt::offload::{CheckedPacket, Coalescer, GsoType, VnetHdr};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Two datagrams of one flow, whose UDP checksums the device is to finish.
/// let header = b"\x45\0\0\x20\0\0\x40\0\x40\x11\0\0\x0a\0\0\x01\x0a\0\0\x02\x13\x88\0\x35\0\x0c\x14\x20";
/// let vnet = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 6, ..VnetHdr::default() };
/// let mut received = [[&header[..], b"data"].concat(), [&header[..], b"more"].concat()];
///
/// let mut coalescer = Coalescer::new(&GsoType::ALL);
/// for bytes in &mut received {
///     coalescer.push(CheckedPacket::new(bytes, vnet)?).map_err(|_| "no room")?;
/// }
/// coalescer.drain(|pieces, packets| {
///     let written: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
///     assert_eq!((packets, &written[VnetHdr::LEN + header.len()..]), (2, &b"datamore"[..]));
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Coalescer<'b> {
    tcp_v4: bool,
    tcp_v6: bool,
    udp: bool,
    /// Whole packets for heads, payloads for what was joined to them.
    parts: [&'b mut [u8]; MAX_PARTS],
    /// The part behind each part in its super-packet; itself at the end.
    next: [u8; MAX_PARTS],
    used: usize,
    heads: [Head; MAX_HEADS],
    open: usize,
    /// The head that took the last packet: the next one mostly goes there too.
    last: usize,
}

/// A packet that others may be joined to.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    vnet: VnetHdr,
    kind: Kind,
    v6: bool,
    /// More may follow.
    growing: bool,
    /// Its checksum is unfinished, or finished and found right.
    trusted: bool,
    first: u8,
    last: u8,
    count: u8,
    transport: u16,
    header_len: u16,
    /// Payload bytes of every part but the last.
    size: u16,
    /// Bytes of headers and all payloads.
    len: usize,
    /// TCP: the sequence number that goes on.
    sequence: u32,
    /// TCP: PSH and FIN of the last part.
    flags: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Other,
    Tcp,
    Udp,
}

impl<'b> Coalescer<'b> {
    /// An empty one that joins packets into these kinds of super-packets: those that the device takes
    /// ([`GsoType::TcpV4`] with `TUN_F_TSO4`, [`GsoType::TcpV6`] with `TUN_F_TSO6`, [`GsoType::UdpL4`] with `TUN_F_USO4` and
    /// `TUN_F_USO6`). Packets of other kinds pass as they are.
    #[must_use]
    pub fn new(kinds: &[GsoType]) -> Self {
        Self {
            tcp_v4: kinds.contains(&GsoType::TcpV4),
            tcp_v6: kinds.contains(&GsoType::TcpV6),
            udp: kinds.contains(&GsoType::UdpL4),
            parts: array::from_fn(|_| &mut [][..]),
            next: [0; MAX_PARTS],
            used: 0,
            heads: [Head::default(); MAX_HEADS],
            open: 0,
            last: 0,
        }
    }

    /// Tells if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Takes a packet: a [`CheckedPacket`], or an [`Opened`](super::Opened) one.
    ///
    /// # Errors
    /// The packet itself, if there is no room: [`drain`](Self::drain) makes some.
    #[inline]
    pub fn push(&mut self, packet: impl Into<CheckedPacket<'b>>) -> Result<(), CheckedPacket<'b>> {
        self.push_checked(packet.into())
    }

    fn push_checked(&mut self, packet: CheckedPacket<'b>) -> Result<(), CheckedPacket<'b>> {
        if self.used == MAX_PARTS || self.open == MAX_HEADS {
            return Err(packet);
        }
        let candidate = self.head(&packet);
        if candidate.kind != Kind::Other
            && let Some(found) = self.find(&candidate, packet.bytes())
        {
            if self.joinable(found, &candidate, packet.bytes()) {
                self.join(found, &candidate, packet);
                return Ok(());
            }
            // What comes later must not overtake this packet.
            self.heads[found].growing = false;
        }
        self.heads[self.open] = candidate;
        self.last = self.open;
        self.open += 1;
        self.next[self.used] = self.used as u8;
        self.parts[self.used] = packet.into_bytes();
        self.used += 1;
        Ok(())
    }

    /// Hands out what waits, in order, each as the pieces of one gather write: the virtio-net header, then the packet.
    /// `packets` is how many packets it is.
    pub fn drain(&mut self, mut write: impl FnMut(&[IoSlice<'_>], u16)) {
        for at in 0..self.open {
            let head = self.heads[at];
            let first = &mut *self.parts[usize::from(head.first)];
            if head.count == 1 {
                write(&[IoSlice::new(&head.vnet.encode()), IoSlice::new(first)], 1);
                continue;
            }
            let vnet = complete(&head, first).encode();
            let mut pieces = [IoSlice::new(&[]); MAX_PARTS + 1];
            pieces[0] = IoSlice::new(&vnet);
            let mut part = usize::from(head.first);
            let mut len = 1;
            loop {
                pieces[len] = IoSlice::new(self.parts[part]);
                len += 1;
                let next = usize::from(self.next[part]);
                if next == part {
                    break;
                }
                part = next;
            }
            write(&pieces[..len], head.count.into());
        }
        self.used = 0;
        self.open = 0;
        self.last = 0;
    }

    /// Returns `packet` as a super-packet of its own.
    fn head(&self, packet: &CheckedPacket<'b>) -> Head {
        let layout = packet.layout();
        let (transport, header_len) = (layout.transport_offset(), layout.payload_offset());
        let bytes = packet.bytes();
        let mut head = Head {
            vnet: packet.vnet(),
            v6: layout.version() == IpVersion::V6,
            trusted: packet.vnet().needs_csum,
            first: self.used as u8,
            last: self.used as u8,
            count: 1,
            transport: transport as u16,
            header_len: header_len as u16,
            size: (bytes.len() - header_len) as u16,
            len: bytes.len(),
            ..Head::default()
        };
        // Options and extension headers mean something to somebody: such packets stay as they are.
        let plain_ip = transport == if head.v6 { IPV6_HEADER } else { IPV4_HEADER };
        if layout.fragment().is_some() || head.size == 0 || !plain_ip || layout.payload_end() != bytes.len() {
            return head;
        }
        let tcp = if head.v6 { self.tcp_v6 } else { self.tcp_v4 };
        match layout.transport() {
            Some(Transport::Tcp) if tcp => {
                let flags = bytes[transport + 13];
                // A SYN, RST or urgent segment, and the first one after a congestion response, stand alone.
                let plain = tcp_flag::ACK | tcp_flag::PSH | tcp_flag::FIN;
                let alone = tcp_flag::SYN | tcp_flag::RST | tcp_flag::URG | tcp_flag::CWR;
                head.kind = Kind::Tcp;
                head.flags = flags & (tcp_flag::PSH | tcp_flag::FIN);
                head.growing = flags & (alone | plain) == tcp_flag::ACK;
                head.sequence = word32(bytes, transport + 4).wrapping_add(head.size.into());
            }
            Some(Transport::Udp) if self.udp && header_len - transport == UDP_HEADER => {
                head.kind = Kind::Udp;
                // Without a checksum it has to stay without.
                head.growing = head.trusted || bytes[transport + 6..transport + 8] != [0, 0];
            }
            _ => {}
        }
        head
    }

    /// The newest head of the candidate's flow.
    fn find(&self, candidate: &Head, bytes: &[u8]) -> Option<usize> {
        let same = |at: &usize| {
            let head = &self.heads[*at];
            head.kind == candidate.kind
                && head.v6 == candidate.v6
                && head.transport == candidate.transport
                && same_flow(self.parts[usize::from(head.first)], bytes, candidate)
        };
        if self.open > 0 && self.heads[self.last].growing && same(&self.last) {
            return Some(self.last);
        }
        (0..self.open).rev().find(same)
    }

    fn joinable(&mut self, found: usize, candidate: &Head, bytes: &[u8]) -> bool {
        let head = &self.heads[found];
        let payload = bytes.len() - usize::from(candidate.header_len);
        let fits = head.growing
            && head.header_len == candidate.header_len
            && candidate.size <= head.size
            && head.len + payload <= MAX_SUPER
            && head.count < u8::MAX
            && (head.kind == Kind::Tcp || head.count < MAX_UDP_SEGMENTS);
        if !fits {
            return false;
        }
        let first = &*self.parts[usize::from(head.first)];
        if !continues(head, first, candidate, bytes) {
            return false;
        }
        if !head.trusted {
            self.heads[found].trusted = checks_out(head, first);
        }
        self.heads[found].trusted && (candidate.trusted || checks_out(candidate, bytes))
    }

    fn join(&mut self, found: usize, candidate: &Head, packet: CheckedPacket<'b>) {
        let head = &mut self.heads[found];
        let at = self.used;
        self.next[usize::from(head.last)] = at as u8;
        self.next[at] = at as u8;
        self.parts[at] = &mut packet.into_bytes()[usize::from(candidate.header_len)..];
        self.used += 1;
        head.last = at as u8;
        head.count += 1;
        head.len += usize::from(candidate.size);
        head.sequence = candidate.sequence;
        head.flags |= candidate.flags;
        head.growing = candidate.size == head.size && candidate.flags == 0;
        self.last = found;
    }
}

/// Addresses and ports. Both packets have the same version and the same transport offset.
fn same_flow(one: &[u8], other: &[u8], candidate: &Head) -> bool {
    let addresses = if candidate.v6 { 8..IPV6_HEADER } else { 12..IPV4_HEADER };
    let transport = usize::from(candidate.transport);
    one.get(addresses.clone()) == other.get(addresses)
        && one.get(transport..transport + 4) == other.get(transport..transport + 4)
}

/// Tells if the packet `bytes` is what follows in `head`'s super-packet: all headers are what a cut would give them.
fn continues(head: &Head, first: &[u8], candidate: &Head, bytes: &[u8]) -> bool {
    let transport = usize::from(head.transport);
    let same = |from: usize, to: usize| first.get(from..to) == bytes.get(from..to);
    let ip = if head.v6 {
        // Class, flow label; next header, hop limit.
        same(0, 4) && same(6, 8)
    } else {
        // Header length, TOS; flags, offset, TTL, protocol. The identification of a packet that must not be fragmented
        // means nothing (RFC 6864 section 4.1).
        let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
        same(0, 2)
            && same(6, 10)
            && (first[6] & DONT_FRAGMENT != 0 || id(bytes) == id(first).wrapping_add(head.count.into()))
    };
    ip && match head.kind {
        Kind::Tcp => {
            const ANY: u8 = tcp_flag::PSH | tcp_flag::FIN;
            // Acknowledgement; data offset; flags but PSH and FIN; window; options. Urgent pointers have no URG here.
            same(transport + 8, transport + 13)
                && first[transport + 13] & !ANY == bytes[transport + 13] & !ANY
                && same(transport + 14, transport + 16)
                && same(transport + 20, usize::from(head.header_len))
                && word32(bytes, transport + 4) == head.sequence
        }
        Kind::Udp => candidate.trusted || bytes[transport + 6..transport + 8] != [0, 0],
        Kind::Other => false,
    }
}

/// Tells if a finished TCP or UDP checksum is right.
fn checks_out(head: &Head, bytes: &[u8]) -> bool {
    let transport = usize::from(head.transport);
    let protocol = if head.kind == Kind::Tcp { 6 } else { 17 };
    let len = (bytes.len() - transport) as u32;
    pseudo(head, bytes, protocol, len).bytes(&bytes[transport..]).fold() == 0xFFFF
}

/// The pseudo header's sum, from the addresses in the packet.
fn pseudo(head: &Head, bytes: &[u8], protocol: u8, len: u32) -> Sum {
    let addresses = if head.v6 { 8..IPV6_HEADER } else { 12..IPV4_HEADER };
    Sum::new().bytes(&bytes[addresses]).bytes(&[0, protocol]).bytes(&len.to_be_bytes())
}

/// Makes the first packet's headers those of the super-packet, and gives its virtio-net header.
fn complete(head: &Head, bytes: &mut [u8]) -> VnetHdr {
    let transport = usize::from(head.transport);
    let put = |bytes: &mut [u8], at: usize, word: u16| {
        bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
    };
    if head.v6 {
        put(bytes, 4, (head.len - IPV6_HEADER) as u16);
    } else {
        put(bytes, 2, head.len as u16);
        put(bytes, 10, 0);
        let checksum = Sum::new().bytes(&bytes[..transport]).checksum();
        put(bytes, 10, checksum);
    }
    let len = head.len - transport;
    let (protocol, gso_type, csum_offset) = match (head.kind, head.v6) {
        (Kind::Tcp, false) => (6, GsoType::TcpV4, TCP_CHECKSUM),
        (Kind::Tcp, true) => (6, GsoType::TcpV6, TCP_CHECKSUM),
        _ => (17, GsoType::UdpL4, UDP_CHECKSUM),
    };
    if head.kind == Kind::Tcp {
        bytes[transport + 13] |= head.flags;
    } else {
        put(bytes, transport + 4, len as u16);
    }
    let sum = pseudo(head, bytes, protocol, len as u32).fold();
    put(bytes, transport + usize::from(csum_offset), sum);
    VnetHdr {
        needs_csum: true,
        gso_type,
        ecn: false,
        hdr_len: head.header_len,
        gso_size: head.size,
        csum_start: head.transport,
        csum_offset,
    }
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
#[path = "tests/coalesce.rs"]
mod tests;
