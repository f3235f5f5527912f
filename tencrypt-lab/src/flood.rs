//! Floods: one datagram, again and again, as fast as one thread can or at a given rate.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::{During, Error, Result};
use crate::netns::NetNs;
use crate::{spoof, sys};

/// Bytes that one message with offload holds at most: what an IPv4 datagram does (RFC 791), less its headers.
const TRAIN: usize = 65_535 - HEADERS;
/// Segments of one such message (UDP_MAX_SEGMENTS, include/linux/udp.h, before Linux 6.9).
const SEGMENTS: usize = 64;
/// Packets with a source of their own each, made before the flood begins.
const PACKETS: usize = 4_096;
/// Bytes of an IPv4 and a UDP header.
const HEADERS: usize = 28;

/// Whose address the datagrams bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The sender's own. The kernel cuts trains of 64 apart as late as it can, as for any sender that is in a hurry.
    Own,
    /// Somebody else's, from raw sockets: addresses spread over this range, each with a port of its own.
    Spoofed(Ipv4Net),
}

/// A flood, and what bounds it.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "a test says all of it")]
pub struct Flood {
    /// The datagrams' destination.
    pub to: SocketAddr,
    /// The content of every datagram.
    pub payload: Vec<u8>,
    /// Its sources.
    pub source: Source,
    /// Datagrams a second; `None`: as fast as one thread can.
    pub rate: Option<u32>,
    /// It ends by itself after this time.
    pub limit: Duration,
    /// It ends by itself after so many datagrams.
    pub count: u64,
}

/// Datagrams that a flood has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flooded {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// From the first to the last.
    pub elapsed: Duration,
}

impl Flooded {
    /// Datagrams a second.
    pub fn rate(&self) -> f64 {
        self.datagrams as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// A flood that runs, on a thread of its own, until it is dropped or has reached its bounds.
pub struct Flooding {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Flooded>>>,
}

impl Flood {
    /// Starts it in a namespace.
    ///
    /// # Errors
    /// The kernel gives no such socket; spoofed sources are IPv4, and so is what they go to.
    pub fn start(self, from: &NetNs) -> Result<Flooding> {
        const WHAT: &str = "open a socket for a flood";
        let sender = from.run(|| Sender::open(&self)).during(WHAT)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || sender.run(&self, &stop)
        });
        Ok(Flooding { stop, thread: Some(thread) })
    }
}

impl Flooding {
    /// Ends it, and says what it has sent.
    ///
    /// # Errors
    /// The kernel refused to send.
    pub fn stop(mut self) -> Result<Flooded> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Err(Error::Ended("the flood was stopped")) };
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).during("flood")
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants to know calls `stop`.
            let _ = thread.join();
        }
    }
}

/// A socket, and what goes through it a call.
enum Sender {
    Trains { socket: Socket, to: SockAddr, train: Vec<u8>, each: u64 },
    Packets { socket: Socket, to: SockAddr, packets: Vec<Vec<u8>> },
}

impl Sender {
    fn open(flood: &Flood) -> io::Result<Self> {
        match (flood.source, flood.to) {
            (Source::Own, to) => {
                let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
                let size = flood.payload.len();
                let each = (TRAIN / size.max(1)).clamp(1, SEGMENTS);
                sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, size as i32)?;
                Ok(Self::Trains {
                    socket,
                    to: to.into(),
                    train: flood.payload.repeat(each),
                    each: each as u64,
                })
            }
            (Source::Spoofed(range), SocketAddr::V4(to)) => {
                let socket = spoof::socket()?;
                let packets = (0..PACKETS).map(|number| packet(range, number, to, &flood.payload)).collect();
                Ok(Self::Packets { socket, to: to.into(), packets })
            }
            (Source::Spoofed(_), SocketAddr::V6(_)) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn run(self, flood: &Flood, stop: &AtomicBool) -> io::Result<Flooded> {
        let (begun, mut sent) = (Instant::now(), 0);
        let mut turn = 0;
        while !stop.load(Ordering::Relaxed) && sent < flood.count && begun.elapsed() < flood.limit {
            let due = flood.rate.map(|rate| Duration::from_secs_f64(sent as f64 / f64::from(rate.max(1))));
            let early = due.map_or(Duration::ZERO, |due| due.saturating_sub(begun.elapsed()));
            if early > Duration::ZERO {
                thread::sleep(early.min(Duration::from_millis(20)));
                continue;
            }
            let once = match &self {
                Self::Trains { socket, to, train, each } => socket.send_to(train, to).map(|_| *each),
                Self::Packets { socket, to, packets } => {
                    let from = turn % (PACKETS / SEGMENTS) * SEGMENTS;
                    sys::send_all(socket.as_fd(), to, &packets[from..from + SEGMENTS]).map(|sent| sent as u64)
                }
            };
            turn += 1;
            match once {
                Ok(datagrams) => sent += datagrams,
                // Full queues, and what the other side says of earlier datagrams.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOBUFS | libc::EAGAIN | libc::ECONNREFUSED | libc::EHOSTUNREACH)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Flooded { datagrams: sent, elapsed: begun.elapsed() })
    }
}

/// The datagram of this number, from its own part of the range.
fn packet(range: Ipv4Net, number: usize, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let hosts = 1_u64 << (32 - range.prefix_len());
    // An odd factor visits every address of the range, which is a power of two long, far from the one before.
    let offset = (number as u64).wrapping_mul(0x9e37_79b1) % hosts;
    let source = Ipv4Addr::from(u32::from(range.network()) + offset as u32);
    spoof::datagram(SocketAddrV4::new(source, 1_024 + (number % 60_000) as u16), to, payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Content, Frame};
    use pnet_packet::ethernet::{EtherTypes, EthernetPacket, MutableEthernetPacket};
    use std::net::IpAddr;

    #[test]
    fn spoofed_packets_are_udp_from_all_over_the_range() {
        let range: Ipv4Net = "10.128.0.0/14".parse().unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 128, 0, 22), 8_362);
        let mut sources = std::collections::BTreeSet::new();
        for number in 0..PACKETS {
            let packet = packet(range, number, to, b"x");
            let mut frame = vec![2; EthernetPacket::minimum_packet_size() + packet.len()];
            let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
            ethernet.set_ethertype(EtherTypes::Ipv4);
            ethernet.set_payload(&packet);
            let frame = Frame::parse(&frame).unwrap();
            let (source, destination) = frame.addresses.unwrap();
            assert!(matches!(frame.content, Content::Udp { destination: 8_362, .. }));
            assert_eq!(destination, IpAddr::V4(*to.ip()));
            assert!(matches!(source, IpAddr::V4(source) if range.contains(&source)));
            sources.insert(source);
        }
        assert_eq!(sources.len(), PACKETS);
    }
}
