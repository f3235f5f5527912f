//! The content of an Ethernet frame, as far as the leak rule asks. `pnet_packet` knows where the fields are.

use std::fmt;
use std::net::IpAddr;

use pnet_packet::PacketSize;
use pnet_packet::ethernet::{EtherType, EtherTypes, EthernetPacket};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Type, Icmpv6Types};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{Ipv4Flags, Ipv4Packet};
use pnet_packet::ipv6::{ExtensionPacket, FragmentPacket, Ipv6Packet};
use pnet_packet::tcp::TcpPacket;
use pnet_packet::udp::UdpPacket;

use crate::link::Mac;

/// UDP port of tencrypt.
pub const TUNNEL_PORT: u16 = 8362;

/// Extension headers of IPv6 that are looked through; a frame with more counts as [`Content::Protocol`].
const EXTENSIONS: usize = 8;

/// A frame, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Frame {
    /// Sender's Ethernet address.
    pub from_mac: Mac,
    /// Receiver's Ethernet address.
    pub to_mac: Mac,
    /// Source and destination, if it is an IP packet.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Its content.
    pub content: Content,
}

/// The kind of a frame's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Content {
    /// Address resolution for IPv4.
    Arp,
    /// Neighbour and router discovery (RFC 4861: ICMPv6 types 133 to 137).
    NeighbourDiscovery,
    /// Multicast membership: IGMP or MLD (ICMPv6 types 130 to 132 and 143, RFC 3810).
    Membership,
    /// UDP with these ports.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// TCP with these ports.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A part of a fragmented packet of this protocol.
    Fragment(u8),
    /// An IP packet of another protocol, by number.
    Protocol(u8),
    /// Another EtherType, or a frame too short for its own.
    Other(u16),
}

impl Content {
    /// Tells if this is UDP from or to tencrypt's port.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Udp { source, destination } if source == TUNNEL_PORT || destination == TUNNEL_PORT)
    }
}

impl Frame {
    /// Takes a frame apart; `None` if it is shorter than an Ethernet header.
    ///
    /// The lengths that headers state are not believed: what is on the wire is looked at, also behind the end that an
    /// IP header gives.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(bytes)?;
        let kind = ethernet.get_ethertype();
        let ip = IpPacket::parse(kind, &bytes[EthernetPacket::minimum_packet_size()..]);
        let content = match (kind, &ip) {
            (EtherTypes::Arp, _) => Some(Content::Arp),
            (_, Some(ip)) => ip.content(),
            _ => None,
        };
        Some(Self {
            from_mac: ethernet.get_source().octets(),
            to_mac: ethernet.get_destination().octets(),
            addresses: ip.map(|ip| ip.addresses),
            content: content.unwrap_or(Content::Other(kind.0)),
        })
    }

    /// The payload of the UDP datagram that a frame carries; `None` of a fragment, and if it carries none.
    pub fn udp_payload(bytes: &[u8]) -> Option<&[u8]> {
        let kind = EthernetPacket::new(bytes)?.get_ethertype();
        let ip = IpPacket::parse(kind, &bytes[EthernetPacket::minimum_packet_size()..])?;
        let Content::Udp { .. } = ip.content()? else { return None };
        let datagram = ip.upper?;
        datagram.get(UdpPacket::minimum_packet_size()..UdpPacket::new(datagram)?.get_length().into())
    }

    /// Tells if the frame goes to many: Ethernet group address, or an IP multicast, broadcast or link-local address.
    pub fn is_local_or_group(&self) -> bool {
        let group_mac = self.to_mac[0] & 1 == 1;
        group_mac
            || self.addresses.is_some_and(|(_, to)| match to {
                IpAddr::V4(to) => to.is_multicast() || to.is_broadcast() || to.is_link_local(),
                IpAddr::V6(to) => to.is_multicast() || to.is_unicast_link_local(),
            })
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((from, to)) = self.addresses else {
            return write!(f, "{:?} {:02x?} > {:02x?}", self.content, self.from_mac, self.to_mac);
        };
        match self.content {
            Content::Udp { source, destination } => {
                write!(f, "UDP {from} port {source} > {to} port {destination}")
            }
            Content::Tcp { source, destination } => {
                write!(f, "TCP {from} port {source} > {to} port {destination}")
            }
            other => write!(f, "{other:?} {from} > {to}"),
        }
    }
}

/// An IP packet, as far as its headers lead. Lengths that the IP header itself states are not believed: a probe looks at
/// what is on the wire.
struct IpPacket<'a> {
    addresses: (IpAddr, IpAddr),
    /// The protocol above IP and its extension headers.
    protocol: IpNextHeaderProtocol,
    is_fragment: bool,
    /// All that follows the last header of IP; `None` if the frame ends before that.
    upper: Option<&'a [u8]>,
}

impl<'a> IpPacket<'a> {
    fn parse(kind: EtherType, packet: &'a [u8]) -> Option<Self> {
        match kind {
            EtherTypes::Ipv4 => Self::v4(packet),
            EtherTypes::Ipv6 => Self::v6(packet),
            _ => None,
        }
    }

    fn v4(packet: &'a [u8]) -> Option<Self> {
        let header = Ipv4Packet::new(packet)?;
        let length = usize::from(header.get_header_length()) * 4;
        let more = header.get_flags() & Ipv4Flags::MoreFragments != 0;
        Some(Self {
            addresses: (header.get_source().into(), header.get_destination().into()),
            protocol: header.get_next_level_protocol(),
            is_fragment: more || header.get_fragment_offset() != 0,
            upper: packet.get(length..).filter(|_| length >= Ipv4Packet::minimum_packet_size()),
        })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        let header = Ipv6Packet::new(packet)?;
        let addresses = (header.get_source().into(), header.get_destination().into());
        let first = header.get_next_header();
        Some(match packet.get(Ipv6Packet::minimum_packet_size()..).and_then(|rest| behind(first, rest)) {
            Some((protocol, is_fragment, upper)) => {
                Self { addresses, protocol, is_fragment, upper: Some(upper) }
            }
            None => Self { addresses, protocol: first, is_fragment: false, upper: None },
        })
    }

    /// `None` if the frame ends before what tells.
    fn content(&self) -> Option<Content> {
        let upper = self.upper?;
        if self.is_fragment {
            return Some(Content::Fragment(self.protocol.0));
        }
        Some(match self.protocol {
            IpNextHeaderProtocols::Udp => {
                let udp = UdpPacket::new(upper)?;
                Content::Udp { source: udp.get_source(), destination: udp.get_destination() }
            }
            IpNextHeaderProtocols::Tcp => {
                let tcp = TcpPacket::new(upper)?;
                Content::Tcp { source: tcp.get_source(), destination: tcp.get_destination() }
            }
            IpNextHeaderProtocols::Igmp => Content::Membership,
            IpNextHeaderProtocols::Icmpv6 => match Icmpv6Packet::new(upper)?.get_icmpv6_type() {
                Icmpv6Types::RouterSolicit
                | Icmpv6Types::RouterAdvert
                | Icmpv6Types::NeighborSolicit
                | Icmpv6Types::NeighborAdvert
                | Icmpv6Types::Redirect => Content::NeighbourDiscovery,
                Icmpv6Type(130..=132 | 143) => Content::Membership,
                _ => Content::Protocol(self.protocol.0),
            },
            protocol => Content::Protocol(protocol.0),
        })
    }
}

/// The protocol behind IPv6's extension headers, if it is in a fragment, and the bytes that follow; `None` if there are
/// fewer. A fragment's header is the last that is looked at.
fn behind(first: IpNextHeaderProtocol, mut rest: &[u8]) -> Option<(IpNextHeaderProtocol, bool, &[u8])> {
    let mut protocol = first;
    for _ in 0..EXTENSIONS {
        match protocol {
            IpNextHeaderProtocols::Ipv6Frag => {
                return Some((FragmentPacket::new(rest)?.get_next_header(), true, rest));
            }
            IpNextHeaderProtocols::Hopopt
            | IpNextHeaderProtocols::Ipv6Route
            | IpNextHeaderProtocols::Ipv6Opts => {
                let extension = ExtensionPacket::new(rest)?;
                protocol = extension.get_next_header();
                rest = rest.get(extension.packet_size()..)?;
            }
            _ => break,
        }
    }
    Some((protocol, false, rest))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use pnet_packet::ethernet::MutableEthernetPacket;
    use pnet_packet::ipv4::MutableIpv4Packet;
    use pnet_packet::ipv6::MutableIpv6Packet;
    use pnet_packet::udp::MutableUdpPacket;
    use proptest::prelude::*;

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 10, 128, 0, 21], [2, 0, 0, 0, 0, 9]);

    /// A frame of this type with `packet` in it.
    fn frame(kind: EtherType, packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; EthernetPacket::minimum_packet_size() + packet.len()];
        let mut ethernet = MutableEthernetPacket::new(&mut bytes).unwrap();
        ethernet.set_source(MACS.0.into());
        ethernet.set_destination(MACS.1.into());
        ethernet.set_ethertype(kind);
        ethernet.set_payload(packet);
        bytes
    }

    fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; UdpPacket::minimum_packet_size() + payload.len()];
        let length = bytes.len() as u16;
        let mut udp = MutableUdpPacket::new(&mut bytes).unwrap();
        udp.set_source(ports.0);
        udp.set_destination(ports.1);
        udp.set_length(length);
        udp.set_payload(payload);
        bytes
    }

    fn v4(protocol: u8, flags: u8, offset: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; Ipv4Packet::minimum_packet_size()];
        let mut header = MutableIpv4Packet::new(&mut bytes).unwrap();
        header.set_version(4);
        header.set_header_length(5);
        header.set_flags(flags);
        header.set_fragment_offset(offset);
        header.set_next_level_protocol(IpNextHeaderProtocol(protocol));
        header.set_source(Ipv4Addr::new(10, 128, 0, 21));
        header.set_destination(Ipv4Addr::new(10, 128, 0, 22));
        frame(EtherTypes::Ipv4, &[&bytes, content].concat())
    }

    fn v6(protocol: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; Ipv6Packet::minimum_packet_size()];
        let mut header = MutableIpv6Packet::new(&mut bytes).unwrap();
        header.set_version(6);
        header.set_next_header(IpNextHeaderProtocol(protocol));
        header.set_source(Ipv6Addr::from([0xfd; 16]));
        header.set_destination(Ipv6Addr::from([0xfc; 16]));
        frame(EtherTypes::Ipv6, &[&bytes, content].concat())
    }

    fn content(bytes: &[u8]) -> Content {
        Frame::parse(bytes).unwrap().content
    }

    #[test]
    fn udp_is_seen_with_its_ends_and_payload_in_both_families() {
        let datagram = udp((8_362, 53), b"hello");
        for (bytes, from, to) in [
            (v4(17, 0, 0, &datagram), "10.128.0.21", "10.128.0.22"),
            (
                v6(17, &datagram),
                "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd",
                "fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc",
            ),
        ] {
            let seen = Frame::parse(&bytes).unwrap();
            assert_eq!((seen.from_mac, seen.to_mac), MACS);
            assert_eq!(seen.addresses, Some((from.parse().unwrap(), to.parse().unwrap())));
            assert_eq!(seen.content, Content::Udp { source: 8_362, destination: 53 });
            assert_eq!(Frame::udp_payload(&bytes), Some(&b"hello"[..]));
            // What follows the datagram, such as padding of a short frame, is no part of it.
            assert_eq!(Frame::udp_payload(&[&bytes[..], &[0; 9]].concat()), Some(&b"hello"[..]));
        }
    }

    #[test]
    fn fragments_of_both_families_are_no_datagrams_wherever_they_are() {
        let datagram = udp((8_362, 8_362), b"hello");
        for (flags, offset) in [(Ipv4Flags::MoreFragments, 0), (0, 1), (0, 0x1000), (0, 0x1fff)] {
            let bytes = v4(17, flags, offset, &datagram);
            assert_eq!(content(&bytes), Content::Fragment(17), "flags {flags}, offset {offset}");
            assert_eq!(Frame::udp_payload(&bytes), None);
        }
        assert_eq!(content(&v4(17, Ipv4Flags::DontFragment, 0, &datagram)), content(&v6(17, &datagram)));
        let header = [17, 0, 0, 1, 0, 0, 0, 9];
        assert_eq!(content(&v6(44, &[&header, &datagram[..]].concat())), Content::Fragment(17));
    }

    #[test]
    fn icmpv6_types_are_told_apart() {
        for kind in 0..=u8::MAX {
            let expected = match kind {
                133..=137 => Content::NeighbourDiscovery,
                130..=132 | 143 => Content::Membership,
                _ => Content::Protocol(58),
            };
            assert_eq!(content(&v6(58, &[kind, 0, 0, 0])), expected, "type {kind}");
        }
        assert_eq!(content(&v4(2, 0, 0, &[0x16, 0, 0, 0])), Content::Membership);
        assert_eq!(content(&v4(1, 0, 0, &[8, 0, 0, 0])), Content::Protocol(1));
        assert_eq!(content(&frame(EtherTypes::Arp, &[0; 28])), Content::Arp);
        assert_eq!(content(&frame(EtherType(0x88cc), &[])), Content::Other(0x88cc));
    }

    #[test]
    fn headers_are_looked_for_where_they_are_and_not_in_what_is_cut() {
        let mut tcp = vec![0; TcpPacket::minimum_packet_size()];
        tcp[..4].copy_from_slice(&[0x1f, 0x90, 0, 80]);
        let mut bytes = v4(6, 0, 0, &[&[1; 4], &tcp[..]].concat());
        bytes[EthernetPacket::minimum_packet_size()] = 0x46;
        assert_eq!(content(&bytes), Content::Tcp { source: 8_080, destination: 80 });
        bytes.pop();
        assert_eq!(content(&bytes), Content::Other(0x0800));
        // A header shorter than the shortest, and one beyond the end.
        for first in [0x40, 0x44, 0x4f] {
            bytes[EthernetPacket::minimum_packet_size()] = first;
            assert_eq!(content(&bytes), Content::Other(0x0800), "{first:x}");
            assert!(Frame::parse(&bytes).unwrap().addresses.is_some());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// A probe that panics sees nothing more.
        #[test]
        fn no_frame_makes_the_probe_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120),
            kind in prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x0806), any::<u16>()],
            protocol in prop::sample::select(vec![0_u8, 2, 6, 17, 43, 44, 58, 60, 59]),
            header_length in 0_u8..16,
        ) {
            let ip = EthernetPacket::minimum_packet_size();
            if let Some(place) = bytes.get_mut(12..ip) {
                place.copy_from_slice(&kind.to_be_bytes());
            }
            if let Some(first) = bytes.get_mut(ip).filter(|_| kind == 0x0800) {
                *first = 0x40 | header_length;
            }
            if let Some(place) = bytes.get_mut(ip + if kind == 0x0800 { 9 } else { 6 }) {
                *place = protocol;
            }
            for end in 0..=bytes.len() {
                let (seen, payload) = (Frame::parse(&bytes[..end]), Frame::udp_payload(&bytes[..end]));
                prop_assert_eq!(seen.is_some(), end >= ip);
                if payload.is_some() {
                    let is_udp = matches!(seen.map(|seen| seen.content), Some(Content::Udp { .. }));
                    prop_assert!(is_udp);
                }
                let _ = seen.map(|seen| (seen.is_local_or_group(), seen.to_string()));
            }
        }
    }
}
