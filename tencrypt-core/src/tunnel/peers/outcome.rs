//! Values that go into [`Peers`](super::Peers) and come out.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::session::{PendingConf, Session};
use crate::{
    handshake::Established,
    tunnel::{index::OwnedIndex, peer_key::PeerKey},
};

/// A session that a handshake has led to.
pub(in crate::tunnel) struct NewSession {
    pub(in crate::tunnel) established: Established,
    pub(in crate::tunnel) local: OwnedIndex,
    pub(in crate::tunnel) endpoint: SocketAddr,
    pub(in crate::tunnel) role: Role,
}

/// This side's part in the handshake of a session.
pub(in crate::tunnel) enum Role {
    /// It sent INIT, repeats CONF, and replaces the session at that time.
    Initiator { conf: PendingConf, rekey_at: Instant },
    /// It answered INIT at that time; mac1 of the CONF, and the VIP that was asked for.
    Responder { born: Instant, mac1: [u8; 16], vip: Option<IpAddr> },
}

/// An authentic record.
pub(in crate::tunnel) struct Received<'b> {
    pub(in crate::tunnel) key: PeerKey,
    pub(in crate::tunnel) bytes: &'b mut [u8],
    pub(in crate::tunnel) flags: u8,
}

/// Way to a peer for one packet: the session to send on, and where to.
pub(in crate::tunnel) struct Toward<'p> {
    pub(in crate::tunnel) session: &'p mut Session,
    pub(in crate::tunnel) to: SocketAddr,
    /// The other side's device takes no unfinished checksums.
    pub(in crate::tunnel) finish: bool,
    /// Packets for it wait in the outbox, which nothing may overtake.
    pub(in crate::tunnel) is_waited_for: bool,
}

/// Result of a look at what is due of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum PeerDue {
    /// It is gone, or needs nothing.
    Nothing,
    /// It left data unanswered and is to be asked if it lives.
    Suspect,
    /// It did not answer that.
    Dead,
}
