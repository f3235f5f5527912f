//! The result of opening a record.

use std::fmt;

use super::{CheckedPacket, VnetHdr};
use crate::packet::Layout;

/// An authentic packet whose source belongs to the peer that sealed it and whose destination is this pod.
///
/// There is no public constructor: only the receive path of [`Tunnel`](crate::Tunnel) makes one, after every check.
/// `'b` is the lifetime of the receive buffer the record was opened in.
pub struct Opened<'b>(CheckedPacket<'b>);

impl<'b> Opened<'b> {
    pub(crate) fn new(bytes: &'b mut [u8], layout: Layout, vnet: VnetHdr) -> Self {
        Self(CheckedPacket::known(bytes, layout, vnet))
    }

    /// The IP packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Layout of the packet.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.0.layout()
    }

    /// The header a TUN device wants in front of it.
    #[must_use]
    pub fn vnet(&self) -> VnetHdr {
        self.0.vnet()
    }

    /// Hands the packet's bytes back, for as long as the receive buffer lives.
    #[must_use]
    pub fn into_bytes(self) -> &'b mut [u8] {
        self.0.into_bytes()
    }
}

impl<'b> From<Opened<'b>> for CheckedPacket<'b> {
    #[inline]
    fn from(opened: Opened<'b>) -> Self {
        opened.0
    }
}

impl fmt::Debug for Opened<'_> {
    /// Lengths, never content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("len", &self.bytes().len()).field("vnet", &self.vnet()).finish()
    }
}
