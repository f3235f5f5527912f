//! The packets that go from one pod to the other, and the answers that prove that they have arrived.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::command::{Canary, Protocol, Send};

/// Time for an answer. The first packet waits for a handshake, and a kernel answers closed ports once a second at least
/// (`icmp_ratelimit`, Documentation/networking/ip-sysctl.rst).
const PATIENCE: Duration = Duration::from_secs(6);

/// Time between two packets that are not answered.
const AGAIN: Duration = Duration::from_millis(1_100);

/// The answer, in words; none, and the last error of the kernel, if there was one.
pub(super) type Answer = Result<&'static str, Option<io::Error>>;

/// Sends, and waits for the answer. For a thread in the pod's namespace.
///
/// # Errors
/// There is no socket, or it cannot have the pod's address.
pub(super) fn exchange(send: &Send) -> io::Result<Answer> {
    let first = |addresses: &[IpAddr]| addresses.first().copied().ok_or(io::ErrorKind::InvalidInput);
    let (own, other) = (first(&send.ends.own)?, first(&send.ends.other)?);
    if own.is_ipv4() != other.is_ipv4() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "addresses of two families"));
    }
    let to = SocketAddr::new(other, send.closed_port);
    match send.protocol {
        Protocol::Tcp => tcp(own, to),
        Protocol::Udp => udp(own, to, &send.ends.canary),
        Protocol::Icmp => echo(own, other, &send.ends.canary),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// The kernel repeats its SYN by itself: after a second, and after two more.
fn tcp(own: IpAddr, to: SocketAddr) -> io::Result<Answer> {
    let socket = socket_with(family(own), SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    bind(&socket, &SocketAddr::new(own, 0))?;
    Ok(match connect(&socket, &to) {
        Ok(()) => Ok("connected"),
        Err(Errno::CONNREFUSED) => Ok("refused"),
        // The time of a socket for sending is over (inet_stream_connect, net/ipv4/af_inet.c).
        Err(Errno::INPROGRESS | Errno::TIMEDOUT) => Err(None),
        Err(error) => Err(Some(error.into())),
    })
}

fn udp(own: IpAddr, to: SocketAddr, canary: &Canary) -> io::Result<Answer> {
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(AGAIN))?;
    Ok(repeated(|| {
        socket.send(canary)?;
        socket.recv(&mut [0; 64]).map(|_| "answered")
    }))
}

fn echo(own: IpAddr, other: IpAddr, canary: &Canary) -> io::Result<Answer> {
    let protocol = if own.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    let socket = socket_with(family(own), SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
    bind(&socket, &SocketAddr::new(own, 0))?;
    connect(&socket, &SocketAddr::new(other, 0))?;
    let mut socket = std::fs::File::from(socket);
    let (request, reply) = if own.is_ipv4() { (8, 0) } else { (128, 129) };
    let message = message(request, canary);
    Ok(repeated(|| {
        socket.write_all(&message)?;
        let end = Instant::now() + AGAIN;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(left.max(Duration::from_millis(1))))?;
            let mut buffer = [0; 256];
            let read = socket.read(&mut buffer)?;
            if is_reply(&buffer[..read], own.is_ipv4(), reply, canary) {
                return Ok("echo reply");
            }
        }
    }))
}

/// Repeats until there is an answer, or until the time is over. A closed port is one: its error comes to the socket.
fn repeated(mut once: impl FnMut() -> io::Result<&'static str>) -> Answer {
    let end = Instant::now() + PATIENCE;
    let mut refusal = None;
    while Instant::now() < end {
        let begun = Instant::now();
        match once() {
            Ok(answer) => return Ok(answer),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok("port unreachable"),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => refusal = Some(error),
        }
        // Refusals of the kernel come at once.
        std::thread::sleep(AGAIN.saturating_sub(begun.elapsed()));
    }
    Err(mem::take(&mut refusal))
}

/// Makes an echo message (RFC 792, RFC 4443 section 4): identifier and sequence are the canary's, too. The kernel sums it up for
/// IPv6 alone.
fn message(kind: u8, canary: &Canary) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], &canary[..4], canary].concat();
    let sum =
        message.chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Tells if that is the reply. A raw socket of IPv4 reads the IP header too (raw(7)), one of IPv6 does not.
fn is_reply(packet: &[u8], is_v4: bool, kind: u8, canary: &Canary) -> bool {
    let start = if is_v4 { packet.first().map_or(0, |first| usize::from(first & 0xf) * 4) } else { 0 };
    let message = packet.get(start..).unwrap_or_default();
    message.first() == Some(&kind) && message.get(8..) == Some(&canary[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: Canary = *b"0123456789abcdef";

    #[test]
    fn an_echo_sums_up_to_nothing_and_its_reply_is_known() {
        let sent = message(8, &CANARY);
        let sum =
            sent.chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert!(!is_reply(&sent, false, 0, &CANARY), "its own request");
        let mut reply = sent;
        reply[0] = 0;
        assert!(is_reply(&reply, false, 0, &CANARY));
        let with_header = [&[0x46][..], &[0; 23], &reply].concat();
        assert!(is_reply(&with_header, true, 0, &CANARY));
        assert!(!is_reply(&with_header, true, 0, &[1; 16]), "another one's");
        for end in 0..with_header.len() {
            assert!(!is_reply(&with_header[..end], true, 0, &CANARY), "{end}");
        }
    }

    #[test]
    fn what_is_refused_by_the_kernel_is_told_and_what_is_refused_by_the_peer_is_an_answer() {
        assert!(matches!(repeated(|| Err(io::ErrorKind::ConnectionRefused.into())), Ok("port unreachable")));
        let send = |protocol, other: &str| Send {
            ends: super::super::command::Ends {
                netns: String::new(),
                own: vec!["127.0.0.1".parse().unwrap()],
                other: vec![other.parse().unwrap()],
                port: 8362,
                canary: CANARY,
            },
            protocol,
            closed_port: 1,
        };
        assert!(matches!(exchange(&send(Protocol::Tcp, "127.0.0.1")), Ok(Ok("refused"))));
        assert!(matches!(exchange(&send(Protocol::Udp, "127.0.0.1")), Ok(Ok("port unreachable"))));
        assert!(exchange(&send(Protocol::Tcp, "::1")).is_err(), "two families");
    }
}
