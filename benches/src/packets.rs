//! Packets as a pod's kernel hands them to the device.

use std::net::{IpAddr, Ipv4Addr};

use tencrypt::offload::{GsoType, VnetHdr};
use tencrypt_sim::udp;

/// Payload of a segment in bytes: a TCP packet of 1,440 bytes becomes a record of 1,472, which fills a path of 1,500.
pub const SEGMENT: usize = 1_388;
/// Bytes of IPv4 and TCP header, with the timestamps that Linux sends by default.
pub const TCP_HEADERS: usize = 52;
const TCP: u8 = 6;
/// Bytes of IPv4 and UDP header.
const UDP_HEADERS: usize = 28;

/// A finished UDP packet of `len` bytes, headers included.
///
/// # Panics
/// If `len` is less than the headers take, 28 bytes, or more than 65,000.
#[must_use]
pub fn udp_packet(source: IpAddr, destination: IpAddr, len: usize) -> Vec<u8> {
    udp((source, 40_000), (destination, 7), &vec![0x5a; len - UDP_HEADERS])
}

/// A TCP packet over IPv4 whose checksum is unfinished, with `payload` bytes: one as it is, or, if that is more than
/// `segment`, a super-packet to be cut into as many.
///
/// # Panics
/// If the packet would be longer than 65,535 bytes.
#[must_use]
pub fn tcp_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    payload: usize,
    segment: usize,
) -> (VnetHdr, Vec<u8>) {
    let total = u16::try_from(TCP_HEADERS + payload).expect("a packet has at most 65,535 bytes");
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, TCP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let checksum = !ones_complement(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());

    // The kernel leaves the sum of the pseudo header in the checksum field (include/linux/skbuff.h, CHECKSUM_PARTIAL).
    let mut pseudo = [source.octets(), destination.octets()].concat();
    pseudo.extend([0, TCP]);
    pseudo.extend((total - 20).to_be_bytes());
    packet.extend([40_000u16.to_be_bytes(), 443u16.to_be_bytes()].concat());
    packet.extend(1u32.to_be_bytes());
    packet.extend(1u32.to_be_bytes());
    // Eight words of header; ACK; a window.
    packet.extend([0x80, 0x10, 0x02, 0x00]);
    packet.extend(ones_complement(&pseudo).to_be_bytes());
    packet.extend([0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    packet.resize(TCP_HEADERS + payload, 0x5a);

    let whole = payload <= segment;
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type: if whole { GsoType::None } else { GsoType::TcpV4 },
        hdr_len: TCP_HEADERS as u16,
        gso_size: if whole { 0 } else { segment as u16 },
        csum_start: 20,
        csum_offset: 16,
        ecn: false,
    };
    (vnet, packet)
}

/// The Internet checksum's sum (RFC 1071), not complemented, of an even number of bytes.
fn ones_complement(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u16
}
