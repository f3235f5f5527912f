//! Changes in the namespace while a capture runs.

use std::{collections::VecDeque, io, time::Duration};

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteHeader, RouteMessage},
};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

use crate::{
    netlink::{decode, messages, receive_datagram},
    routing::TABLE,
    sys::{borrow, wait_any_readable},
    underlay::table_of,
};

/// `RTNLGRP_*` (include/uapi/linux/rtnetlink.h): links; IPv4 and IPv6 addresses, routes, rules and settings.
const GROUPS: [u32; 9] = [1, 5, 9, 7, 11, 8, 19, 24, 25];
/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
const NFTABLES_GROUP: u32 = 7;

/// `RTM_*` (include/uapi/linux/rtnetlink.h) of kinds that are not looked into: rules and settings that are new or gone.
const RULES: [u16; 2] = [32, 33];
const SETTINGS: [u16; 2] = [80, 81];
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`: the end of each transaction.
const NEW_GENERATION: u16 = 10 << 8 | 15;

/// Largest datagram of notifications taken; the kernel sends one message each, far smaller.
const DATAGRAM: usize = 32 * 1024;

/// Something that may concern a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An interface appeared, went up or down, or has a new name or MTU.
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
    /// A route of the capture's table was added or removed.
    OwnRoute,
    /// A routing rule was added or removed.
    Rule,
    /// A setting of an interface has changed.
    Setting,
    /// Something of nftables has changed.
    Chains,
    /// Changes came faster than they were read, and were lost: look at everything again.
    Missed,
}

/// A subscription to the changes of one namespace.
#[derive(Debug)]
pub struct Monitor {
    route: Socket,
    /// None where the kernel has no nftables, or does not let this program listen.
    netfilter: Option<Socket>,
    /// Ports of the sockets whose changes are none: of routes and rules, and of nftables.
    own: [u32; 2],
    /// Changes of this program's own that were told once: a sign that the kernel tells of their kind here.
    heard: Vec<Change>,
    datagram: Vec<u8>,
    pending: VecDeque<Change>,
}

impl Monitor {
    /// Subscribes in the calling thread's namespace. Open it before installing a capture, and nothing is missed.
    ///
    /// # Errors
    /// The netlink socket cannot be opened or join its groups: no descriptors, or no memory for its buffer. Where the
    /// kernel tells nothing of nftables it is none.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            route: subscribe(NETLINK_ROUTE, &GROUPS)?,
            netfilter: subscribe(NETLINK_NETFILTER, &[NFTABLES_GROUP])
                .inspect_err(|error| tracing::debug!(%error, "no news of nftables"))
                .ok(),
            own: [0; 2],
            heard: Vec::new(),
            datagram: vec![0; DATAGRAM],
            pending: VecDeque::new(),
        })
    }

    /// Keeps silent of what a capture itself changes in rules, routes and nftables, but for the first change of each kind:
    /// that one shows the capture that it is told of them. `ports` are those of [`Capture::ports`](crate::Capture::ports).
    pub fn ignore(&mut self, ports: [u32; 2]) {
        self.own = ports;
    }

    /// The next change, if one has come; does not wait.
    ///
    /// # Errors
    /// A socket cannot be read (recvfrom(2)); lost changes are [`Change::Missed`], no error.
    pub fn poll(&mut self) -> io::Result<Option<Change>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(change));
            }
            if !self.receive(false)? && !self.receive(true)? {
                return Ok(None);
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
        let sockets = [Some(borrow(&self.route)), self.netfilter.as_ref().map(borrow)];
        match wait_any_readable(sockets, timeout) {
            Ok(_) => self.poll(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes one datagram. False: there is none.
    fn receive(&mut self, is_netfilter: bool) -> io::Result<bool> {
        let socket = if is_netfilter { self.netfilter.as_ref() } else { Some(&self.route) };
        let Some(socket) = socket else { return Ok(false) };
        match receive_datagram(socket, &mut self.datagram, libc::MSG_DONTWAIT) {
            Ok(length) => {
                for message in messages(&self.datagram[..length]) {
                    let change = if is_netfilter { of_netfilter(&message) } else { of_route(&message) };
                    let Some(change) = change else { continue };
                    let by = message.port_number();
                    if by != 0 && by == self.own[usize::from(is_netfilter)] && is_installed(change) {
                        if self.heard.contains(&change) {
                            continue;
                        }
                        self.heard.push(change);
                    }
                    self.pending.push_back(change);
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.pending.push_back(Change::Missed);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

fn subscribe(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Tells if a change is of something that a capture installs, and not of what it follows.
fn is_installed(change: Change) -> bool {
    matches!(change, Change::OwnRoute | Change::Rule | Change::Chains)
}

fn of_netfilter(message: &NetlinkBuffer<&[u8]>) -> Option<Change> {
    (message.message_type() == NEW_GENERATION).then_some(Change::Chains)
}

fn of_route(message: &NetlinkBuffer<&[u8]>) -> Option<Change> {
    match message.message_type() {
        kind if RULES.contains(&kind) => return Some(Change::Rule),
        kind if SETTINGS.contains(&kind) => return Some(Change::Setting),
        _ => {}
    }
    match decode(message.message_type(), message.payload())? {
        RouteNetlinkMessage::NewLink(link) => Some(Change::Link { index: link.header.index }),
        RouteNetlinkMessage::DelLink(link) => Some(Change::LinkGone { index: link.header.index }),
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            Some(Change::Address { index: address.header.index })
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => of_table(&route),
        _ => None,
    }
}

fn of_table(route: &RouteMessage) -> Option<Change> {
    match table_of(route) {
        table if table == u32::from(RouteHeader::RT_TABLE_MAIN) => Some(Change::MainRoute),
        TABLE => Some(Change::OwnRoute),
        _ => None,
    }
}
