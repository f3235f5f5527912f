//! Datagrams that bear somebody else's source address, from raw sockets (raw(7)).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use pnet_packet::MutablePacket;
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
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

/// Sends from a namespace ICMP's word that nobody listens at a port (RFC 792), as if `source` had got a datagram of
/// `about.0` to `about.1`.
///
/// # Errors
/// As [`send_spoofed`].
pub fn send_unreachable(from: &NetNs, source: Ipv4Addr, about: (SocketAddrV4, SocketAddrV4)) -> Result<()> {
    const PORT_UNREACHABLE: [u8; 8] = [3, 3, 0, 0, 0, 0, 0, 0];
    let (sender, to) = about;
    let mut quoted = datagram(sender, to, &[]);
    // The kernel fills it in for packets that it sends, not for one within a packet (include/net/ip.h, iphdr).
    quoted[2..4].copy_from_slice(&[0, 28]);
    let mut message = [&PORT_UNREACHABLE[..], &quoted].concat();
    let checksum = pnet_packet::util::checksum(&message, message.len());
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let packet = packet(source, *sender.ip(), IpNextHeaderProtocols::Icmp, &message);
    let to = SockAddr::from(SocketAddrV4::new(*sender.ip(), 0));
    from.run(|| socket()?.send_to(&packet, &to)).during("send an ICMP message")?;
    Ok(())
}

/// A UDP port of a namespace that can send from any address: what a program with CAP_NET_RAW has where the network
/// does not look at sources.
#[derive(Debug)]
pub struct RawUdp {
    socket: UdpSocket,
    raw: Socket,
}

impl RawUdp {
    /// Opens the port at all IPv4 addresses of a namespace.
    ///
    /// # Errors
    /// The port is taken, or the kernel gives no raw socket.
    pub fn open(netns: &NetNs, port: u16) -> Result<Self> {
        const WHAT: &str = "open a UDP port and a raw socket";
        let open = || -> io::Result<Self> {
            Ok(Self { socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?, raw: socket()? })
        };
        netns.run(open).during(WHAT)
    }

    /// Sends a datagram as if `source` had sent it.
    ///
    /// # Errors
    /// The kernel refuses: the datagram is too long, or nothing leads to `to`.
    pub fn send(&self, source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<()> {
        let sent = self.raw.send_to(&datagram(source, to, payload), &SockAddr::from(to));
        sent.map(drop).during("send a spoofed datagram")
    }

    /// Waits for a datagram to the port, for at most `limit`: its sender and its content.
    ///
    /// # Errors
    /// The kernel refuses to receive.
    pub fn receive(&self, limit: Duration) -> Result<Option<(SocketAddr, Vec<u8>)>> {
        const WHAT: &str = "receive a datagram";
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 1 << 16];
        loop {
            // A time limit of zero is none.
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
            self.socket.set_read_timeout(Some(left)).during(WHAT)?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => return Ok(Some((from, buffer[..length].to_vec()))),
                // Also what another host says of an earlier datagram.
                Err(_) if Instant::now() < end => {}
                Err(_) => return Ok(None),
            }
        }
    }
}

/// A socket that sends whole IPv4 packets.
pub(crate) fn socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
}

/// A whole packet with a UDP datagram, as [`packet`] makes it; UDP over IPv4 may leave its checksum out (RFC 768).
///
/// # Panics
/// If the payload is longer than a UDP datagram's can be, 65,527 bytes.
pub(crate) fn datagram(source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let length = UdpPacket::minimum_packet_size() + payload.len();
    let mut bytes = vec![0; length];
    let mut udp = MutableUdpPacket::new(&mut bytes).expect("there is room for a header");
    udp.set_source(source.port());
    udp.set_destination(to.port());
    udp.set_length(u16::try_from(length).expect("a UDP datagram has at most 65,535 bytes"));
    udp.set_payload(payload);
    packet(*source.ip(), *to.ip(), IpNextHeaderProtocols::Udp, &bytes)
}

/// A whole IPv4 packet; the kernel fills in length, identification and header checksum (raw(7)).
fn packet(source: Ipv4Addr, to: Ipv4Addr, protocol: IpNextHeaderProtocol, payload: &[u8]) -> Vec<u8> {
    const IP: usize = Ipv4Packet::minimum_packet_size();
    let mut bytes = vec![0; IP + payload.len()];
    let mut ip = MutableIpv4Packet::new(&mut bytes).expect("there is room for a header");
    ip.set_version(4);
    ip.set_header_length((IP / 4) as u8);
    ip.set_ttl(64);
    ip.set_next_level_protocol(protocol);
    ip.set_source(source);
    ip.set_destination(to);
    ip.packet_mut()[IP..].copy_from_slice(payload);
    bytes
}
