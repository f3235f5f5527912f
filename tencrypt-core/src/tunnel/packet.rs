//! A packet as it comes from the device.

use crate::{
    offload::{GsoType, VnetHdr},
    packet::IpPacket,
};

/// A packet read from the TUN device, with what its virtio-net header says of it.
#[derive(Debug)]
pub struct TunPacket<'a> {
    vnet: VnetHdr,
    bytes: &'a mut [u8],
}

impl<'a> TunPacket<'a> {
    /// The packet `bytes`, in the state `vnet` describes.
    pub fn new(vnet: VnetHdr, bytes: &'a mut [u8]) -> Self {
        Self { vnet, bytes }
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Its offload state.
    #[must_use]
    pub fn vnet(&self) -> VnetHdr {
        self.vnet
    }

    /// For the raw path: hands out real packets with finished checksums. A packet that is not what its header says
    /// is not handed out.
    pub fn finish_segments(&mut self, mut each: impl FnMut(&[u8])) {
        if self.vnet.gso_type == GsoType::None && self.finish_checksum() {
            each(self.bytes);
        }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// Completes an unfinished checksum. False if the header points outside the packet.
    pub(super) fn finish_checksum(&mut self) -> bool {
        if !self.vnet.needs_csum {
            return true;
        }
        let Ok(mut packet) = IpPacket::parse(&mut *self.bytes) else { return false };
        let finished = packet.finish_checksum(self.vnet.csum_start, self.vnet.csum_offset).is_ok();
        if finished {
            self.vnet.needs_csum = false;
        }
        finished
    }
}
