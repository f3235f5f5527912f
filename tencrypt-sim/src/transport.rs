//! The end that a pod's tunnel delivers to.

use tencrypt::{LaneUpdate, PacketSink, SinkFull, offload::Opened, sink::bytes::PacketQueue};

/// Datagrams or packets that one input makes: more than any.
pub(crate) const ROOM: usize = 1 << 16;

/// A device that takes everything.
pub(crate) struct Inbox {
    pub(crate) packets: PacketQueue,
    pub(crate) updates: Vec<LaneUpdate>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { packets: PacketQueue::new(ROOM), updates: Vec::new() }
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
