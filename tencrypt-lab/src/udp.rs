//! UDP echo, and single datagrams from sockets that evade the routes.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

use crate::error::{During, Result};
use crate::link;
use crate::netns::NetNs;
use crate::sys;
use crate::topology::Pod;

/// Longest wait of a server between two looks at whether it should end.
const TICK: Duration = Duration::from_millis(20);

/// Sends every datagram back, until dropped.
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl UdpEcho {
    /// Listens on both addresses of a pod.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        let mut echo = Self { stop: Arc::default(), received: Arc::default(), threads: Vec::new() };
        for address in pod.addresses() {
            let socket = pod.netns().run(|| bind(SocketAddr::new(address, port)))?;
            let (stop, received) = (Arc::clone(&echo.stop), Arc::clone(&echo.received));
            echo.threads.push(thread::spawn(move || serve(&socket, &stop, &received)));
        }
        Ok(echo)
    }

    /// Datagrams that arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing to return, and its panic would have been printed.
            let _ = thread.join();
        }
    }
}

/// Sends one datagram of each payload length to a [`UdpEcho`] and waits up to `wait` for each to come back from the
/// same address; returns the lengths that did not, or came back changed.
///
/// # Errors
/// [`Error::Os`](crate::Error::Os) if the kernel gives no socket, or knows no route to `to`.
pub fn udp_echo(
    from: &NetNs,
    to: SocketAddr,
    lengths: impl IntoIterator<Item = usize>,
    wait: Duration,
) -> Result<Vec<usize>> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = from.run(|| -> Result<UdpSocket> {
        let socket = bind(any)?;
        socket.connect(to).during("find a route")?;
        Ok(socket)
    })?;
    let mut failed = Vec::new();
    for (number, length) in lengths.into_iter().enumerate() {
        let payload: Vec<u8> = (0..length).map(|at| (at ^ (at >> 8) ^ number) as u8).collect();
        if !came_back(&socket, &payload, wait)? {
            failed.push(length);
        }
    }
    Ok(failed)
}

/// Sends `payload` as datagrams of `size` bytes each, the last one as long as what is left, in one call: the kernel
/// keeps them together for as long as devices on the way take them so (`UDP_SEGMENT`, udp(7)).
///
/// # Errors
/// [`Error::Os`](crate::Error::Os) if the kernel refuses to send.
pub fn send_train(from: &NetNs, to: SocketAddr, size: u16, payload: &[u8]) -> Result<()> {
    const WHAT: &str = "send a train";
    from.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).during(WHAT)?;
        sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, i32::from(size)).during(WHAT)?;
        socket.send_to(payload, &SockAddr::from(to)).during(WHAT)?;
        Ok(())
    })
}

/// A way for a program without privileges to choose the device itself, whatever the routes say; or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Binding {
    /// By the routes.
    Routes,
    /// SO_BINDTODEVICE (socket(7)).
    Device,
    /// IP_UNICAST_IF, IPV6_UNICAST_IF (ip(7), include/uapi/linux/in6.h).
    UnicastIf,
    /// The device's index in IP_PKTINFO or IPV6_PKTINFO (ip(7), RFC 3542 section 6.2).
    PacketInfo,
    /// SO_DONTROUTE (socket(7)).
    DontRoute,
}

impl Binding {
    /// All ways but [`Binding::Routes`].
    pub const EVASIONS: &'static [Self] = &[Self::Device, Self::UnicastIf, Self::PacketInfo, Self::DontRoute];
}

/// Sends one UDP datagram, bound to `device` in one of the ways. Multicast and IPv6 link-local destinations always
/// use `device`; broadcast is permitted.
///
/// # Errors
/// [`Error::Os`](crate::Error::Os) if the kernel refuses to send: that is what a leak test hopes for, or
/// the packet is dropped later and none is seen.
pub fn send_bound(
    from: &NetNs,
    binding: Binding,
    device: &str,
    to: SocketAddr,
    payload: &[u8],
) -> Result<()> {
    const WHAT: &str = "send a datagram";
    from.run(|| {
        let domain = Domain::for_address(to);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).during(WHAT)?;
        socket.set_broadcast(true).during(WHAT)?;
        let index = link::index(device)?;
        let mut to = to;
        match &mut to {
            SocketAddr::V4(to) if to.ip().is_multicast() => {
                // struct ip_mreqn: group, address, index; setting the sending device needs the index only.
                let choice = [0, 0, index];
                sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MULTICAST_IF, choice)
                    .during(WHAT)?;
            }
            SocketAddr::V6(to) if to.ip().is_multicast() || to.ip().is_unicast_link_local() => {
                to.set_scope_id(index)
            }
            _ => {}
        }
        let mut control = Vec::new();
        match binding {
            Binding::Routes => {}
            Binding::Device => socket.bind_device(Some(device.as_bytes())).during(WHAT)?,
            Binding::UnicastIf => {
                let (level, name) = match to {
                    SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
                    SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
                };
                sys::set_option(socket.as_fd(), level, name, index.to_be()).during(WHAT)?;
            }
            Binding::PacketInfo => control = packet_info(to.ip(), index),
            Binding::DontRoute => {
                sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_DONTROUTE, 1i32).during(WHAT)?;
            }
        }
        let address = SockAddr::from(to);
        let parts = [IoSlice::new(payload)];
        let message = MsgHdr::new().with_addr(&address).with_buffers(&parts).with_control(&control);
        socket.sendmsg(&message, 0).during(WHAT)?;
        Ok(())
    })
}

/// A control message: struct cmsghdr, then struct in_pktinfo or in6_pktinfo, padded to a machine word.
fn packet_info(to: IpAddr, index: u32) -> Vec<u8> {
    let (level, kind, data) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO, [&index.to_ne_bytes()[..], &[0; 8]].concat()),
        IpAddr::V6(_) => {
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, [&[0; 16][..], &index.to_ne_bytes()].concat())
        }
    };
    let mut bytes = (size_of::<usize>() + 8 + data.len()).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&data);
    bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
    bytes
}

fn came_back(socket: &UdpSocket, payload: &[u8], wait: Duration) -> Result<bool> {
    // A refused or unreachable destination is simply no echo.
    if socket.send(payload).is_err() {
        return Ok(false);
    }
    let end = Instant::now() + wait;
    let mut buffer = vec![0; 1 << 16];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).during("set a time limit")?;
        if socket.recv(&mut buffer).is_ok_and(|length| buffer[..length] == *payload) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) fn bind(address: SocketAddr) -> Result<UdpSocket> {
    UdpSocket::bind(address).during("bind a UDP port")
}

fn serve(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    // Cannot fail with a time other than zero (std::net::UdpSocket::set_read_timeout).
    let _ = socket.set_read_timeout(Some(TICK));
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            received.fetch_add(1, Ordering::Relaxed);
            // An echo that cannot be sent is missed by whoever waits for it.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
