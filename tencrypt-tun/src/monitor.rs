//! Changes in the namespace while a capture runs.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use netlink_packet_route::{RouteNetlinkMessage, route::RouteHeader};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::{
    netlink::{decode, messages, receive_datagram},
    sys::{borrow, wait_readable},
    underlay::table_of,
};

/// `RTNLGRP_*` (include/uapi/linux/rtnetlink.h): links, IPv4 and IPv6 addresses and routes.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];

/// Largest datagram of notifications taken; the kernel sends one message each, far smaller.
const DATAGRAM: usize = 32 * 1024;

/// Something that may concern a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An interface appeared, went up or down, or has a new MTU.
    Link {
        /// The interface's index.
        index: u32,
    },
    /// An interface is gone.
    LinkGone {
        /// The index it had.
        index: u32,
    },
    /// An address was added, removed, or is no longer tentative.
    Address {
        /// The interface's index.
        index: u32,
    },
    /// A route of the main table was added or removed: perhaps a gateway or an MTU.
    MainRoute,
    /// Changes came faster than they were read, and were lost: look at everything again.
    Missed,
}

/// A subscription to the changes of one namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    datagram: Vec<u8>,
    pending: VecDeque<Change>,
}

impl Monitor {
    /// Subscribes in the calling thread's namespace. Open it before installing a capture, and nothing is missed.
    ///
    /// # Errors
    /// The netlink socket cannot be opened or join its groups: no descriptors, or no memory for its buffer.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, datagram: vec![0; DATAGRAM], pending: VecDeque::new() })
    }

    /// The next change, if one has come; does not wait. The descriptor is readable when there may be one.
    ///
    /// # Errors
    /// The socket cannot be read (recvfrom(2)); lost changes are [`Change::Missed`], no error.
    pub fn poll(&mut self) -> io::Result<Option<Change>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(change));
            }
            match receive_datagram(&self.socket, &mut self.datagram, libc::MSG_DONTWAIT) {
                Ok(length) => {
                    for message in messages(&self.datagram[..length]) {
                        let decoded = decode(message.message_type(), message.payload());
                        self.pending.extend(decoded.and_then(|message| change(&message)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Some(Change::Missed)),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next change; nothing when `timeout` passes first.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<Change>> {
        if let Some(change) = self.poll()? {
            return Ok(Some(change));
        }
        match wait_readable(borrow(&self.socket), timeout) {
            Ok(_) => self.poll(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Change::Link { index: link.header.index }),
        RouteNetlinkMessage::DelLink(link) => Some(Change::LinkGone { index: link.header.index }),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(Change::Address { index: address.header.index })
        }
        // A capture's own changes, in its own table, are none.
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            (table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(Change::MainRoute)
        }
        _ => None,
    }
}
