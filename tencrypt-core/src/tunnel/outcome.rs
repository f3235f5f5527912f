//! Outcomes that a Tunnel reports for what it was given.

use crate::{directory::PeerId, record::SessionIndex, stats::DropReason};

/// Number of a pod's lane, and so of a Tunnel: `0..=15`, the top four bits of its session indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneId(pub(super) u8);

impl LaneId {
    /// The first lane, which uses the tenant's port.
    pub const ZERO: Self = Self(0);

    /// The lane of this number; `None` for 16 and more. It uses the tenant's port plus its number.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < SessionIndex::LANES { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Outcome for a packet from the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
#[expect(clippy::exhaustive_enums, reason = "the owner acts on every case")]
pub enum Outbound {
    /// Sealed into the transport's buffer.
    Sent {
        /// Records it became.
        records: u16,
    },
    /// Copied; it leaves by `poll_transmit` once its destination has answered.
    Held,
    /// To be sent as it is, past the tunnel.
    Bypass,
    /// Rewritten in place: to be written back to the device.
    Hairpin,
    /// Gone, and counted.
    Dropped(DropReason),
}

/// Outcomes for the records of a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "a plain sum")]
pub struct Inbound {
    /// Packets handed to the sink.
    pub opened: u16,
    /// Records dropped and counted.
    pub dropped: u16,
    /// Handshake messages queued, and keepalives.
    pub control: u16,
}

/// Treatment of packets to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every packet meets one of them")]
pub enum Verdict {
    /// Sealed for this peer.
    Encrypt(PeerId),
    /// Sent as they are.
    Bypass,
    /// Held while the destination is asked.
    Hold,
    /// Dropped.
    Drop(DropReason),
}

impl Verdict {
    /// Its name in reports, without peer or reason.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt(_) => "encrypt",
            Self::Bypass => "bypass",
            Self::Hold => "hold",
            Self::Drop(_) => "drop",
        }
    }
}
