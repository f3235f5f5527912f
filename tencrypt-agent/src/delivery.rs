//! Opened packets on their way into the device.

use std::io::IoSlice;

use tencrypt_core::{
    PacketSink, SinkFull, TunPacket,
    offload::{Coalescer, GsoType, Joins, Opened, VnetHdr},
};
use tencrypt_tun::{Delivered, TunDevice};

/// Joins the packets of one receive and writes them: one write for a train.
pub struct DeviceSink<'d, 'b> {
    device: &'d TunDevice,
    coalescer: Coalescer<'b>,
    lost: u16,
}

impl<'d, 'b> DeviceSink<'d, 'b> {
    /// Empty.
    #[must_use]
    pub fn new(device: &'d TunDevice, joins: Joins) -> Self {
        Self { device, coalescer: Coalescer::new(joins), lost: 0 }
    }

    /// Writes what is left. Returns how many packets the device did not take.
    #[must_use]
    pub fn finish(mut self) -> u16 {
        self.write();
        self.lost
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
}

/// Writes a packet that comes back to the pod. False: the device did not take it.
pub fn write_back(device: &TunDevice, packet: &TunPacket<'_>) -> bool {
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
