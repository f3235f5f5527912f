//! A validated IP packet.

use std::{fmt, net::IpAddr, ops::Range};

use super::{Flow, Fragment, IpVersion, Layout, ParseError, Transport, checksum::Delta, layout::IPV4_HEADER};

const TCP_FLAGS: usize = 13;

/// A packet of either family whose whole layout has been checked: all accessors are infallible.
///
/// `B` is what holds the bytes: `&[u8]` to read, `&mut [u8]` to rewrite. Only fields that do not change the layout can
/// be written.
#[derive(Clone, Copy)]
pub struct IpPacket<B> {
    pub(super) bytes: B,
    pub(super) layout: Layout,
}

impl<B: AsRef<[u8]>> IpPacket<B> {
    /// Checks `bytes`, which must be one packet, no byte more or less.
    ///
    /// # Errors
    /// [`ParseError`] says what is wrong. Checksums are not looked at.
    #[inline]
    pub fn parse(bytes: B) -> Result<Self, ParseError> {
        #[cfg(test)]
        super::tests::work::count();
        let layout = Layout::of(bytes.as_ref())?;
        Ok(Self { bytes, layout })
    }

    /// The packet in `bytes` that was checked before and found to have this layout. Rewriting does not change a layout.
    #[inline]
    pub(crate) fn known(bytes: B, layout: Layout) -> Self {
        debug_assert_eq!(Layout::of(bytes.as_ref()), Ok(layout), "another packet's layout");
        Self { bytes, layout }
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Gives back what held the bytes.
    #[must_use]
    pub fn into_inner(self) -> B {
        self.bytes
    }

    /// Layout of the packet.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The IP version.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        self.layout.version
    }

    /// The address in the source field.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        source(self.bytes(), &self.layout)
    }

    /// The address in the destination field.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        destination(self.bytes(), &self.layout)
    }

    /// See [`Layout::protocol`].
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.layout.protocol
    }

    /// See [`Layout::transport`].
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.layout.transport
    }

    /// See [`Layout::fragment`].
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.layout.fragment
    }

    /// Tells if this is a fragment other than the first one: it has no transport header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.layout.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    /// Source and destination port of TCP and UDP, in first fragments too.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        ports(self.bytes(), &self.layout)
    }

    /// The identifier of an ICMP or ICMPv6 echo request or reply.
    #[must_use]
    pub fn echo_id(&self) -> Option<u16> {
        echo(self.bytes(), &self.layout).map(|(_, id)| id)
    }

    /// The flags byte of TCP: FIN is bit 0, SYN bit 1, RST bit 2, ACK bit 4 (RFC 9293 section 3.1).
    #[must_use]
    pub fn tcp_flags(&self) -> Option<u8> {
        let tcp = self.layout.transport == Some(Transport::Tcp);
        tcp.then(|| self.bytes()[self.layout.transport_offset() + TCP_FLAGS])
    }

    /// The flow this packet is of. `None` where its transport header is not in this packet: a fragment that is not the
    /// first, or too short a first one.
    #[must_use]
    pub fn flow(&self) -> Option<Flow> {
        flow(self.bytes(), &self.layout)
    }

    /// The ECN field, two bits (RFC 3168 section 5).
    #[must_use]
    pub fn ecn(&self) -> u8 {
        match self.layout.version {
            IpVersion::V4 => self.bytes()[1] & 0b11,
            IpVersion::V6 => self.bytes()[1] >> 4 & 0b11,
        }
    }

    /// Time to live, or hop limit.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        match self.layout.version {
            IpVersion::V4 => self.bytes()[8],
            IpVersion::V6 => self.bytes()[7],
        }
    }

    /// Range of the transport header. Empty for opaque protocols and where there is none.
    #[must_use]
    pub fn transport_header(&self) -> Range<usize> {
        self.layout.transport_offset()..self.layout.payload_offset()
    }

    /// Range of the transport's payload; the whole data of opaque protocols and of fragments that are not the first.
    #[must_use]
    pub fn payload(&self) -> Range<usize> {
        self.layout.payload_offset()..self.layout.payload_end()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> IpPacket<B> {
    /// Sets the ECN field to the low two bits of `ecn`, and the IPv4 header checksum accordingly.
    pub fn set_ecn(&mut self, ecn: u8) {
        let bytes = self.bytes.as_mut();
        match self.layout.version {
            IpVersion::V4 => {
                let old = [bytes[0], bytes[1]];
                bytes[1] = bytes[1] & !0b11 | ecn & 0b11;
                let delta = Delta::new().bytes(&old, &[bytes[0], bytes[1]]);
                update(bytes, IPV4_CHECKSUM, |stored| delta.apply(stored));
            }
            IpVersion::V6 => bytes[1] = bytes[1] & !0x30 | (ecn & 0b11) << 4,
        }
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for IpPacket<B> {
    /// The layout, never content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpPacket").field("len", &self.bytes().len()).field("layout", &self.layout).finish()
    }
}

pub(super) const IPV4_CHECKSUM: usize = 10;

/// Start of the two addresses, and their length.
pub(super) const fn address_offsets(version: IpVersion) -> (usize, usize, usize) {
    match version {
        IpVersion::V4 => (IPV4_HEADER - 8, IPV4_HEADER - 4, 4),
        IpVersion::V6 => (8, 24, 16),
    }
}

pub(super) fn source(bytes: &[u8], layout: &Layout) -> IpAddr {
    let (at, _, _) = address_offsets(layout.version);
    address(&bytes[at..], layout.version)
}

pub(super) fn destination(bytes: &[u8], layout: &Layout) -> IpAddr {
    let (_, at, _) = address_offsets(layout.version);
    address(&bytes[at..], layout.version)
}

/// The address at the start of `bytes`.
fn address(bytes: &[u8], version: IpVersion) -> IpAddr {
    match (version, bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
        (IpVersion::V4, Some(v4), _) => IpAddr::from(*v4),
        (IpVersion::V6, _, Some(v6)) => IpAddr::from(*v6),
        _ => unreachable!("the layout covers both addresses"),
    }
}

pub(super) fn ports(bytes: &[u8], layout: &Layout) -> Option<(u16, u16)> {
    let at = layout.transport_offset();
    match layout.transport? {
        Transport::Tcp | Transport::Udp => Some((word(bytes, at), word(bytes, at + 2))),
        _ => None,
    }
}

/// The two messages of ICMP echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    Request,
    Reply,
}

/// An echo message's kind and identifier (RFC 792; RFC 4443 section 4).
pub(super) fn echo(bytes: &[u8], layout: &Layout) -> Option<(Echo, u16)> {
    let at = layout.transport_offset();
    let kind = match (layout.transport?, bytes.get(at)?) {
        (Transport::Icmp, 8) | (Transport::Icmpv6, 128) => Echo::Request,
        (Transport::Icmp, 0) | (Transport::Icmpv6, 129) => Echo::Reply,
        _ => return None,
    };
    Some((kind, word(bytes, at + 4)))
}

pub(super) fn flow(bytes: &[u8], layout: &Layout) -> Option<Flow> {
    layout.transport?;
    let (source_port, destination_port) = match (ports(bytes, layout), echo(bytes, layout)) {
        (Some(ports), _) => ports,
        (None, Some((Echo::Request, id))) => (id, 0),
        (None, Some((Echo::Reply, id))) => (0, id),
        (None, None) => (0, 0),
    };
    Some(Flow {
        source: source(bytes, layout),
        destination: destination(bytes, layout),
        protocol: layout.protocol,
        source_port,
        destination_port,
    })
}

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Replaces the 16-bit word at `at`.
pub(super) fn update(bytes: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    let new = change(word(bytes, at));
    bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
}
