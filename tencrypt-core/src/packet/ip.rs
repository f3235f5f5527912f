//! A view of one IP packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Flow, Fragment, Layout, ParseError, Transport,
    checksum::{self, Update},
};

/// An IP packet in a buffer of exactly its length, its layout validated.
#[derive(Debug, Clone)]
pub struct IpPacket<B> {
    pub(super) bytes: B,
    pub(super) layout: Layout,
}

impl<B: AsRef<[u8]>> IpPacket<B> {
    /// Validates the whole layout.
    ///
    /// # Errors
    /// [`ParseError`]; among others if the buffer is longer or shorter than the packet says.
    pub fn parse(bytes: B) -> Result<Self, ParseError> {
        let layout = Layout::parse(bytes.as_ref())?;
        Ok(Self { bytes, layout })
    }

    /// Where things are.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The buffer back.
    #[must_use]
    pub fn into_inner(self) -> B {
        self.bytes
    }

    /// Whether it is IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.layout.v4
    }

    /// The source in the IP header.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        if self.layout.v4 { self.v4_address(12) } else { self.v6_address(8) }
    }

    /// The destination in the IP header.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        if self.layout.v4 { self.v4_address(16) } else { self.v6_address(24) }
    }

    /// The protocol behind the IP header and its extensions (IANA protocol numbers). Of a later fragment, what its
    /// fragment header says.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.layout.protocol
    }

    /// The transport header, `None` in a later fragment.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.layout.transport
    }

    /// The packet's place in a larger one, `None` if it is whole.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.layout.fragment
    }

    /// Source and destination port of TCP or UDP.
    #[must_use]
    pub fn ports(&self) -> Option<(u16, u16)> {
        let at = self.layout.transport_offset();
        matches!(self.layout.transport, Some(Transport::Tcp | Transport::Udp))
            .then(|| (self.word(at), self.word(at + 2)))
    }

    /// The identifier of an echo request or reply (RFC 792, RFC 4443 section 4).
    #[must_use]
    pub fn echo_id(&self) -> Option<u16> {
        let kind = self.icmp_type()?;
        let echo = if self.layout.v4 { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) };
        echo.then(|| self.word(self.layout.transport_offset() + 4))
    }

    /// Whether it is an echo request rather than a reply.
    #[must_use]
    pub fn is_echo_request(&self) -> bool {
        self.icmp_type() == Some(if self.layout.v4 { 8 } else { 128 })
    }

    /// The flow of the packet that an ICMP error quotes, as far as it is there.
    #[must_use]
    pub fn quoted_flow(&self) -> Option<Flow> {
        let quoted = self.bytes.as_ref().get(self.quoted_offset()?..)?;
        let layout = Layout::parse_quoted(quoted).ok()?;
        Flow::of(&IpPacket { bytes: quoted, layout })
    }

    /// Where the packet quoted in an ICMP error begins (RFC 792: unreachable, source quench, redirect, time exceeded,
    /// parameter problem; RFC 4443: types below 128).
    #[must_use]
    pub fn quoted_offset(&self) -> Option<usize> {
        let kind = self.icmp_type()?;
        let error = if self.layout.v4 { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { kind < 128 };
        error.then(|| self.layout.transport_offset() + 8)
    }

    /// The two ECN bits (RFC 3168 section 5).
    #[must_use]
    pub fn ecn(&self) -> u8 {
        if self.layout.v4 { self.byte(1) & 3 } else { (self.byte(1) >> 4) & 3 }
    }

    /// Time to live, or hop limit.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        if self.layout.v4 { self.byte(8) } else { self.byte(7) }
    }

    /// TCP flags: FIN 1, SYN 2, RST 4, ACK 16.
    #[must_use]
    pub fn tcp_flags(&self) -> Option<u8> {
        (self.layout.transport == Some(Transport::Tcp))
            .then(|| self.byte(self.layout.transport_offset() + 13))
    }

    fn icmp_type(&self) -> Option<u8> {
        matches!(self.layout.transport, Some(Transport::Icmp | Transport::Icmpv6))
            .then(|| self.byte(self.layout.transport_offset()))
    }

    // The layout was validated for this very buffer, so the reads below are inside it; should a buffer's AsRef change
    // its mind, they read zeroes.
    fn byte(&self, at: usize) -> u8 {
        self.bytes.as_ref().get(at).copied().unwrap_or(0)
    }

    pub(super) fn word(&self, at: usize) -> u16 {
        match self.bytes.as_ref().get(at..at + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    }

    fn v4_address(&self, at: usize) -> IpAddr {
        let octets = self.bytes.as_ref().get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        Ipv4Addr::from(octets.unwrap_or_default()).into()
    }

    fn v6_address(&self, at: usize) -> IpAddr {
        let octets = self.bytes.as_ref().get(at..at + 16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        Ipv6Addr::from(octets.unwrap_or_default()).into()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> IpPacket<B> {
    /// Sets the two ECN bits and mends the IPv4 header checksum.
    pub fn set_ecn(&mut self, ecn: u8) {
        let old = self.word(0);
        let new = if self.layout.v4 {
            old & !3 | u16::from(ecn & 3)
        } else {
            old & !0x30 | u16::from(ecn & 3) << 4
        };
        self.set_word(0, new);
        if self.layout.v4 {
            let checksum = Update::new().word(old, new).apply(self.word(10));
            self.set_word(10, checksum);
        }
    }

    /// Completes a TCP or UDP checksum whose field holds the pseudo-header sum: `start` and `offset` as a virtio-net
    /// header gives them, in bytes from the start of the packet and from there.
    ///
    /// # Errors
    /// [`ParseError::Transport`] if they do not point at the checksum of this packet's own transport header.
    pub fn finish_checksum(&mut self, start: u16, offset: u16) -> Result<(), ParseError> {
        let expected = match self.layout.transport {
            Some(Transport::Tcp) => 16,
            Some(Transport::Udp) => 6,
            _ => return Err(ParseError::Transport),
        };
        let at = self.layout.transport_offset();
        if usize::from(start) != at || offset != expected || self.layout.fragment.is_some() {
            return Err(ParseError::Transport);
        }
        // The field itself is part of the sum: it holds what the pseudo header adds.
        let sum = checksum::sum(self.bytes.as_ref().get(at..).unwrap_or_default());
        let finished = match !sum {
            // RFC 768: zero would mean that there is no checksum.
            0 if expected == 6 => 0xffff,
            other => other,
        };
        self.set_word(at + usize::from(expected), finished);
        Ok(())
    }

    pub(super) fn set_word(&mut self, at: usize, value: u16) {
        if let Some(field) = self.bytes.as_mut().get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// What the ECN field of an inner packet becomes when it leaves a tunnel, `None` if the packet must be dropped:
/// congestion was marked on the way, and the packet cannot say so (RFC 6040 section 4.2, figure 4).
#[must_use]
pub fn combine_ecn(inner: u8, outer: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;
    const CE: u8 = 0b11;
    match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}
