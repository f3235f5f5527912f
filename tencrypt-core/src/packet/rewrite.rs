//! Changing addresses and ports, every checksum kept right.

use std::net::IpAddr;

use thiserror::Error;

use super::{IpPacket, Layout, Transport, checksum::Update};

/// What to change; `None` leaves a field as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Rewrite {
    /// A new source address.
    pub source: Option<IpAddr>,
    /// A new destination address.
    pub destination: Option<IpAddr>,
    /// A new source port. Ignored where there are no ports.
    pub source_port: Option<u16>,
    /// A new destination port. Ignored where there are no ports.
    pub destination_port: Option<u16>,
}

/// A packet cannot be rewritten. It is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The new address is of the other family.
    #[error("address of the other family")]
    Family,
    /// A routing header names further destinations, and the checksum covers the last one.
    #[error("packet with a routing header")]
    SourceRouted,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> IpPacket<B> {
    /// Rewrites addresses and ports, and with them the IPv4 header checksum and the checksum of TCP, UDP or ICMPv6
    /// where this packet carries it. `partial`: the TCP or UDP checksum field holds the pseudo-header sum only.
    ///
    /// A UDP checksum of zero over IPv4 means that there is none and stays; one that becomes zero is written as 0xFFFF
    /// (RFC 768). Over IPv6 a zero stays too: RFC 6936 allows it for tunnels, and the receiver decides.
    ///
    /// # Errors
    /// [`RewriteError`]; the packet is unchanged then.
    pub fn rewrite(&mut self, change: Rewrite, partial: bool) -> Result<(), RewriteError> {
        let v4 = self.layout.v4;
        let (source, destination) = (self.source(), self.destination());
        let new_source = change.source.unwrap_or(source);
        let new_destination = change.destination.unwrap_or(destination);
        if new_source.is_ipv4() != v4 || new_destination.is_ipv4() != v4 {
            return Err(RewriteError::Family);
        }
        if self.layout.source_routed {
            return Err(RewriteError::SourceRouted);
        }
        let addresses = Update::new().address(source, new_source).address(destination, new_destination);
        self.set_address(if v4 { 12 } else { 8 }, new_source);
        self.set_address(if v4 { 16 } else { 24 }, new_destination);
        if v4 {
            let checksum = addresses.apply(self.word(10));
            self.set_word(10, checksum);
        }
        let at = self.layout.transport_offset();
        let mut covered = addresses;
        if let Some((old_source, old_destination)) = self.ports() {
            let new_source = change.source_port.unwrap_or(old_source);
            let new_destination = change.destination_port.unwrap_or(old_destination);
            covered = covered.word(old_source, new_source).word(old_destination, new_destination);
            self.set_word(at, new_source);
            self.set_word(at + 2, new_destination);
        }
        if let Some(field) = checksum_field(&self.layout) {
            let old = self.word(field);
            let udp = self.layout.transport == Some(Transport::Udp);
            let new = match old {
                0 if udp && !partial => 0,
                // An unfinished checksum covers the pseudo header only; ports are summed when it is finished.
                _ if partial => addresses.apply_partial(old),
                _ => match covered.apply(old) {
                    0 if udp => 0xffff,
                    new => new,
                },
            };
            self.set_word(field, new);
        }
        Ok(())
    }

    fn set_address(&mut self, at: usize, address: IpAddr) {
        let bytes = self.bytes.as_mut();
        match address {
            IpAddr::V4(v4) => {
                if let Some(field) = bytes.get_mut(at..at + 4) {
                    field.copy_from_slice(&v4.octets());
                }
            }
            IpAddr::V6(v6) => {
                if let Some(field) = bytes.get_mut(at..at + 16) {
                    field.copy_from_slice(&v6.octets());
                }
            }
        }
    }

    /// Rewrites the packet that an ICMP error quotes, as far as it is there, and the error's own checksum. The quoted
    /// packet went the other way, so its source and destination change roles: `change` speaks of the quoted packet.
    ///
    /// # Errors
    /// [`RewriteError`]; the packet is unchanged then. An error without a whole quoted IP header is left as it is.
    pub fn rewrite_quoted(&mut self, change: Rewrite) -> Result<(), RewriteError> {
        let Some(at) = self.quoted_offset() else { return Ok(()) };
        let layout_of_error = self.layout;
        let bytes = self.bytes.as_mut();
        let Some(quoted) = bytes.get_mut(at..) else { return Ok(()) };
        let Ok(layout) = Layout::parse_quoted(quoted) else { return Ok(()) };
        // Words change at even and odd offsets alike within the whole message, but the quoted packet begins at an
        // even one, so the sum over it before and after gives the change to the error's own checksum.
        let before = super::checksum::sum(quoted);
        let mut inner = IpPacket { bytes: &mut *quoted, layout };
        let has_ports = layout.payload_offset.saturating_sub(layout.transport_offset) >= 4;
        let allowed = Rewrite {
            source_port: change.source_port.filter(|_| has_ports),
            destination_port: change.destination_port.filter(|_| has_ports),
            ..change
        };
        inner.rewrite_truncated(allowed)?;
        let after = super::checksum::sum(quoted);
        // RFC 4443 section 2.3: ICMPv6's checksum covers a pseudo header too, which the caller changes by `rewrite`.
        let field = layout_of_error.transport_offset() + 2;
        let checksum = Update::new().word(before, after).apply(self.word(field));
        self.set_word(field, checksum);
        Ok(())
    }

    /// [`rewrite`](Self::rewrite) for a quoted packet: a transport header cut off before its ports or its checksum is
    /// left alone there.
    fn rewrite_truncated(&mut self, change: Rewrite) -> Result<(), RewriteError> {
        let end = self.bytes.as_ref().len();
        let field = checksum_field(&self.layout);
        let whole_ports = self.layout.transport_offset() + 4 <= end;
        let whole_checksum = field.is_none_or(|field| field + 2 <= end);
        if whole_ports && whole_checksum {
            return self.rewrite(change, false);
        }
        let transport = self.layout.transport.take();
        self.layout.transport = None;
        let outcome = self.rewrite(change, false);
        self.layout.transport = transport;
        if outcome.is_ok() && whole_ports && matches!(transport, Some(Transport::Tcp | Transport::Udp)) {
            let at = self.layout.transport_offset();
            if let Some(port) = change.source_port {
                self.set_word(at, port);
            }
            if let Some(port) = change.destination_port {
                self.set_word(at + 2, port);
            }
        }
        outcome
    }
}

/// Where the checksum is that covers the addresses. ICMP's covers the message alone.
fn checksum_field(layout: &Layout) -> Option<usize> {
    let offset = match layout.transport? {
        Transport::Tcp => 16,
        Transport::Udp => 6,
        Transport::Icmpv6 => 2,
        Transport::Icmp | Transport::Opaque => return None,
    };
    Some(layout.transport_offset() + offset)
}
