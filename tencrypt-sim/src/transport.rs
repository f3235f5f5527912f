//! The end that a pod's tunnel delivers to.

use tencrypt::{LaneUpdate, PacketSink, SinkFull, offload::Opened, sink::bytes::PacketQueue};

/// Datagrams or packets that one input makes: more than any.
pub(crate) const ROOM: usize = 1 << 16;

/// A device that takes everything that it has room for, and what other lanes are to be told.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "the caller takes it apart")]
pub struct Inbox {
    /// Packets that came out.
    pub packets: PacketQueue,
    /// Updates for the pod's other lanes, in order.
    pub updates: Vec<LaneUpdate>,
}

impl Inbox {
    /// A device with room for so many packets.
    #[must_use]
    pub fn new(room: usize) -> Self {
        Self { packets: PacketQueue::new(room), updates: Vec::new() }
    }
}

impl<'b> PacketSink<'b> for Inbox {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.packets.packet(packet)
    }

    fn lane_update(&mut self, update: LaneUpdate) -> Result<(), LaneUpdate> {
        self.updates.push(update);
        Ok(())
    }
}
