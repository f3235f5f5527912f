//! UDP and TCP packets that carry a number, and echo requests, with checksums made from scratch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::{
    MutablePacket, Packet,
    icmp::{IcmpTypes, echo_request::MutableEchoRequestPacket},
    ip::{IpNextHeaderProtocol, IpNextHeaderProtocols},
    ipv4::{Ipv4Flags, Ipv4Packet, MutableIpv4Packet},
    ipv6::{Ipv6Packet, MutableIpv6Packet},
    tcp::{MutableTcpPacket, TcpPacket},
    udp::{MutableUdpPacket, UdpPacket},
    util,
};

/// An address and a port.
pub type Endpoint = (IpAddr, u16);

/// Bytes of the headers, without options.
const V4_HEADER: usize = Ipv4Packet::minimum_packet_size();
const V6_HEADER: usize = Ipv6Packet::minimum_packet_size();
const UDP_HEADER: usize = UdpPacket::minimum_packet_size();
const TCP_HEADER: usize = TcpPacket::minimum_packet_size();
/// Routers that a packet may pass.
const HOPS: u8 = 64;

/// A UDP packet of either family with finished checksums.
///
/// # Panics
/// If the addresses are of different families or the payload is longer than 65,000 bytes.
#[must_use]
pub fn udp(source: Endpoint, destination: Endpoint, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= 65_000, "a packet has at most 65,535 bytes");
    let length = (UDP_HEADER + payload.len()) as u16;
    let (mut packet, start) = empty(source.0, destination.0, IpNextHeaderProtocols::Udp, length);
    let mut datagram = MutableUdpPacket::new(&mut packet[start..]).expect("there is room for the header");
    datagram.set_source(source.1);
    datagram.set_destination(destination.1);
    datagram.set_length(length);
    datagram.set_payload(payload);
    // Zero would say that there is no checksum (RFC 768).
    let checksum = match checksum(source.0, destination.0, IpNextHeaderProtocols::Udp, datagram.packet()) {
        0 => 0xffff,
        other => other,
    };
    datagram.set_checksum(checksum);
    packet
}

/// A TCP segment of either family with these flags (RFC 9293 section 3.1), its checksums finished.
///
/// # Panics
/// If the addresses are of different families or the payload is longer than 65,000 bytes.
#[must_use]
pub fn tcp(source: Endpoint, destination: Endpoint, flags: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= 65_000, "a packet has at most 65,535 bytes");
    let length = (TCP_HEADER + payload.len()) as u16;
    let (mut packet, start) = empty(source.0, destination.0, IpNextHeaderProtocols::Tcp, length);
    let mut segment = MutableTcpPacket::new(&mut packet[start..]).expect("there is room for the header");
    segment.set_source(source.1);
    segment.set_destination(destination.1);
    segment.set_data_offset((TCP_HEADER / 4) as u8);
    segment.set_flags(flags);
    segment.set_payload(payload);
    segment.set_checksum(checksum(source.0, destination.0, IpNextHeaderProtocols::Tcp, segment.packet()));
    packet
}

/// An ICMP echo request over IPv4 (RFC 792) with this identifier and no data.
#[must_use]
pub fn echo_request(source: Ipv4Addr, destination: Ipv4Addr, identifier: u16) -> Vec<u8> {
    let length = MutableEchoRequestPacket::minimum_packet_size();
    let mut packet = v4_packet(source, destination, IpNextHeaderProtocols::Icmp, length as u16);
    let mut echo = MutableEchoRequestPacket::new(&mut packet[V4_HEADER..]).expect("there is room for it");
    echo.set_icmp_type(IcmpTypes::EchoRequest);
    echo.set_identifier(identifier);
    let checksum = util::checksum(echo.packet(), length);
    echo.set_checksum(checksum);
    packet
}

/// Source, destination and payload of a UDP packet without options, `None` if it is anything else or a checksum is
/// wrong.
#[must_use]
pub fn read_udp(packet: &[u8]) -> Option<(Endpoint, Endpoint, &[u8])> {
    let (from, to, bytes) = read_ip(packet, IpNextHeaderProtocols::Udp)?;
    let datagram = UdpPacket::new(bytes)?;
    let is_sound = usize::from(datagram.get_length()) == bytes.len();
    is_sound.then(|| ((from, datagram.get_source()), (to, datagram.get_destination()), &bytes[UDP_HEADER..]))
}

/// The same of a TCP segment without options.
fn read_tcp(packet: &[u8]) -> Option<(Endpoint, Endpoint, &[u8])> {
    let (from, to, bytes) = read_ip(packet, IpNextHeaderProtocols::Tcp)?;
    let segment = TcpPacket::new(bytes)?;
    let ends = ((from, segment.get_source()), (to, segment.get_destination()));
    let is_sound = usize::from(segment.get_data_offset()) * 4 == TCP_HEADER;
    is_sound.then(|| (ends.0, ends.1, &bytes[TCP_HEADER..]))
}

/// Source, destination and payload of a UDP packet or a TCP segment.
pub(crate) fn read(packet: &[u8]) -> Option<(Endpoint, Endpoint, &[u8])> {
    read_udp(packet).or_else(|| read_tcp(packet))
}

/// Source and destination of a packet without options, and what it carries of this protocol, if all checksums are right.
fn read_ip(packet: &[u8], protocol: IpNextHeaderProtocol) -> Option<(IpAddr, IpAddr, &[u8])> {
    let (from, to, start): (IpAddr, IpAddr, usize) = match packet.first()? >> 4 {
        4 => {
            let header = Ipv4Packet::new(packet)?;
            let is_sound = usize::from(header.get_header_length()) * 4 == V4_HEADER
                && header.get_next_level_protocol() == protocol
                && util::checksum(&packet[..V4_HEADER], V4_HEADER) == 0;
            is_sound.then(|| (header.get_source().into(), header.get_destination().into(), V4_HEADER))?
        }
        6 => {
            let header = Ipv6Packet::new(packet)?;
            let is_sound = header.get_next_header() == protocol;
            is_sound.then(|| (header.get_source().into(), header.get_destination().into(), V6_HEADER))?
        }
        _ => return None,
    };
    let bytes = packet.get(start..)?;
    (checksum(from, to, protocol, bytes) == 0).then_some((from, to, bytes))
}

/// A packet of either family with room for `length` bytes of this protocol, and where they begin.
fn empty(from: IpAddr, to: IpAddr, protocol: IpNextHeaderProtocol, length: u16) -> (Vec<u8>, usize) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (v4_packet(from, to, protocol, length), V4_HEADER),
        (IpAddr::V6(from), IpAddr::V6(to)) => (v6_packet(from, to, protocol, length), V6_HEADER),
        _ => panic!("source and destination are of different families"),
    }
}

/// An IPv4 packet with room for `length` bytes of this protocol.
fn v4_packet(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNextHeaderProtocol, length: u16) -> Vec<u8> {
    let total = V4_HEADER as u16 + length;
    let mut packet = vec![0; total.into()];
    let mut header = MutableIpv4Packet::new(&mut packet).expect("there is room for the header");
    header.set_version(4);
    header.set_header_length((V4_HEADER / 4) as u8);
    header.set_total_length(total);
    header.set_flags(Ipv4Flags::DontFragment);
    header.set_ttl(HOPS);
    header.set_next_level_protocol(protocol);
    header.set_source(from);
    header.set_destination(to);
    let checksum = util::checksum(&header.packet_mut()[..V4_HEADER], V4_HEADER);
    header.set_checksum(checksum);
    packet
}

/// An IPv6 packet with room for `length` bytes of this protocol.
fn v6_packet(from: Ipv6Addr, to: Ipv6Addr, protocol: IpNextHeaderProtocol, length: u16) -> Vec<u8> {
    let mut packet = vec![0; V6_HEADER + usize::from(length)];
    let mut header = MutableIpv6Packet::new(&mut packet).expect("there is room for the header");
    header.set_version(6);
    header.set_payload_length(length);
    header.set_next_header(protocol);
    header.set_hop_limit(HOPS);
    header.set_source(from);
    header.set_destination(to);
    packet
}

/// The checksum over a datagram as it is, its own field included: zero if that one is right.
///
/// # Panics
/// If the addresses are of different families.
fn checksum(from: IpAddr, to: IpAddr, protocol: IpNextHeaderProtocol, datagram: &[u8]) -> u16 {
    // A word behind the end is the one to be left out.
    let none = datagram.len();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => util::ipv4_checksum(datagram, none, &[], &from, &to, protocol),
        (IpAddr::V6(from), IpAddr::V6(to)) => util::ipv6_checksum(datagram, none, &[], &from, &to, protocol),
        _ => panic!("source and destination are of different families"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_packet_reads_as_what_it_was_built_of_and_no_bit_of_it_may_change(
            v4: bool,
            ends in any::<(u128, u16, u128, u16)>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            changed: prop::sample::Index,
            bit in 0_u8..8,
        ) {
            let address = |bits: u128| -> IpAddr {
                if v4 { Ipv4Addr::from(bits as u32).into() } else { Ipv6Addr::from(bits).into() }
            };
            let (source, destination) = ((address(ends.0), ends.1), (address(ends.2), ends.3));
            for mut packet in [udp(source, destination, &payload), tcp(source, destination, 0x18, &payload)] {
                prop_assert_eq!(read(&packet), Some((source, destination, &payload[..])));
                for end in 0..packet.len() {
                    prop_assert_eq!(read(&packet[..end]), None);
                }
                let at = changed.index(packet.len());
                packet[at] ^= 1 << bit;
                // IPv6 has no checksum of its own; addresses and next header are covered by that of UDP or TCP, or looked at.
                let is_covered = v4 || at >= 8 || at == 6 || (at == 0 && bit >= 4);
                prop_assert_eq!(read(&packet).is_none(), is_covered);
            }
        }

        #[test]
        fn random_bytes_are_no_packet_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for end in 0..=bytes.len() {
                prop_assert_eq!(read(&bytes[..end]), None);
            }
        }
    }
}
