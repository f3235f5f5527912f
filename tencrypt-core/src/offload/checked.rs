//! A packet that may be joined to others.

use std::fmt;

use super::{GsoType, OffloadError, VnetHdr};
use crate::packet::{IpPacket, Layout};

/// A single well-formed IP packet that agrees with its virtio-net header: what a [`Coalescer`](super::Coalescer) takes.
///
/// [`new`](Self::new) makes one of any bytes, by checking them; an [`Opened`](super::Opened) packet, which was checked
/// when its record was opened, becomes one as it is. `'b` is the lifetime of the buffer it is in.
pub struct CheckedPacket<'b> {
    bytes: &'b mut [u8],
    layout: Layout,
    vnet: VnetHdr,
}

impl<'b> CheckedPacket<'b> {
    /// Checks `bytes`, which must be one packet, no byte more or less, and what `vnet` says of its checksum. Whether a
    /// checksum that is called finished is right is not looked at.
    ///
    /// # Errors
    /// [`OffloadError`].
    pub fn new(bytes: &'b mut [u8], vnet: VnetHdr) -> Result<Self, OffloadError> {
        let packet = IpPacket::parse(&*bytes)?;
        let layout = packet.layout();
        if vnet.gso_type != GsoType::None {
            return Err(OffloadError::SuperPacket);
        }
        let VnetHdr { needs_csum, csum_start, csum_offset, .. } = vnet;
        if !needs_csum {
            return Ok(Self { bytes, layout, vnet: VnetHdr::default() });
        }
        if !vnet.is_of_transport(&packet) {
            return Err(OffloadError::Checksum);
        }
        let vnet = VnetHdr { needs_csum, csum_start, csum_offset, ..VnetHdr::default() };
        Ok(Self { bytes, layout, vnet })
    }

    /// One whose layout and header were found right already.
    #[inline]
    pub(super) fn known(bytes: &'b mut [u8], layout: Layout, vnet: VnetHdr) -> Self {
        Self { bytes, layout, vnet }
    }

    /// The IP packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Layout of the packet.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The header a TUN device wants in front of it.
    #[must_use]
    pub fn vnet(&self) -> VnetHdr {
        self.vnet
    }

    /// Hands the packet's bytes back, for as long as the buffer lives.
    #[must_use]
    pub fn into_bytes(self) -> &'b mut [u8] {
        self.bytes
    }
}

impl fmt::Debug for CheckedPacket<'_> {
    /// Lengths, never content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedPacket").field("len", &self.bytes.len()).field("vnet", &self.vnet).finish()
    }
}
