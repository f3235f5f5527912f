//! Opened packets on their way into the device.

use std::io::IoSlice;

use tencrypt::{
    LaneId, LaneUpdate, PacketSink, SinkFull, TunPacket,
    offload::{Coalescer, GsoType, Opened, VnetHdr},
};
use tencrypt_tun::{Delivered, TunDevice};

use crate::lane::channel::Lanes;

/// Joins the packets of one receive and writes them: one write for a train.
pub(crate) struct DeviceSink<'d, 'b> {
    device: &'d TunDevice,
    coalescer: Coalescer<'b>,
    lost: u16,
    /// All lanes, and which one this is.
    lanes: &'d Lanes,
    lane: LaneId,
    lane_updates_lost: u64,
}

/// Losses on the way to the device and to other lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost {
    /// Packets that the device did not take.
    pub packets: u16,
    /// Updates for other lanes.
    pub updates: u64,
}

impl<'d, 'b> DeviceSink<'d, 'b> {
    /// Makes a sink with nothing in it.
    #[must_use]
    pub(crate) fn new(device: &'d TunDevice, joins: &[GsoType], lanes: &'d Lanes, lane: LaneId) -> Self {
        Self { device, coalescer: Coalescer::new(joins), lost: 0, lanes, lane, lane_updates_lost: 0 }
    }

    /// Writes what is left.
    #[must_use]
    pub(crate) fn finish(mut self) -> Lost {
        self.write();
        Lost { packets: self.lost, updates: self.lane_updates_lost }
    }

    fn write(&mut self) {
        let (device, lost) = (self.device, &mut self.lost);
        self.coalescer.drain(|pieces, packets| {
            if !deliver(device, pieces) {
                *lost = lost.saturating_add(packets);
            }
        });
    }
}

impl<'b> PacketSink<'b> for DeviceSink<'_, 'b> {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        match self.coalescer.push(packet) {
            Ok(()) => Ok(()),
            Err(packet) => {
                self.write();
                self.coalescer.push(packet).map_err(|_| SinkFull)
            }
        }
    }

    fn lane_update(&mut self, update: LaneUpdate) -> Result<(), LaneUpdate> {
        self.lane_updates_lost += self.lanes.send_lane_update(self.lane, update);
        Ok(())
    }
}

/// Writes a packet that comes back to the pod. False: the device did not take it.
pub(crate) fn write_back(device: &TunDevice, packet: &TunPacket<'_>) -> bool {
    deliver(device, &[IoSlice::new(&packet.vnet().encode()), IoSlice::new(packet.bytes())])
}

/// Writes one packet in pieces, the first of which is its virtio-net header.
fn deliver(device: &TunDevice, pieces: &[IoSlice<'_>]) -> bool {
    match device.write_parts(pieces) {
        Ok(Delivered::Done) => true,
        Ok(Delivered::Refused) => deliver_cut(device, pieces),
        Ok(_) => false,
        Err(error) => {
            tracing::debug!(%error, "device");
            false
        }
    }
}

/// A super-packet that the kernel refused: its segments, one by one.
#[cold]
fn deliver_cut(device: &TunDevice, pieces: &[IoSlice<'_>]) -> bool {
    let Some((Ok(vnet), rest)) = pieces.split_first().map(|(header, rest)| (VnetHdr::decode(header), rest))
    else {
        return false;
    };
    if vnet.gso_type == GsoType::None {
        return false;
    }
    let mut bytes: Vec<u8> = rest.iter().flat_map(|piece| piece.iter().copied()).collect();
    let mut all = true;
    TunPacket::new(vnet, &mut bytes).finish_segments(|segment| {
        all &= matches!(device.write(VnetHdr::default(), segment), Ok(Delivered::Done));
    });
    all
}
