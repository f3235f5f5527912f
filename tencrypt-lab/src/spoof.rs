//! UDP datagrams that bear somebody else's source address, from raw sockets (raw(7)).

use std::io;
use std::net::SocketAddrV4;

use pnet_packet::MutablePacket;
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{Ipv4Packet, MutableIpv4Packet};
use pnet_packet::udp::{MutableUdpPacket, UdpPacket};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::{During, Result};
use crate::netns::NetNs;

/// Sends one UDP datagram over IPv4 from a namespace, as if `source` had sent it.
///
/// # Errors
/// The kernel gives no raw socket, or refuses to send: the datagram is too long, or nothing leads to `to`.
pub fn send_spoofed(from: &NetNs, source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<()> {
    const WHAT: &str = "send a spoofed datagram";
    let packet = datagram(source, to, payload);
    from.run(|| socket()?.send_to(&packet, &SockAddr::from(to))).during(WHAT)?;
    Ok(())
}

/// A socket that sends whole IPv4 packets.
pub(crate) fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
}

/// A whole IPv4 packet; the kernel fills in length, identification and header checksum (raw(7)), and UDP over IPv4 may
/// leave its own out (RFC 768).
///
/// # Panics
/// If the payload is longer than a UDP datagram's can be, 65,527 bytes.
pub(crate) fn datagram(source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    const IP: usize = Ipv4Packet::minimum_packet_size();
    let length = UdpPacket::minimum_packet_size() + payload.len();
    let mut bytes = vec![0; IP + length];
    let mut ip = MutableIpv4Packet::new(&mut bytes).expect("there is room for a header");
    ip.set_version(4);
    ip.set_header_length((IP / 4) as u8);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    ip.set_source(*source.ip());
    ip.set_destination(*to.ip());
    let mut udp = MutableUdpPacket::new(&mut ip.packet_mut()[IP..]).expect("there is room for a header");
    udp.set_source(source.port());
    udp.set_destination(to.port());
    udp.set_length(u16::try_from(length).expect("a UDP datagram has at most 65,535 bytes"));
    udp.set_payload(payload);
    bytes
}
