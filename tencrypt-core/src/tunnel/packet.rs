//! A packet as it comes from the device, and one that waits.

use std::fmt;

use crate::{
    offload::{GsoType, Segments, VnetHdr},
    packet::{IpPacket, Layout, ParseError, RewriteError},
    record::FLAG_CSUM_PARTIAL,
};

/// A packet read from the TUN device, with what its virtio-net header says of it.
pub struct TunPacket<'a> {
    pub(super) vnet: VnetHdr,
    pub(super) bytes: &'a mut [u8],
    /// Layout of the packet, once it was parsed. Nothing changes it as long as this value has the bytes.
    layout: Option<Layout>,
}

impl<'a> TunPacket<'a> {
    /// The packet `bytes`, in the state `vnet` describes.
    pub fn new(vnet: VnetHdr, bytes: &'a mut [u8]) -> Self {
        Self { vnet, bytes, layout: None }
    }

    /// The layout of the packet, found when it is asked for first.
    #[inline]
    pub(super) fn layout(&mut self) -> Result<Layout, ParseError> {
        match self.layout {
            Some(layout) => Ok(layout),
            None => {
                let layout = IpPacket::parse(&*self.bytes)?.layout();
                self.layout = Some(layout);
                Ok(layout)
            }
        }
    }

    /// The packet to be read.
    #[inline]
    pub(super) fn inner(&mut self) -> Result<IpPacket<&[u8]>, ParseError> {
        let layout = self.layout()?;
        Ok(IpPacket::known(&*self.bytes, layout))
    }

    /// The packet to be rewritten, and its offload state.
    pub(super) fn inner_mut(&mut self) -> Result<(IpPacket<&mut [u8]>, &mut VnetHdr), ParseError> {
        let layout = self.layout()?;
        Ok((IpPacket::known(&mut *self.bytes, layout), &mut self.vnet))
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Tells if the version field says IPv4.
    #[inline]
    pub(super) fn is_v4(&self) -> bool {
        is_v4(self.bytes)
    }

    /// Its offload state.
    #[must_use]
    pub fn vnet(&self) -> VnetHdr {
        self.vnet
    }

    /// For the raw path: hands out real packets with finished checksums, one of a lone packet, all segments of a
    /// super-packet. A packet that is not what its header says is not handed out. Uses the packet up.
    pub fn finish_segments(&mut self, mut each: impl FnMut(&[u8])) {
        if self.vnet.gso_type == GsoType::None {
            if self.finish_checksum().is_ok() {
                each(self.bytes);
            }
            return;
        }
        let Some(mut segments) = self.plan(true) else { return };
        while let Some(segment) = segments.cut_next(self.bytes) {
            each(segment);
        }
    }

    /// Plans how a super-packet is cut, which uses it up. `None`: it is not what its header says.
    pub(super) fn plan(&mut self, finish: bool) -> Option<Segments> {
        let layout = self.layout().ok()?;
        // Cutting writes over the packet.
        self.layout = None;
        Segments::plan(&self.vnet, &IpPacket::known(&*self.bytes, layout), finish).ok()
    }

    /// Completes a lone packet's unfinished checksum.
    ///
    /// # Errors
    /// The header points outside the packet.
    pub(super) fn finish_checksum(&mut self) -> Result<(), RewriteError> {
        if !self.vnet.needs_csum {
            return Ok(());
        }
        let (mut packet, vnet) = self.inner_mut().map_err(|_| RewriteError::Position)?;
        packet.finish_checksum(vnet.csum_start, vnet.csum_offset)?;
        vnet.needs_csum = false;
        Ok(())
    }
}

impl fmt::Debug for TunPacket<'_> {
    /// Its length, never its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunPacket").field("vnet", &self.vnet).field("len", &self.bytes.len()).finish()
    }
}

/// A packet that was held, whole, in the state the device gave it out in.
pub struct HeldPacket {
    vnet: VnetHdr,
    bytes: Vec<u8>,
    layout: Option<Layout>,
    /// A super-packet that is being sent.
    cut: Option<Box<Segments>>,
}

impl HeldPacket {
    pub(super) fn new(packet: &TunPacket<'_>) -> Self {
        Self { vnet: packet.vnet, bytes: packet.bytes.to_vec(), layout: packet.layout, cut: None }
    }

    /// The packet, to be passed on.
    pub fn as_packet(&mut self) -> TunPacket<'_> {
        TunPacket { vnet: self.vnet, bytes: &mut self.bytes, layout: self.layout }
    }

    /// Bytes it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Tells if it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn is_v4(&self) -> bool {
        is_v4(&self.bytes)
    }

    /// The next piece of it that becomes a record, the record's flags, and whether more pieces follow. With `finish`
    /// checksums are completed. `None`: the packet is not what its header says.
    pub(super) fn next_piece(&mut self, finish: bool) -> Option<(&[u8], u8, bool)> {
        if self.vnet.gso_type == GsoType::None {
            let mut packet = TunPacket { vnet: self.vnet, bytes: &mut self.bytes, layout: self.layout };
            if finish {
                packet.finish_checksum().ok()?;
            }
            self.vnet = packet.vnet;
            let flags = if self.vnet.needs_csum { FLAG_CSUM_PARTIAL } else { 0 };
            return Some((&self.bytes, flags, false));
        }
        if self.cut.is_none() {
            self.cut = Some(Box::new(self.as_packet().plan(finish)?));
        }
        let segments = self.cut.as_mut()?;
        let flags = if segments.finishes() { 0 } else { FLAG_CSUM_PARTIAL };
        let more = segments.left() > 1;
        segments.cut_next(&mut self.bytes).map(|piece| (&*piece, flags, more))
    }
}

impl fmt::Debug for HeldPacket {
    /// Its length, never its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPacket")
            .field("vnet", &self.vnet)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

#[inline]
fn is_v4(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
}
