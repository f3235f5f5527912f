//! The traits of a transport and a device, and what goes through them.

use std::net::SocketAddr;

use crate::{lane_update::LaneUpdate, offload::Opened};

/// The shape of one train: `count` records for one destination, all `stride` bytes long but the last, which is
/// `last` bytes (`1..=stride`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "transports build and match it")]
pub struct Train {
    /// Destination of the records.
    pub to: SocketAddr,
    /// Bytes of every record but the last.
    pub stride: u16,
    /// Number of records, at least 1.
    pub count: u16,
    /// Bytes of the last record.
    pub last: u16,
    /// The two ECN bits of the outer header (RFC 3168 section 5).
    pub ecn: u8,
}

impl Train {
    /// A train of one record of `len` bytes.
    #[must_use]
    pub fn single(to: SocketAddr, len: u16, ecn: u8) -> Self {
        Self { to, stride: len, count: 1, last: len, ecn }
    }

    /// Bytes of the whole train.
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::from(self.stride) * usize::from(self.count.saturating_sub(1)) + usize::from(self.last)
    }
}

/// A transport's send buffer.
pub trait DatagramSink {
    /// Room handed out by [`reserve`](Self::reserve).
    type Slot<'s>: TrainSlot
    where
        Self: 's;

    /// Room for a prefix of `want`: at least one record, at most `want.count`.
    ///
    /// `None` means full: the caller drops what is left and counts it as [`DropReason::SinkFull`].
    ///
    /// [`DropReason::SinkFull`]: crate::DropReason::SinkFull
    fn reserve(&mut self, want: Train) -> Option<Self::Slot<'_>>;
}

/// Room for the first records of a train. Dropped without [`commit`](Self::commit), nothing is sent and the room is
/// free again.
pub trait TrainSlot {
    /// Number of records that fit, `1..=want.count`.
    fn records(&self) -> u16;

    /// The room: records follow each other without gaps, `stride` bytes each, the last one of the train `last`. What it has
    /// beyond [`records`](Self::records) of them is left alone.
    fn buffer(&mut self) -> &mut [u8];

    /// Sends the first `records` records, which fill the first `len` bytes of the buffer.
    fn commit(self, records: u16, len: usize);
}

/// Destination of opened packets. `'b` is the lifetime of the receive buffers, so a sink may keep packets of several
/// trains until it writes them.
pub trait PacketSink<'b> {
    /// Takes one packet.
    ///
    /// # Errors
    /// [`SinkFull`] if there is no room; the packet is dropped and counted.
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull>;

    /// Takes what the other lanes of the pod must have been told before the packets that follow reach the device: their
    /// answers may come to any lane. A lane without siblings has no updates.
    ///
    /// # Errors
    /// The updates, if they are not taken: [`Output::LaneUpdate`](crate::Output::LaneUpdate) has them then. So it is unless
    /// this is implemented.
    fn lane_update(&mut self, update: LaneUpdate) -> Result<(), LaneUpdate> {
        Err(update)
    }
}

/// A [`PacketSink`] has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sink has no room")]
#[expect(clippy::exhaustive_structs, reason = "carries nothing by design")]
pub struct SinkFull;

/// Facts that a transport knows of a received train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecvMeta {
    /// Outer source: where answers go, as [`Train::to`] and [`Transmit::to`] say it. By its IP address an address becomes a
    /// peer's: packets from a pod are taken only from the peer whose handshake came from the pod's address, which answered
    /// there, or whose certificate has it. So a transport that is no network gives the sender's pod address here, never that
    /// of its own socket; else a session comes up and its packets are dropped as
    /// [`InnerSource`](crate::DropReason::InnerSource).
    pub from: SocketAddr,
    /// Bytes of every record but the last; the length of the datagram when nothing was joined.
    pub stride: u16,
    /// The two ECN bits of the outer header.
    pub ecn: u8,
}

impl RecvMeta {
    /// A train from `from` whose records are `stride` bytes long, but for the last; no ECN bit set.
    #[must_use]
    pub const fn new(from: SocketAddr, stride: u16) -> Self {
        Self { from, stride, ecn: 0 }
    }

    /// The same with these ECN bits.
    #[must_use]
    pub const fn with_ecn(self, ecn: u8) -> Self {
        Self { ecn, ..self }
    }
}

/// One control datagram to send: the first `len` bytes of the buffer given to
/// [`Tunnel::poll_output`](crate::Tunnel::poll_output).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transmit {
    /// Destination of the datagram.
    pub to: SocketAddr,
    /// Bytes of the datagram.
    pub len: usize,
    /// The two ECN bits of the outer header.
    pub ecn: u8,
    /// It has to leave from the tenant's port, whichever lane made it: an answer to INIT, which came to that port.
    /// Address translation on the way would not know it from another.
    pub from_tenant_port: bool,
}
