//! UDP packets that carry a number, with checksums made from scratch.

use std::net::IpAddr;

/// An address and a port.
pub type Endpoint = (IpAddr, u16);

const UDP: u8 = 17;

/// A UDP packet of either family with finished checksums.
///
/// # Panics
/// If the addresses are of different families or the payload is longer than 65,000 bytes.
#[must_use]
pub fn udp(source: Endpoint, destination: Endpoint, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= 65_000, "a packet has at most 65,535 bytes");
    let length = (8 + payload.len()) as u16;
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend(source.1.to_be_bytes());
    datagram.extend(destination.1.to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let (mut packet, pseudo) = match (source.0, destination.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let checksum = finish(sum(&header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            (header, sum(&from.octets()) + sum(&to.octets()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([UDP, 64]);
            header.extend(from.octets());
            header.extend(to.octets());
            (header, sum(&from.octets()) + sum(&to.octets()))
        }
        _ => panic!("source and destination are of different families"),
    };
    let checksum = match finish(pseudo + u64::from(UDP) + u64::from(length) + sum(&datagram)) {
        0 => 0xffff,
        other => other,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(datagram);
    packet
}

/// Source, destination and payload of a UDP packet without options, `None` if it is anything else or a checksum is
/// wrong.
#[must_use]
pub fn read_udp(packet: &[u8]) -> Option<(Endpoint, Endpoint, &[u8])> {
    let (from, to, at): (IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let sound = packet[0] == 0x45 && packet[9] == UDP && finish(sum(packet.get(..20)?)) == 0;
            sound.then_some((from.into(), to.into(), 20))?
        }
        6 => {
            let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (packet[6] == UDP).then_some((from.into(), to.into(), 40))?
        }
        _ => return None,
    };
    let datagram = packet.get(at..)?;
    let length = u16::from_be_bytes(datagram.get(4..6)?.try_into().ok()?);
    let port = |at: usize| datagram.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&from.octets()) + sum(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&from.octets()) + sum(&to.octets()),
        _ => return None,
    };
    let sound = usize::from(length) == datagram.len()
        && finish(addresses + u64::from(UDP) + u64::from(length) + sum(datagram)) == 0;
    sound.then_some(((from, port(0)?), (to, port(2)?), &datagram[8..]))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
