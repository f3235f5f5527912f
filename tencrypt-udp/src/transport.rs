//! The transport: receiving, sending, and what the error queue says.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
};

use socket2::Socket;
use tencrypt_core::{DatagramSink, RecvMeta, Train};

use crate::{
    bind::{BindError, Family, Sockets},
    path::{self, PathError, PathErrorKind},
    slab::{SendSlot, Slab},
    sys,
};

/// Datagrams and pending errors passed over in one call of [`UdpTransport::recv`], so that a flood of them cannot keep
/// the lane inside.
const PASSED_OVER: usize = 64;

/// Path errors kept until they are polled, and entries read off one socket's error queue at a time. What exceeds it is
/// lost and counted: a path that still fails reports again.
const PATH_ERRORS: usize = 64;

/// Attempts to send one record while reports on earlier datagrams are in the way.
const SEND_ATTEMPTS: usize = 3;

/// Counters since the transport was made, in datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Received and dropped: longer than the buffer given.
    pub truncated: u64,
    /// Not sent: the socket's send buffer or the device's queue was full.
    pub congested: u64,
    /// Not sent: no route, too long, refused by a firewall, or a family that does not exist here.
    pub unsent: u64,
    /// Path errors that nobody polled in time.
    pub path_errors_lost: u64,
}

/// UDP over IPv4 and IPv6 on one port. See the [crate documentation](crate).
pub struct UdpTransport {
    sockets: Sockets,
    slab: Slab,
    path_errors: VecDeque<PathError>,
    stats: UdpStats,
    /// The family asked first by the next receive, so that neither starves.
    next: Family,
}

impl UdpTransport {
    /// Opens the sockets on `port` (0: the kernel picks one that is free in both families), in the calling thread's
    /// network namespace. `set_up` sees each socket before it is bound, to mark it for instance. A family that the
    /// kernel lacks is left out.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(port: u16, set_up: impl FnMut(&Socket) -> io::Result<()>) -> Result<Self, BindError> {
        Sockets::bind(port, set_up).map(Self::over)
    }

    /// Takes sockets made elsewhere, bound to the same port; the IPv6 one must not take IPv4 too.
    ///
    /// # Errors
    /// [`BindError::NoFamily`] without a socket, [`BindError::Mismatch`] if they do not belong together,
    /// [`BindError::Socket`] if the kernel refuses an option.
    pub fn from_sockets(v4: Option<Socket>, v6: Option<Socket>) -> Result<Self, BindError> {
        Sockets::from_sockets(v4, v6).map(Self::over)
    }

    fn over(sockets: Sockets) -> Self {
        Self {
            sockets,
            slab: Slab::new(),
            path_errors: VecDeque::with_capacity(PATH_ERRORS),
            stats: UdpStats::default(),
            next: Family::V4,
        }
    }

    /// Receives one datagram into `buf` (65,535 bytes take any). `None`: nothing there now.
    ///
    /// # Errors
    /// Only what the kernel says of the socket itself or of its memory; nothing that a remote party causes.
    pub fn recv(&mut self, buf: &mut [u8]) -> io::Result<Option<(RecvMeta, usize)>> {
        Ok(match self.receive(buf)? {
            Receipt::Datagram(meta, len) => Some((meta, len)),
            Receipt::Empty | Receipt::PassedOver => None,
        })
    }

    /// As [`recv`](Self::recv), telling "nothing there" from "enough for one call".
    pub(crate) fn receive(&mut self, buf: &mut [u8]) -> io::Result<Receipt> {
        let mut empty = 0;
        for _ in 0..PASSED_OVER {
            let family = self.next;
            let outcome = self.socket(family).map(|socket| sys::receive(socket, buf));
            match outcome {
                Some(Ok(received)) => {
                    self.turn();
                    empty = 0;
                    match (received.from, u16::try_from(received.len)) {
                        _ if received.truncated => self.stats.truncated += 1,
                        (Some(from), Ok(stride)) => {
                            let meta = RecvMeta { from, stride, ecn: received.ecn };
                            return Ok(Receipt::Datagram(meta, received.len));
                        }
                        _ => {}
                    }
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(error)) if path::is_about_path(&error) => self.drain_error_queue(family),
                Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Some(Err(_)) | None => {
                    self.turn();
                    empty += 1;
                    if empty == 2 {
                        return Ok(Receipt::Empty);
                    }
                }
            }
        }
        Ok(Receipt::PassedOver)
    }

    /// Sends what waits in the send buffer.
    pub fn flush(&mut self) {
        for index in 0..self.slab.len() {
            self.send_waiting(index);
        }
        self.slab.clear();
    }

    /// Sends one datagram behind what waits already.
    pub fn send(&mut self, to: SocketAddr, bytes: &[u8], ecn: u8) {
        self.flush();
        let sent = send_bounded(self.socket(family_of(to)), to, bytes, ecn);
        self.account(to, sent);
    }

    /// The next statement about a path. To be polled after [`recv`](Self::recv), [`flush`](Self::flush),
    /// [`send`](Self::send) and [`drain_path_errors`](Self::drain_path_errors).
    pub fn poll_path_error(&mut self) -> Option<PathError> {
        self.path_errors.pop_front()
    }

    /// Reads the sockets' error queues; for the caller who sees `POLLERR` on a descriptor.
    pub fn drain_path_errors(&mut self) {
        self.drain_error_queue(Family::V4);
        self.drain_error_queue(Family::V6);
    }

    /// Whether [`poll_path_error`](Self::poll_path_error) has something to say.
    #[must_use]
    pub fn has_path_error(&self) -> bool {
        !self.path_errors.is_empty()
    }

    /// The port both sockets are bound to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.sockets.port
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &UdpStats {
        &self.stats
    }

    /// The socket of `family`, to poll it; `None` if the family does not exist here.
    #[must_use]
    pub fn socket(&self, family: Family) -> Option<BorrowedFd<'_>> {
        let socket = match family {
            Family::V4 => self.sockets.v4.as_ref(),
            Family::V6 => self.sockets.v6.as_ref(),
        };
        socket.map(AsFd::as_fd)
    }

    fn turn(&mut self) {
        self.next = match self.next {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
    }

    fn send_waiting(&mut self, index: usize) {
        let Some((waiting, bytes)) = self.slab.record(index) else { return };
        let to = waiting.to;
        let sent = send_bounded(self.socket(family_of(to)), to, bytes, waiting.ecn);
        self.account(to, sent);
    }

    fn account(&mut self, to: SocketAddr, sent: Sent) {
        for error in sent.reports {
            self.note(error);
        }
        match sent.outcome {
            Ok(()) => {}
            Err(Unsent::Congested) => self.stats.congested += 1,
            Err(Unsent::Path(kind)) => {
                self.stats.unsent += 1;
                self.note(PathError { to, kind });
            }
            Err(Unsent::Other) => self.stats.unsent += 1,
        }
    }

    fn note(&mut self, error: PathError) {
        if self.path_errors.len() < PATH_ERRORS {
            self.path_errors.push_back(error);
        } else {
            self.stats.path_errors_lost += 1;
        }
    }

    fn drain_error_queue(&mut self, family: Family) {
        let Some(socket) = self.socket(family) else { return };
        for error in read_error_queue(socket) {
            self.note(error);
        }
    }
}

impl DatagramSink for UdpTransport {
    type Slot<'s> = SendSlot<'s>;

    /// Room for one record. What waits is sent first if there is no room left.
    fn reserve(&mut self, want: Train) -> Option<SendSlot<'_>> {
        if !self.slab.has_room(want) {
            self.flush();
        }
        self.slab.slot(want)
    }
}

/// What one call of [`UdpTransport::receive`] found.
pub(crate) enum Receipt {
    /// A datagram and its length in bytes.
    Datagram(RecvMeta, usize),
    /// Both sockets are empty.
    Empty,
    /// Nothing of use among the first [`PASSED_OVER`]; there may be more.
    PassedOver,
}

/// What became of one datagram, and what the error queue said on the way.
struct Sent {
    outcome: Result<(), Unsent>,
    reports: Vec<PathError>,
}

enum Unsent {
    Congested,
    Path(PathErrorKind),
    Other,
}

/// Sends `bytes`. An error may be the report on an earlier datagram to somebody else (Linux gives it to the next call
/// on the socket), so the error queue says which destination is meant, and the datagram is tried again.
fn send_bounded(socket: Option<BorrowedFd<'_>>, to: SocketAddr, bytes: &[u8], ecn: u8) -> Sent {
    let mut sent = Sent { outcome: Err(Unsent::Other), reports: Vec::new() };
    let Some(socket) = socket else {
        sent.outcome = Err(Unsent::Path(PathErrorKind::NoRoute));
        return sent;
    };
    for attempt in 1..=SEND_ATTEMPTS {
        let error = match sys::send(socket, to, bytes, ecn) {
            Ok(()) => {
                sent.outcome = Ok(());
                return sent;
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                sent.outcome = Err(Unsent::Congested);
                return sent;
            }
            Some(libc::EINTR) => {}
            Some(libc::EMSGSIZE) => {
                let mut reports = read_error_queue(socket);
                let mut known = false;
                for report in &mut reports {
                    // For a socket that is not connected the kernel's own report has no port (`inet_dport` in
                    // __ip_append_data, net/ipv4/ip_output.c).
                    if report.to.ip() == to.ip()
                        && [0, to.port()].contains(&report.to.port())
                        && matches!(report.kind, PathErrorKind::TooBig { .. })
                    {
                        report.to = to;
                        known = true;
                    }
                }
                sent.reports.extend(reports);
                // Without an entry of its own it is longer than any IP packet.
                sent.outcome = Err(if known {
                    Unsent::Other
                } else {
                    Unsent::Path(PathErrorKind::TooBig { mtu: u16::MAX })
                });
                return sent;
            }
            Some(errno) if path::is_about_path(&error) => {
                sent.reports.extend(read_error_queue(socket));
                // A refusal cannot be about this datagram; a lack of routes can.
                if attempt == SEND_ATTEMPTS && errno != libc::ECONNREFUSED {
                    sent.outcome = Err(Unsent::Path(PathErrorKind::NoRoute));
                }
            }
            _ => return sent,
        }
    }
    sent
}

/// At most [`PATH_ERRORS`] entries of the socket's error queue.
fn read_error_queue(socket: BorrowedFd<'_>) -> Vec<PathError> {
    let mut errors = Vec::new();
    for _ in 0..PATH_ERRORS {
        match sys::receive_error(socket) {
            Ok(queued) => {
                if let (Some(to), Some(kind)) =
                    (queued.to, PathErrorKind::from_errno(queued.errno, queued.info))
                {
                    errors.push(PathError { to, kind });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    errors
}

fn family_of(address: SocketAddr) -> Family {
    match address {
        SocketAddr::V4(_) => Family::V4,
        SocketAddr::V6(_) => Family::V6,
    }
}
