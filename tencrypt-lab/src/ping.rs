//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 section 4), by raw sockets.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pnet_packet::Packet;
use pnet_packet::icmp::echo_reply::EchoReplyPacket;
use pnet_packet::icmp::echo_request::{EchoRequestPacket, MutableEchoRequestPacket};
use pnet_packet::icmp::{IcmpType, IcmpTypes};
use pnet_packet::icmpv6::Icmpv6Types;
use pnet_packet::ipv4::Ipv4Packet;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{During, Result};
use crate::netns::NetNs;
use crate::sys;

/// Bytes of IPv4 and ICMP headers in front of an echo's payload.
pub const V4_HEADERS: usize = 28;
/// Bytes of IPv6 and ICMPv6 headers in front of an echo's payload.
pub const V6_HEADERS: usize = 48;

/// Echo requests to be sent.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "tests say what differs from `Ping::new`")]
pub struct Ping {
    /// Their destination.
    pub to: IpAddr,
    /// Length of the IP packet with all its headers, bytes; at least [`V4_HEADERS`] or [`V6_HEADERS`].
    pub length: usize,
    /// Their number.
    pub count: u16,
    /// Time between two.
    pub interval: Duration,
    /// Time for the last reply to come.
    pub wait: Duration,
    /// May the sender cut a packet that is too long? If not, IPv4's DF bit is set and such a packet is refused.
    pub may_fragment: bool,
    /// Send by this device, whatever the routes say (SO_BINDTODEVICE).
    pub device: Option<String>,
}

impl Ping {
    /// Three requests of 100 bytes, 20 ms apart; the replies have two seconds.
    pub fn new(to: IpAddr) -> Self {
        Self {
            to,
            length: 100,
            count: 3,
            interval: Duration::from_millis(20),
            wait: Duration::from_secs(2),
            may_fragment: false,
            device: None,
        }
    }

    /// Sends the requests from a namespace and gathers the replies, for at most `count * interval + wait`.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel gives no raw socket. Requests that it does not send are
    /// counted, and no error.
    pub fn run(&self, from: &NetNs) -> Result<PingReport> {
        from.run(|| {
            Pinger::open(self)?.exchange(&vec![self.length; self.count.into()], self.interval, self.wait)
        })
    }
}

/// Echo requests and their replies, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PingReport {
    /// Requests the kernel took.
    pub sent: u32,
    /// Requests the kernel refused.
    pub refused: u32,
    /// The error number of the last refusal.
    pub errno: Option<i32>,
    /// Requests with a reply.
    pub replies: u32,
    /// Further replies to a request already answered.
    pub duplicates: u32,
    /// Replies whose payload was not the request's.
    pub altered: u32,
    /// Sum of the times from request to reply.
    pub total: Duration,
    /// Packet lengths of the requests without a good reply, in the order they were sent.
    pub unanswered: Vec<usize>,
}

impl PingReport {
    /// Tells if each request got exactly one reply, with the right payload.
    pub fn is_complete(&self) -> bool {
        self.unanswered.is_empty() && self.refused == 0 && self.duplicates == 0 && self.altered == 0
    }

    /// Mean time from request to reply.
    pub fn mean(&self) -> Option<Duration> {
        self.total.checked_div(self.replies)
    }
}

/// Sends one echo request of every packet length in `lengths` and gathers the replies; see [`Ping`].
///
/// # Errors
/// [`Error::Os`](crate::Error::Os) if the kernel gives no raw socket.
pub fn sweep(
    from: &NetNs,
    to: IpAddr,
    lengths: RangeInclusive<usize>,
    may_fragment: bool,
) -> Result<PingReport> {
    let ping = Ping { may_fragment, ..Ping::new(to) };
    from.run(|| {
        Pinger::open(&ping)?.exchange(&lengths.collect::<Vec<_>>(), Duration::from_millis(1), ping.wait)
    })
}

struct Pinger {
    socket: Socket,
    to: IpAddr,
    identifier: u16,
}

impl Pinger {
    fn open(ping: &Ping) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let (domain, protocol) = match ping.to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).during("open a raw socket")?;
        if let Some(device) = &ping.device {
            socket.bind_device(Some(device.as_bytes())).during("bind a socket to a device")?;
        }
        let fd = socket.as_fd();
        let set =
            |level, name, value: i32| sys::set_option(fd, level, name, value).during("choose fragmentation");
        match (ping.to, ping.may_fragment) {
            (IpAddr::V4(_), true) => set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?,
            (IpAddr::V4(_), false) => set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?,
            (IpAddr::V6(_), true) => {}
            (IpAddr::V6(_), false) => {
                set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
                set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
            }
        }
        Ok(Self { socket, to: ping.to, identifier: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    fn exchange(mut self, lengths: &[usize], interval: Duration, wait: Duration) -> Result<PingReport> {
        let mut report = PingReport::default();
        let mut open = BTreeMap::new();
        for (sequence, &length) in (0u16..).zip(lengths) {
            let due = Instant::now() + interval;
            match self.socket.send_to(&self.request(sequence, length), &SocketAddr::new(self.to, 0).into()) {
                Ok(_) => {
                    report.sent += 1;
                    open.insert(sequence, Some((length, Instant::now())));
                    self.gather(&mut open, &mut report, due)?;
                }
                Err(error) => {
                    report.refused += 1;
                    report.errno = error.raw_os_error();
                    report.unanswered.push(length);
                }
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        self.gather(&mut open, &mut report, Instant::now() + wait)?;
        report.unanswered.extend(open.values().flatten().map(|(length, _)| *length));
        Ok(report)
    }

    /// Takes replies until `end`, or until nothing is open any more.
    fn gather(
        &mut self,
        open: &mut BTreeMap<u16, Option<(usize, Instant)>>,
        report: &mut PingReport,
        end: Instant,
    ) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        while open.values().any(Option::is_some) {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Ok(());
            };
            self.socket.set_read_timeout(Some(left)).during("set a time limit")?;
            let Ok(length) = self.socket.read(&mut buffer) else { continue };
            let Some((sequence, payload)) = self.reply(&buffer[..length]) else { continue };
            match open.get_mut(&sequence) {
                None => {}
                Some(None) => report.duplicates += 1,
                Some(entry) => {
                    let (length, sent) = entry.take().unwrap_or((0, end));
                    if payload == self.payload(sequence, length) {
                        report.replies += 1;
                        report.total += sent.elapsed();
                    } else {
                        report.altered += 1;
                        report.unanswered.push(length);
                    }
                }
            }
        }
        Ok(())
    }

    fn request(&self, sequence: u16, length: usize) -> Vec<u8> {
        let payload = self.payload(sequence, length);
        let mut bytes = vec![0; EchoRequestPacket::minimum_packet_size() + payload.len()];
        // ICMPv6 has the same fields under another type (RFC 4443 section 4.1).
        let mut echo = MutableEchoRequestPacket::new(&mut bytes).expect("there is room for a header");
        echo.set_icmp_type(if self.to.is_ipv4() {
            IcmpTypes::EchoRequest
        } else {
            IcmpType(Icmpv6Types::EchoRequest.0)
        });
        echo.set_identifier(self.identifier);
        echo.set_sequence_number(sequence);
        echo.set_payload(&payload);
        // The kernel finishes ICMPv6's checksum itself (RFC 3542 section 3.1).
        if self.to.is_ipv4() {
            let checksum = checksum(echo.packet());
            echo.set_checksum(checksum);
        }
        bytes
    }

    /// Sequence number and payload of a reply to this pinger.
    fn reply<'a>(&self, received: &'a [u8]) -> Option<(u16, &'a [u8])> {
        // Raw IPv4 sockets show the IP header, raw IPv6 sockets do not (raw(7), RFC 3542 section 3).
        let (start, kind) = match self.to {
            IpAddr::V4(_) => {
                (usize::from(Ipv4Packet::new(received)?.get_header_length()) * 4, IcmpTypes::EchoReply)
            }
            IpAddr::V6(_) => (0, IcmpType(Icmpv6Types::EchoReply.0)),
        };
        let message = received.get(start..)?;
        let echo = EchoReplyPacket::new(message)?;
        let mine = echo.get_icmp_type() == kind
            && echo.get_icmp_code().0 == 0
            && echo.get_identifier() == self.identifier;
        mine.then(|| (echo.get_sequence_number(), &message[EchoReplyPacket::minimum_packet_size()..]))
    }

    fn payload(&self, sequence: u16, length: usize) -> Vec<u8> {
        let headers = if self.to.is_ipv4() { V4_HEADERS } else { V6_HEADERS };
        (0..length.saturating_sub(headers)).map(|at| (at as u8) ^ (sequence as u8)).collect()
    }
}

/// The checksum of RFC 1071 over a message whose own checksum is zero.
fn checksum(bytes: &[u8]) -> u16 {
    // A word behind the end is the one to be left out.
    pnet_packet::util::checksum(bytes, bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0x00, 0x01, 0xf2]), !0xf201);
    }
}
