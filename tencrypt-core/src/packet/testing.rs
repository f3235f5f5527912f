//! Packets for tests, and a check of all their checksums by recomputation.

use std::net::IpAddr;

use super::{
    IpPacket, Transport,
    checksum::{add, pseudo_header, sum},
};

pub(crate) fn udp(
    source: &str,
    source_port: u16,
    destination: &str,
    destination_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source_port.to_be_bytes());
    segment.extend(destination_port.to_be_bytes());
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    ip(source, destination, 17, segment, Some(6))
}

pub(crate) fn tcp(
    source: &str,
    source_port: u16,
    destination: &str,
    destination_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    tcp_with_flags(source, source_port, destination, destination_port, 0x10, payload)
}

pub(crate) fn tcp_with_flags(
    source: &str,
    source_port: u16,
    destination: &str,
    destination_port: u16,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source_port.to_be_bytes());
    segment.extend(destination_port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    ip(source, destination, 6, segment, Some(16))
}

/// An IP packet around `segment`, whose checksum over the pseudo header goes to `field`.
pub(crate) fn ip(
    source: &str,
    destination: &str,
    protocol: u8,
    mut segment: Vec<u8>,
    field: Option<usize>,
) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    if let Some(at) = field {
        let total = add(pseudo_header(from, to, protocol, segment.len() as u32), sum(&segment));
        let checksum = if !total == 0 && protocol == 17 { 0xffff } else { !total };
        segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + segment.len() as u16).to_be_bytes());
            header.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let checksum = !sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((segment.len() as u16).to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        _ => panic!("two families"),
    };
    packet.extend(segment);
    packet
}

/// Whether every checksum of the packet, and of a whole packet quoted in it, is what a recomputation gives.
pub(crate) fn checksums_hold(bytes: &[u8]) -> bool {
    let Ok(packet) = IpPacket::parse(bytes) else { return false };
    let at = packet.layout().transport_offset();
    if packet.is_ipv4() && sum(&bytes[..usize::from(bytes[0] & 15) * 4]) != 0xffff {
        return false;
    }
    let segment = &bytes[at..];
    let pseudo =
        pseudo_header(packet.source(), packet.destination(), packet.protocol(), segment.len() as u32);
    let whole = packet.fragment().is_none();
    match packet.transport() {
        Some(Transport::Udp) if packet.is_ipv4() && segment[6..8] == [0, 0] => true,
        Some(Transport::Tcp | Transport::Udp | Transport::Icmpv6) if whole => {
            add(pseudo, sum(segment)) == 0xffff
        }
        Some(Transport::Icmp) if whole => sum(segment) == 0xffff,
        _ => true,
    }
}
