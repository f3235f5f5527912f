//! Changing addresses and ports, every checksum kept right.

use std::net::IpAddr;

use thiserror::Error;

use super::{
    Flow, IpPacket, IpVersion, Layout, Transport,
    checksum::{Delta, Sum},
    ip::{self, Echo, IPV4_CHECKSUM, address_offsets, echo, update},
    layout::Obstacle,
};

/// Changes to a packet; `None` leaves a field as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "built by name with `..Default::default()`")]
pub struct Rewrite {
    /// New source address, of the packet's family.
    pub source: Option<IpAddr>,
    /// New destination address, of the packet's family.
    pub destination: Option<IpAddr>,
    /// New source port, or identifier of an ICMP echo request.
    pub source_port: Option<u16>,
    /// New destination port, or identifier of an ICMP echo reply.
    pub destination_port: Option<u16>,
}

impl Rewrite {
    /// Returns the changes that turn packets of the flow `from` into packets of the flow `to`.
    #[must_use]
    pub fn between(from: Flow, to: Flow) -> Self {
        Self {
            source: (from.source != to.source).then_some(to.source),
            destination: (from.destination != to.destination).then_some(to.destination),
            source_port: (from.source_port != to.source_port).then_some(to.source_port),
            destination_port: (from.destination_port != to.destination_port).then_some(to.destination_port),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn has_ports(&self) -> bool {
        self.source_port.is_some() || self.destination_port.is_some()
    }
}

/// Reason for which a packet cannot be rewritten. It is unchanged then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// An address of the other family.
    #[error("address of the other IP family")]
    Family,
    /// It is still on its way along a source route, so the destination field is not the destination that its checksum
    /// covers (IPv4 options 131 and 137 with stops left, IPv6 routing headers with segments left).
    #[error("packet follows a source route")]
    SourceRoute,
    /// An authentication header covers its addresses.
    #[error("packet is covered by an authentication header")]
    Authenticated,
    /// It has no such port or identifier.
    #[error("packet has no such port")]
    NoPort,
    /// A first fragment that ends before its checksum.
    #[error("checksum lies in a later fragment")]
    OutOfReach,
    /// An unfinished checksum in a fragment, or of another protocol than TCP and UDP.
    #[error("unfinished checksum where there cannot be one")]
    Unfinished,
    /// The place given for an unfinished checksum lies outside the packet's transport part.
    #[error("checksum position lies outside the packet")]
    Position,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> IpPacket<B> {
    /// Sets the source address.
    ///
    /// # Errors
    /// As [`rewrite`](Self::rewrite).
    pub fn set_source(&mut self, source: IpAddr, partial: bool) -> Result<(), RewriteError> {
        self.rewrite(Rewrite { source: Some(source), ..Rewrite::default() }, partial)
    }

    /// Sets the destination address.
    ///
    /// # Errors
    /// As [`rewrite`](Self::rewrite).
    pub fn set_destination(&mut self, destination: IpAddr, partial: bool) -> Result<(), RewriteError> {
        self.rewrite(Rewrite { destination: Some(destination), ..Rewrite::default() }, partial)
    }

    /// Sets the source port, or the identifier of an ICMP echo request.
    ///
    /// # Errors
    /// As [`rewrite`](Self::rewrite).
    pub fn set_source_port(&mut self, port: u16, partial: bool) -> Result<(), RewriteError> {
        self.rewrite(Rewrite { source_port: Some(port), ..Rewrite::default() }, partial)
    }

    /// Sets the destination port, or the identifier of an ICMP echo reply.
    ///
    /// # Errors
    /// As [`rewrite`](Self::rewrite).
    pub fn set_destination_port(&mut self, port: u16, partial: bool) -> Result<(), RewriteError> {
        self.rewrite(Rewrite { destination_port: Some(port), ..Rewrite::default() }, partial)
    }

    /// Changes addresses and ports and, incrementally, the checksums of IPv4, TCP, UDP, ICMP, ICMPv6, DCCP and UDP-Lite.
    /// A checksum that was wrong stays wrong by as much. UDP without a checksum stays without one, in both families (RFC 6935).
    ///
    /// With `partial`, the TCP or UDP checksum field holds only the pseudo header's sum, as a TUN device with checksum
    /// offload hands it out. Fragments other than the first one get their addresses changed, nothing else.
    ///
    /// # Errors
    /// [`RewriteError`]; the packet is unchanged then.
    pub fn rewrite(&mut self, to: Rewrite, partial: bool) -> Result<(), RewriteError> {
        if to.is_empty() {
            return Ok(());
        }
        let layout = self.layout;
        check(self.bytes.as_ref(), &layout, &to)?;
        if layout.transport.is_none() && !self.is_later_fragment() {
            return Err(RewriteError::OutOfReach);
        }
        if partial && !self.may_be_unfinished() {
            return Err(RewriteError::Unfinished);
        }
        apply(self.bytes.as_mut(), &layout, &to, partial);
        Ok(())
    }

    /// Completes an unfinished checksum: sums from `csum_start` bytes into the packet to its end, what the field holds
    /// included, and stores the complement `csum_offset` bytes behind `csum_start`. A result of 0 is stored as 0xFFFF,
    /// which is the same to every protocol but UDP, where 0 would mean none (as Linux does, net/core/dev.c,
    /// `skb_checksum_help`).
    ///
    /// # Errors
    /// [`RewriteError::Position`] if the field is not wholly inside the packet, behind its IP header.
    pub fn finish_checksum(&mut self, csum_start: u16, csum_offset: u16) -> Result<(), RewriteError> {
        let (start, offset) = (usize::from(csum_start), usize::from(csum_offset));
        let bytes = self.bytes.as_mut();
        if start < self.layout.transport_offset() || start + offset + 2 > bytes.len() {
            return Err(RewriteError::Position);
        }
        let checksum = match Sum::new().bytes(&bytes[start..]).checksum() {
            0 => 0xFFFF,
            checksum => checksum,
        };
        update(bytes, start + offset, |_| checksum);
        Ok(())
    }
}

impl<B: AsRef<[u8]>> IpPacket<B> {
    /// Tells if its checksum can be unfinished at all: whole TCP and UDP packets only.
    #[must_use]
    pub fn may_be_unfinished(&self) -> bool {
        self.layout.fragment.is_none()
            && matches!(self.layout.transport, Some(Transport::Tcp | Transport::Udp))
    }
}

/// Checks that `to` can be applied, as far as it does not depend on how much of the packet there is.
pub(super) fn check(bytes: &[u8], layout: &Layout, to: &Rewrite) -> Result<(), RewriteError> {
    match layout.obstacle {
        Some(Obstacle::SourceRoute) => return Err(RewriteError::SourceRoute),
        Some(Obstacle::Authenticated) => return Err(RewriteError::Authenticated),
        None => {}
    }
    let same_family = |address: &IpAddr| address.is_ipv4() == (layout.version == IpVersion::V4);
    if !to.source.iter().chain(&to.destination).all(same_family) {
        return Err(RewriteError::Family);
    }
    let has_port = match (layout.transport, echo(bytes, layout)) {
        (Some(Transport::Tcp | Transport::Udp), _) => true,
        (_, Some((Echo::Request, _))) => to.destination_port.is_none(),
        (_, Some((Echo::Reply, _))) => to.source_port.is_none(),
        _ => false,
    };
    if to.has_ports() && !has_port { Err(RewriteError::NoPort) } else { Ok(()) }
}

/// Applies `to`, which passed [`check`]. A checksum that is not there (a quoted packet's) is left alone.
pub(super) fn apply(bytes: &mut [u8], layout: &Layout, to: &Rewrite, partial: bool) {
    let (source_at, destination_at, len) = address_offsets(layout.version);
    let mut addresses = Delta::new();
    for (at, address) in [(source_at, to.source), (destination_at, to.destination)] {
        let field = &mut bytes[at..at + len];
        addresses = match address {
            Some(IpAddr::V4(v4)) => replace(field, &v4.octets(), addresses),
            Some(IpAddr::V6(v6)) => replace(field, &v6.octets(), addresses),
            None => addresses,
        };
    }
    if layout.version == IpVersion::V4 {
        update(bytes, IPV4_CHECKSUM, |stored| addresses.apply(stored));
    }
    let mut ports = Delta::new();
    let (source_port_at, destination_port_at) = match layout.transport {
        Some(Transport::Tcp | Transport::Udp) => (0, 2),
        _ => (4, 4),
    };
    for (at, port) in [(source_port_at, to.source_port), (destination_port_at, to.destination_port)] {
        if let Some(port) = port {
            update(bytes, layout.transport_offset() + at, |old| {
                ports = ports.word(old, port);
                port
            });
        }
    }
    let Some(checksum_at) = layout.checksum_offset() else { return };
    let whole = addresses.and(ports);
    update(bytes, checksum_at, |stored| match layout.transport {
        Some(Transport::Tcp | Transport::Udp) if partial => addresses.apply_partial(stored),
        Some(Transport::Udp) => whole.apply_udp(stored),
        // ICMP has no pseudo header, ICMPv6 has one.
        Some(Transport::Icmp) => ports.apply(stored),
        _ => whole.apply(stored),
    });
}

fn replace(field: &mut [u8], new: &[u8], delta: Delta) -> Delta {
    let delta = delta.bytes(field, new);
    field.copy_from_slice(new);
    delta
}

/// The packet quoted in an ICMP error.
impl<B: AsRef<[u8]>> IpPacket<B> {
    /// The flow of the packet that this ICMP error quotes: the one its receiver sent. `None` if this is no ICMP error,
    /// or what it quotes cannot be read as far as its ports.
    #[must_use]
    pub fn quoted_flow(&self) -> Option<Flow> {
        let quoted = &self.bytes()[self.quoted_offset()?..];
        ip::flow(quoted, &Layout::of_quoted(quoted)?)
    }

    /// Tells if this is an ICMP error: it quotes the packet it is about and has no flow of its own. ICMP destination
    /// unreachable, source quench, redirect, time exceeded and parameter problem (RFC 1122 section 3.2.2); ICMPv6
    /// destination unreachable, packet too big, time exceeded and parameter problem (RFC 4443 section 3).
    #[must_use]
    pub fn is_icmp_error(&self) -> bool {
        self.quoted_offset().is_some()
    }

    /// Start of the packet that this ICMP error quotes. `None` if this is none.
    #[must_use]
    pub fn quoted_offset(&self) -> Option<usize> {
        let at = self.layout.transport_offset();
        match (self.layout.transport?, self.bytes().get(at)?) {
            (Transport::Icmp, 3 | 4 | 5 | 11 | 12) | (Transport::Icmpv6, 1..=4) => Some(at + 8),
            _ => None,
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> IpPacket<B> {
    /// Changes addresses and ports of the packet quoted in this ICMP error, its checksums as far as they are quoted,
    /// and the checksum of the error itself.
    ///
    /// # Errors
    /// [`RewriteError`], [`NoPort`](RewriteError::NoPort) also if there is no readable quoted packet; this packet is
    /// unchanged then.
    pub fn rewrite_quoted(&mut self, to: Rewrite) -> Result<(), RewriteError> {
        let at = self.quoted_offset().ok_or(RewriteError::NoPort)?;
        let checksum_at = self.layout.checksum_offset().ok_or(RewriteError::NoPort)?;
        let bytes = self.bytes.as_mut();
        let quoted = &mut bytes[at..];
        let layout = Layout::of_quoted(quoted).ok_or(RewriteError::NoPort)?;
        check(quoted, &layout, &to)?;
        let before = Sum::new().bytes(quoted).fold();
        apply(quoted, &layout, &to, false);
        let delta = Delta::new().word(before, Sum::new().bytes(quoted).fold());
        update(bytes, checksum_at, |stored| delta.apply(stored));
        Ok(())
    }
}
