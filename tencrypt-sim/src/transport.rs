//! The ends that a pod's tunnel sends into and delivers to.

use std::net::SocketAddr;

use tencrypt::{DatagramSink, LaneUpdate, PacketSink, SinkFull, Train, TrainSlot, offload::Opened};

/// A transport that takes one record at a time.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) records: Vec<(SocketAddr, Vec<u8>)>,
}

pub(crate) struct Slot<'s> {
    outbox: &'s mut Outbox,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl DatagramSink for Outbox {
    type Slot<'s> = Slot<'s>;

    fn reserve(&mut self, want: Train) -> Option<Slot<'_>> {
        let len = if want.count == 1 { want.last } else { want.stride };
        Some(Slot { outbox: self, to: want.to, bytes: vec![0; len.into()] })
    }
}

impl TrainSlot for Slot<'_> {
    fn records(&self) -> u16 {
        1
    }

    fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn commit(mut self, _records: u16, len: usize) {
        self.bytes.truncate(len);
        self.outbox.records.push((self.to, self.bytes));
    }
}

/// A device that takes everything.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) update: Vec<LaneUpdate>,
}

impl<'b> PacketSink<'b> for Inbox {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.packets.push(packet.bytes().to_vec());
        Ok(())
    }

    fn lane_update(&mut self, update: LaneUpdate) -> Result<(), LaneUpdate> {
        self.update.push(update);
        Ok(())
    }
}
