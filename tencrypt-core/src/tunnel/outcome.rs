//! Outcomes that a Tunnel reports for what it was given.

use std::time::Instant;

use super::packet::HeldPacket;
use crate::{
    directory::PeerId, event::Event, lane_update::LaneUpdate, record::SessionIndex, sink::Transmit,
    stats::DropReason,
};

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
    /// Copied; it leaves by `poll_output` once its destination has answered.
    Held,
    /// To be sent as it is, past the tunnel.
    Bypass,
    /// Rewritten in place: to be written back to the device.
    Hairpin,
    /// Gone, and counted.
    Dropped(DropReason),
}

/// Outcomes for the datagrams of a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Inbound {
    /// Packets handed to the sink.
    pub opened: u16,
    /// Datagrams dropped and counted.
    pub dropped: u16,
    /// Handshake messages queued, RESETs and COOKIEs taken, keepalives.
    pub control: u16,
    /// Datagrams that were records, genuine or not; the others were handshake messages, or nothing of ours.
    pub records: u16,
    /// Records that a peer proved to have sealed and that this side has a use for: packets handed to the sink, and
    /// keepalives.
    pub proven: u16,
    /// Session of the last of those.
    pub session: Option<SessionIndex>,
}

impl Inbound {
    /// Outcome for datagrams that are not this lane's to handle and were handed to another: nothing of them is proven.
    #[must_use]
    pub const fn handed_over(datagrams: u16) -> Self {
        Self { opened: 0, dropped: 0, control: datagrams, records: 0, proven: 0, session: None }
    }

    /// Number of datagrams.
    #[must_use]
    pub const fn datagrams(&self) -> u16 {
        self.opened.saturating_add(self.dropped).saturating_add(self.control)
    }
}

/// The next thing that a Tunnel has for its owner, from [`Tunnel::poll_output`](crate::Tunnel::poll_output).
#[derive(Debug)]
#[must_use]
#[expect(clippy::exhaustive_enums, reason = "the owner acts on every case")]
pub enum Output {
    /// To be told to every other lane of the pod, before anything that follows reaches network or device.
    LaneUpdate(LaneUpdate),
    /// A datagram for the transport: the first [`len`](Transmit::len) bytes of the buffer.
    Transmit(Transmit),
    /// A packet that was held, and now leaves as it is, past the tunnel: by
    /// [`finish_segments`](crate::TunPacket::finish_segments).
    Released(HeldPacket),
    /// A packet of a peer for the device, that waited until the peer had proven the address that it comes from.
    Opened(HeldPacket),
    /// An event.
    Event(Event),
    /// There is nothing more. [`Tunnel::handle_timeout`](crate::Tunnel::handle_timeout) wants to be called at this time, at
    /// once if it is gone by, and never if it is `None`: then only input makes work.
    Timeout(Option<Instant>),
}

/// Something that the owner of a Tunnel could not do for it, for [`Tunnel::count_lost`](crate::Tunnel::count_lost).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// Packets that a sink took and could not pass on after all: counted as [`DropReason::SinkFull`].
    Packets(u64),
    /// Datagrams for another lane that could not be handed to it: counted as [`DropReason::RateLimited`].
    Datagrams(u64),
    /// Updates that could not be brought to another lane: counted as
    /// [`Stats::lane_updates_lost`](crate::Stats::lane_updates_lost).
    LaneUpdates(u64),
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
