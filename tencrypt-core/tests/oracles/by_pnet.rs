//! Packets as `pnet_packet` reads them.

use std::net::IpAddr;

use pnet_packet::{
    PacketSize,
    icmp::{self, IcmpPacket, IcmpType, IcmpTypes},
    icmpv6::{self, Icmpv6Packet, Icmpv6Types},
    ip::{IpNextHeaderProtocol, IpNextHeaderProtocols},
    ipv4::{self, Ipv4Flags, Ipv4Packet},
    ipv6::{ExtensionPacket, FragmentPacket, Ipv6Packet},
    tcp::{self, TcpPacket},
    udp::{self, UdpPacket},
};

use super::{Fields, Transport, is_same_sum};

/// Bytes of a TCP, UDP or ICMP header that are read in a first fragment.
const SHORTEST: usize = 8;

pub(super) fn fields(bytes: &[u8]) -> Option<Fields> {
    match bytes.first()? >> 4 {
        4 => v4_fields(bytes),
        6 => v6_fields(bytes),
        _ => None,
    }
}

pub(super) fn fragment_offset(bytes: &[u8]) -> Option<u16> {
    match bytes.first()? >> 4 {
        4 => Some(Ipv4Packet::new(bytes)?.get_fragment_offset() << 3),
        6 => Some(Extensions::of(bytes)?.fragment?.get_fragment_offset()),
        _ => None,
    }
}

fn v4_fields(bytes: &[u8]) -> Option<Fields> {
    let header = Ipv4Packet::new(bytes)?;
    let transport_offset = usize::from(header.get_header_length()) * 4;
    let (protocol, content) = (header.get_next_level_protocol(), bytes.get(transport_offset..)?);
    let (offset, more) = (header.get_fragment_offset(), header.get_flags() & Ipv4Flags::MoreFragments != 0);
    Some(Fields {
        source: header.get_source().into(),
        destination: header.get_destination().into(),
        ecn: header.get_ecn(),
        ttl: header.get_ttl(),
        protocol: protocol.0,
        transport_offset,
        fragment: (more || offset != 0).then(|| (header.get_identification().into(), more)),
        transport: match protocol {
            _ if offset != 0 => Transport::default(),
            IpNextHeaderProtocols::Icmp => icmp(content),
            protocol => transport(protocol, content),
        },
    })
}

fn v6_fields(bytes: &[u8]) -> Option<Fields> {
    let header = Ipv6Packet::new(bytes)?;
    let extensions = Extensions::of(bytes)?;
    let (protocol, content) = (extensions.protocol, &bytes[extensions.end..]);
    let more = extensions.fragment.as_ref().is_some_and(|fragment| !fragment.is_last_fragment());
    let fragment = extensions.fragment.as_ref().filter(|_| more || extensions.is_later_fragment);
    Some(Fields {
        source: header.get_source().into(),
        destination: header.get_destination().into(),
        ecn: header.get_traffic_class() & 0b11,
        ttl: header.get_hop_limit(),
        protocol: protocol.0,
        transport_offset: extensions.end,
        fragment: fragment.map(|fragment| (fragment.get_id(), more)),
        transport: match protocol {
            _ if extensions.is_later_fragment => Transport::default(),
            IpNextHeaderProtocols::Icmpv6 => icmpv6(content),
            protocol => transport(protocol, content),
        },
    })
}

/// The extension headers of an IPv6 packet, walked to the end.
struct Extensions<'a> {
    protocol: IpNextHeaderProtocol,
    /// The offset in the packet of what follows them.
    end: usize,
    fragment: Option<FragmentPacket<'a>>,
    is_later_fragment: bool,
}

impl<'a> Extensions<'a> {
    /// `None` if the packet ends before they do, and if there is one that `pnet_packet` has no view of.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let protocol = Ipv6Packet::new(bytes)?.get_next_header();
        let end = Ipv6Packet::minimum_packet_size();
        let mut found = Self { protocol, end, fragment: None, is_later_fragment: false };
        while !found.is_later_fragment {
            let rest = bytes.get(found.end..)?;
            match found.protocol {
                IpNextHeaderProtocols::Ipv6Frag => {
                    let header = FragmentPacket::new(rest)?;
                    found.protocol = header.get_next_header();
                    found.end += header.packet_size();
                    // Not by the accessor, which leaves a reserved bit in.
                    found.is_later_fragment = header.get_fragment_offset_with_flags() >> 3 != 0;
                    found.fragment = Some(header);
                }
                IpNextHeaderProtocols::Hopopt
                | IpNextHeaderProtocols::Ipv6Route
                | IpNextHeaderProtocols::Ipv6Opts => {
                    let header = ExtensionPacket::new(rest)?;
                    found.protocol = header.get_next_header();
                    found.end += header.packet_size();
                }
                IpNextHeaderProtocols::Ah => return None,
                _ => break,
            }
        }
        (found.end <= bytes.len()).then_some(found)
    }
}

/// TCP's and UDP's header, if it is there whole.
fn transport(protocol: IpNextHeaderProtocol, content: &[u8]) -> Transport {
    let read = match protocol {
        IpNextHeaderProtocols::Udp => UdpPacket::new(content).map(|udp| Transport {
            ports: Some((udp.get_source(), udp.get_destination())),
            checksum: Some(udp.get_checksum()),
            ..Transport::default()
        }),
        IpNextHeaderProtocols::Tcp => TcpPacket::new(content)
            .filter(|tcp| (5..=content.len() / 4).contains(&tcp.get_data_offset().into()))
            .map(|tcp| Transport {
                ports: Some((tcp.get_source(), tcp.get_destination())),
                tcp_flags: Some(tcp.get_flags()),
                checksum: Some(tcp.get_checksum()),
                ..Transport::default()
            }),
        _ => None,
    };
    read.unwrap_or_default()
}

fn icmp(content: &[u8]) -> Transport {
    let Some(icmp) = IcmpPacket::new(content).filter(|_| content.len() >= SHORTEST) else {
        return Transport::default();
    };
    let echo_id = match icmp.get_icmp_type() {
        IcmpTypes::EchoRequest => {
            icmp::echo_request::EchoRequestPacket::new(content).map(|echo| echo.get_identifier())
        }
        IcmpTypes::EchoReply => {
            icmp::echo_reply::EchoReplyPacket::new(content).map(|echo| echo.get_identifier())
        }
        IcmpType(_) => None,
    };
    Transport { echo_id, checksum: Some(icmp.get_checksum()), ..Transport::default() }
}

fn icmpv6(content: &[u8]) -> Transport {
    let Some(icmp) = Icmpv6Packet::new(content).filter(|_| content.len() >= SHORTEST) else {
        return Transport::default();
    };
    let echo_id = match icmp.get_icmpv6_type() {
        Icmpv6Types::EchoRequest => {
            icmpv6::echo_request::EchoRequestPacket::new(content).map(|echo| echo.get_identifier())
        }
        Icmpv6Types::EchoReply => {
            icmpv6::echo_reply::EchoReplyPacket::new(content).map(|echo| echo.get_identifier())
        }
        _ => None,
    };
    Transport { echo_id, checksum: Some(icmp.get_checksum()), ..Transport::default() }
}

pub(super) fn checksums_hold(bytes: &[u8]) -> bool {
    let Some(fields) = fields(bytes) else { return false };
    if let Some(header) = Ipv4Packet::new(bytes).filter(|header| header.get_version() == 4)
        && ipv4::checksum(&header) != header.get_checksum()
    {
        return false;
    }
    let content = &bytes[fields.transport_offset..];
    let expected = match (IpNextHeaderProtocol(fields.protocol), fields.source, fields.destination) {
        (IpNextHeaderProtocols::Udp, from, to) => UdpPacket::new(content).map(|udp| {
            let sum = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => udp::ipv4_checksum(&udp, &from, &to),
                (IpAddr::V6(from), IpAddr::V6(to)) => udp::ipv6_checksum(&udp, &from, &to),
                _ => unreachable!("both are of one header"),
            };
            // Zero would say that there is none (RFC 768).
            if sum == 0 { 0xffff } else { sum }
        }),
        (IpNextHeaderProtocols::Tcp, IpAddr::V4(from), IpAddr::V4(to)) => {
            TcpPacket::new(content).map(|tcp| tcp::ipv4_checksum(&tcp, &from, &to))
        }
        (IpNextHeaderProtocols::Tcp, IpAddr::V6(from), IpAddr::V6(to)) => {
            TcpPacket::new(content).map(|tcp| tcp::ipv6_checksum(&tcp, &from, &to))
        }
        (IpNextHeaderProtocols::Icmp, IpAddr::V4(_), _) => {
            IcmpPacket::new(content).map(|icmp| icmp::checksum(&icmp))
        }
        (IpNextHeaderProtocols::Icmpv6, IpAddr::V6(from), IpAddr::V6(to)) => {
            Icmpv6Packet::new(content).map(|icmp| icmpv6::checksum(&icmp, &from, &to))
        }
        _ => None,
    };
    match (IpNextHeaderProtocol(fields.protocol), fields.transport.checksum, expected) {
        (IpNextHeaderProtocols::Tcp, Some(found), Some(expected)) => is_same_sum(found, expected),
        (_, found, expected) => expected.is_some() && expected == found,
    }
}
