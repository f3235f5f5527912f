//! Entries of the queue of transmits.

use std::net::SocketAddr;

use super::{packet::HeldPacket, peer::PeerKey};
use crate::record::{DATA_OVERHEAD, SessionIndex};

/// Entry that waits in `poll_transmit`, in order.
pub(super) enum Queue {
    Datagram { to: SocketAddr, bytes: Box<[u8]>, from_tenant_port: bool },
    Empty { to: PeerKey, session: SessionIndex },
    Packet { to: PeerKey, packet: HeldPacket },
}

impl Queue {
    /// Bytes of buffer that its next datagram wants.
    pub(super) fn datagram_len(&self) -> usize {
        match self {
            Self::Datagram { bytes, .. } => bytes.len(),
            Self::Empty { .. } => DATA_OVERHEAD,
            Self::Packet { packet, .. } => packet.piece_len() + DATA_OVERHEAD,
        }
    }
}
