//! Events that a Tunnel reports to its owner.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{crypto::CipherSuite, directory::PeerId};

/// An event, from [`Tunnel::poll_output`](crate::Tunnel::poll_output).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// First packet to a destination that leaves in plain: worth a host route around the tunnel.
    External {
        /// The destination.
        destination: IpAddr,
        /// End of the statement behind it; `None`: never.
        until: Option<Instant>,
    },
    /// A destination was proven internal: whatever leads around the tunnel for it must go at once.
    Internal {
        /// The destination.
        destination: IpAddr,
    },
    /// A session with a peer is ready to send.
    PeerUp {
        /// The peer.
        peer: PeerId,
        /// Destination of its records.
        endpoint: SocketAddr,
        /// The addresses it says it has.
        addresses: Box<[IpAddr]>,
    },
    /// The last session with a peer ended.
    PeerDown {
        /// The peer.
        peer: PeerId,
    },
    /// A destination did not answer INIT. Told once for as long as it stays silent and is asked at least each minute.
    HandshakeFailed {
        /// Destination of INIT.
        to: SocketAddr,
    },
}

/// A peer as `status` and `peers` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// Its identity.
    pub peer: PeerId,
    /// Lane of the peer: each has sessions of its own.
    pub lane: u8,
    /// Destination of records.
    pub endpoint: SocketAddr,
    /// Addresses that belong to it: proven, not merely asserted.
    pub addresses: Box<[IpAddr]>,
    /// The session's cipher.
    pub suite: CipherSuite,
    /// The session's key epoch.
    pub epoch: u8,
    /// Generation of the certificate that it presented last, if it did.
    pub generation: Option<u32>,
    /// Time since the last handshake.
    pub last_handshake: Option<Duration>,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
}
