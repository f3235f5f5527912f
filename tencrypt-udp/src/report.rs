//! Reports of the transport on its work: counters and statements about paths.

use std::{collections::VecDeque, io, net::SocketAddr, os::fd::BorrowedFd};

use crate::{
    path::{PathError, PathErrorKind},
    sys,
};

/// Path errors kept until they are polled, and entries read off one socket's error queue at a time. What exceeds it is
/// lost and counted: a path that still fails reports again.
const PATH_ERRORS: usize = 64;

/// Counters since the transport was made.
///
/// A record is what the core commits and what travels as a datagram of its own. `sent_records / send_calls` and
/// `received_records / receive_calls` say how many of them a system call moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Received and dropped, in datagrams or trains: longer than the buffer given, or with more control data than ours.
    pub truncated: u64,
    /// Records not sent: the socket's send buffer or the device's queue was full.
    pub congested: u64,
    /// Records not sent: no route, too long, refused by a firewall, or a family that does not exist here.
    pub unsent: u64,
    /// Path errors that nobody polled in time.
    pub path_errors_lost: u64,
    /// System calls that sent something.
    pub send_calls: u64,
    /// Records that the kernel took.
    pub sent_records: u64,
    /// System calls that received something, dropped or not.
    pub receive_calls: u64,
    /// System calls that found nothing to receive.
    pub receive_empty: u64,
    /// Records received and handed out.
    pub received_records: u64,
    /// Received with more than one record in it.
    pub received_trains: u64,
    /// Trains that the kernel did not take as such; their records went out one by one.
    pub gso_refused: u64,
    /// Filters against a flood that the kernel did not take, for lack of memory (net.core.optmem_max).
    pub filters_refused: u64,
}

/// Counters, and path errors until they are polled.
pub(crate) struct Reports {
    pub(crate) stats: UdpStats,
    pub(crate) path_errors: VecDeque<PathError>,
}

/// Contents of an error queue.
#[derive(Default)]
pub(crate) struct Drained {
    /// Anything that came from outside.
    pub(crate) remote: bool,
    /// This host's own statement that the datagram for the destination asked about is too long.
    pub(crate) too_big: bool,
}

impl Reports {
    pub(crate) fn new() -> Self {
        Self { stats: UdpStats::default(), path_errors: VecDeque::with_capacity(PATH_ERRORS) }
    }

    /// Keeps `error` until it is polled.
    pub(crate) fn note(&mut self, error: PathError) {
        if self.path_errors.len() < PATH_ERRORS {
            self.path_errors.push_back(error);
        } else {
            self.stats.path_errors_lost += 1;
        }
    }

    /// Notes what the socket's error queue says, at most [`PATH_ERRORS`] entries. `sending` is the destination of the
    /// datagram just refused, if one was.
    pub(crate) fn drain(&mut self, socket: BorrowedFd<'_>, sending: Option<SocketAddr>) -> Drained {
        let mut drained = Drained::default();
        for _ in 0..PATH_ERRORS {
            let queued = match sys::receive_error(socket) {
                Ok(queued) => queued,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            drained.remote |= !queued.local;
            let (Some(mut to), Some(kind)) =
                (queued.to, PathErrorKind::from_errno(queued.errno, queued.info))
            else {
                continue;
            };
            // For a socket that is not connected the kernel's own report has no port (`inet_dport` in
            // __ip_append_data, net/ipv4/ip_output.c).
            if queued.local
                && matches!(kind, PathErrorKind::TooBig { .. })
                && let Some(sending) = sending
                && to.ip() == sending.ip()
                && [0, sending.port()].contains(&to.port())
            {
                // The attempt before this one, inside of a call that sent something else too, left one like it.
                if drained.too_big {
                    continue;
                }
                drained.too_big = true;
                to = sending;
            }
            self.note(PathError { to, kind });
        }
        drained
    }
}
