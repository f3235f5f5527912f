//! What an Ethernet frame carries, as far as the leak rule asks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::Mac;

/// UDP port of tencrypt.
pub const TUNNEL_PORT: u16 = 8362;

/// A frame, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// What a frame carries.
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
    /// Whether this is UDP from or to tencrypt's port.
    pub fn is_tunnel(self) -> bool {
        matches!(self, Self::Udp { source, destination } if source == TUNNEL_PORT || destination == TUNNEL_PORT)
    }
}

impl Frame {
    /// Takes a frame apart; `None` if it is shorter than an Ethernet header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let to_mac = *bytes.first_chunk()?;
        let from_mac = *bytes.get(6..)?.first_chunk()?;
        let kind = be16(bytes, 12)?;
        let packet = &bytes[14..];
        let (addresses, content) = match i32::from(kind) {
            libc::ETH_P_ARP => (None, Some(Content::Arp)),
            libc::ETH_P_IP => (v4_addresses(packet), v4_content(packet)),
            libc::ETH_P_IPV6 => (v6_addresses(packet), v6_content(packet)),
            _ => (None, None),
        };
        Some(Self { from_mac, to_mac, addresses, content: content.unwrap_or(Content::Other(kind)) })
    }

    /// Whether the frame goes to many: Ethernet group address, or an IP multicast, broadcast or link-local address.
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

fn v4_addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let from: [u8; 4] = *packet.get(12..)?.first_chunk()?;
    let to: [u8; 4] = *packet.get(16..)?.first_chunk()?;
    Some((Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into()))
}

fn v4_content(packet: &[u8]) -> Option<Content> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let protocol = *packet.get(9)?;
    // More fragments, or not the first one (RFC 791 section 3.1).
    if be16(packet, 6)? & 0x3fff != 0 {
        return Some(Content::Fragment(protocol));
    }
    upper(protocol, packet.get(header..)?)
}

fn v6_addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let from: [u8; 16] = *packet.get(8..)?.first_chunk()?;
    let to: [u8; 16] = *packet.get(24..)?.first_chunk()?;
    Some((Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into()))
}

fn v6_content(packet: &[u8]) -> Option<Content> {
    /// More extension headers than this are not looked through; the frame counts as `Protocol`.
    const HEADERS: usize = 8;
    let mut next = *packet.get(6)?;
    let mut rest = packet.get(40..)?;
    for _ in 0..HEADERS {
        let length = match i32::from(next) {
            libc::IPPROTO_FRAGMENT => return Some(Content::Fragment(*rest.first()?)),
            libc::IPPROTO_HOPOPTS | libc::IPPROTO_ROUTING | libc::IPPROTO_DSTOPTS => {
                8 + usize::from(*rest.get(1)?) * 8
            }
            _ => return upper(next, rest),
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
    Some(Content::Protocol(next))
}

fn upper(protocol: u8, bytes: &[u8]) -> Option<Content> {
    Some(match i32::from(protocol) {
        libc::IPPROTO_UDP => Content::Udp { source: be16(bytes, 0)?, destination: be16(bytes, 2)? },
        libc::IPPROTO_TCP => Content::Tcp { source: be16(bytes, 0)?, destination: be16(bytes, 2)? },
        libc::IPPROTO_IGMP => Content::Membership,
        libc::IPPROTO_ICMPV6 => match *bytes.first()? {
            133..=137 => Content::NeighbourDiscovery,
            130..=132 | 143 => Content::Membership,
            _ => Content::Protocol(protocol),
        },
        _ => Content::Protocol(protocol),
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
