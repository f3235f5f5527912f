//! Layout of a packet: found and checked once, so that every access after that is a fixed offset.

use thiserror::Error;

/// Extension headers walked at most. Longer chains have no use (RFC 8200 section 4.1 lists six, destination options
/// twice) and are a way to hide the transport header (RFC 7112).
pub(crate) const MAX_EXTENSION_HEADERS: usize = 8;

pub(super) const IPV4_HEADER: usize = 20;
pub(super) const IPV6_HEADER: usize = 40;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const UDP_LITE: u8 = 136;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Reason for which bytes are not an IP packet that this code carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Too short for an IP header of its version.
    #[error("shorter than an IP header")]
    Truncated,
    /// Neither version 4 nor version 6.
    #[error("IP version {0}")]
    Version(u8),
    /// An IPv4 header length below 20 bytes or beyond the packet.
    #[error("IPv4 header length is impossible")]
    HeaderLength,
    /// The length the header states is not the length of the packet. An IPv6 payload length of 0 with data behind it,
    /// jumbograms (RFC 2675) included, is one of these.
    #[error("IP length is not the length of the packet")]
    Length,
    /// An IPv6 extension header that overruns the packet, a second fragment header, or hop-by-hop options behind another
    /// header.
    #[error("IPv6 extension header is impossible")]
    Extension,
    /// More than [`Layout::MAX_EXTENSION_HEADERS`].
    #[error("more than 8 IPv6 extension headers")]
    TooManyExtensions,
    /// A fragment that ends past 65,535 bytes, or is not the last one and no multiple of 8 bytes (RFC 791 section 3.2,
    /// RFC 8200 section 4.5).
    #[error("fragment offset or length is impossible")]
    Fragment,
    /// A TCP, UDP, ICMP or ICMPv6 header that is cut off or states an impossible length.
    #[error("transport header is cut off or impossible")]
    Transport,
}

/// The IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "there are two")]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The kind of a packet's transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "everything else is opaque")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP, in an IPv4 packet.
    Icmp,
    /// ICMPv6, in an IPv6 packet.
    Icmpv6,
    /// Anything else: carried, never looked into.
    Opaque,
}

/// Fragment fields of a packet that is a piece of a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "mirrors the header")]
pub struct Fragment {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Place of this piece in the larger packet's payload, in bytes.
    pub offset: u16,
    /// More pieces follow behind this one.
    pub more: bool,
}

/// Reason that makes a change of addresses or ports wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The destination is a stop on the way, and the pseudo header has another one.
    SourceRoute,
    /// An authentication header covers what would change.
    Authenticated,
}

/// The layout of one validated packet. All offsets are in bytes from the start of the packet. 24 bytes, for it travels
/// with every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) version: IpVersion,
    pub(super) protocol: u8,
    pub(super) transport: Option<Transport>,
    transport_offset: u32,
    payload_offset: u32,
    payload_end: u32,
    pub(super) fragment: Option<Fragment>,
    pub(super) obstacle: Option<Obstacle>,
}

impl Layout {
    /// Most extension headers that are read.
    pub const MAX_EXTENSION_HEADERS: usize = MAX_EXTENSION_HEADERS;

    /// The IP version.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        self.version
    }

    /// The protocol number behind the IP header and all extension headers. For a fragment that is not the first one
    /// it is what the fragment header names, which may be an extension header.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The transport header's kind. `None` for a fragment that is not the first one, and for a first one so short
    /// that it does not hold the header.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.transport
    }

    /// Start of the transport header; in a fragment that is not the first one, of its data.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.transport_offset as usize
    }

    /// Start of the transport's payload; for opaque protocols and where there is no transport header the same as
    /// [`transport_offset`](Self::transport_offset).
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        self.payload_offset as usize
    }

    /// End of the transport's payload, at most the end of the packet.
    #[must_use]
    pub fn payload_end(&self) -> usize {
        self.payload_end as usize
    }

    /// The fragment state; `None` for a whole packet. A whole packet with a fragment header (RFC 6946) is whole.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Place of the transport checksum, from the start of the packet. `None` if the packet has none within reach. Of
    /// the opaque protocols, those whose checksum covers the addresses have one: DCCP (RFC 4340 section 9.1) and
    /// UDP-Lite (RFC 3828 section 3.1).
    #[must_use]
    pub fn checksum_offset(&self) -> Option<usize> {
        let offset = match self.transport? {
            Transport::Tcp => 16,
            Transport::Udp => 6,
            Transport::Icmp | Transport::Icmpv6 => 2,
            Transport::Opaque if matches!(self.protocol, DCCP | UDP_LITE) => 6,
            Transport::Opaque => return None,
        };
        let at = self.transport_offset() + offset;
        (at + 2 <= self.payload_end()).then_some(at)
    }

    /// The layout of a packet that fills `bytes` exactly.
    #[inline(always)]
    pub(super) fn of(bytes: &[u8]) -> Result<Self, ParseError> {
        match Self::of_plain(bytes) {
            Some(layout) => Ok(layout),
            None => Self::walk(bytes, Extent::Whole),
        }
    }

    /// Finds what nearly every packet is: a whole TCP or UDP packet of IPv4 without options. `None` for every other
    /// one, and for whatever is wrong with these: [`walk`](Self::walk) tells.
    #[inline(always)]
    fn of_plain(bytes: &[u8]) -> Option<Self> {
        // Shorter ones are rare: empty UDP datagrams.
        let header = bytes.first_chunk::<{ IPV4_HEADER + 13 }>()?;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let fragmented = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
        if header[0] != 0x45 || total != bytes.len() || fragmented {
            return None;
        }
        let (transport, header_len) = match header[9] {
            TCP => (Transport::Tcp, usize::from(header[IPV4_HEADER + 12] >> 4) * 4),
            UDP => {
                let len = u16::from_be_bytes([header[IPV4_HEADER + 4], header[IPV4_HEADER + 5]]);
                if usize::from(len) != total - IPV4_HEADER {
                    return None;
                }
                (Transport::Udp, 8)
            }
            _ => return None,
        };
        let payload_offset = IPV4_HEADER + header_len;
        if transport == Transport::Tcp && header_len < 20 || payload_offset > total {
            return None;
        }
        Some(Self {
            version: IpVersion::V4,
            protocol: header[9],
            transport: Some(transport),
            transport_offset: IPV4_HEADER as u32,
            payload_offset: payload_offset as u32,
            payload_end: total as u32,
            fragment: None,
            obstacle: None,
        })
    }

    /// As [`of`](Self::of), the long way.
    #[cfg(test)]
    pub(super) fn of_walked(bytes: &[u8]) -> Result<Self, ParseError> {
        Self::walk(bytes, Extent::Whole)
    }

    /// The layout of the packet quoted in an ICMP error: its end may be missing, and other data may follow it (RFC
    /// 4884). Without the first 8 bytes of its transport header it has no transport.
    pub(super) fn of_quoted(bytes: &[u8]) -> Option<Self> {
        Self::walk(bytes, Extent::Quoted).ok()
    }

    #[inline(never)]
    fn walk(bytes: &[u8], extent: Extent) -> Result<Self, ParseError> {
        let network = match bytes.first().map(|first| first >> 4) {
            None => return Err(ParseError::Truncated),
            Some(4) => Network::v4(bytes, extent)?,
            Some(6) => Network::v6(bytes, extent)?,
            Some(other) => return Err(ParseError::Version(other)),
        };
        let mut layout = Self {
            version: network.version,
            protocol: network.protocol,
            transport: None,
            // At most 40 + 65,535 bytes: the lengths in the headers hold the rest.
            transport_offset: network.offset as u32,
            payload_offset: network.offset as u32,
            payload_end: network.end as u32,
            fragment: network.fragment.filter(|fragment| fragment.more || fragment.offset != 0),
            obstacle: network.obstacle,
        };
        if let Some(fragment) = layout.fragment {
            let len = network.end - network.fragmented_offset;
            let misaligned = fragment.more && len % 8 != 0;
            if extent == Extent::Whole && (misaligned || usize::from(fragment.offset) + len > 0xFFFF) {
                return Err(ParseError::Fragment);
            }
            if fragment.offset != 0 || network.cut_off {
                return Ok(layout);
            }
        } else if network.cut_off {
            return Ok(layout);
        }
        let whole = extent == Extent::Whole && layout.fragment.is_none();
        let header = bytes.get(network.offset..network.end).unwrap_or_default();
        match transport(header, &layout, whole, extent) {
            Ok((transport, payload)) => {
                layout.transport = Some(transport);
                layout.payload_offset += payload.start as u32;
                layout.payload_end = layout.transport_offset + payload.end as u32;
            }
            Err(TransportError::CutOff) if !whole => {}
            Err(_) => return Err(ParseError::Transport),
        }
        Ok(layout)
    }
}

/// Part of a packet that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    Quoted,
}

/// The network header and all extension headers.
struct Network {
    version: IpVersion,
    protocol: u8,
    /// Start of the transport header.
    offset: usize,
    /// Start of the part that fragments are made of.
    fragmented_offset: usize,
    end: usize,
    fragment: Option<Fragment>,
    obstacle: Option<Obstacle>,
    /// The headers themselves end outside this packet.
    cut_off: bool,
}

impl Network {
    fn v4(bytes: &[u8], extent: Extent) -> Result<Self, ParseError> {
        let Some((header, _)) = bytes.split_first_chunk::<IPV4_HEADER>() else {
            return Err(ParseError::Truncated);
        };
        let offset = usize::from(header[0] & 0xF) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if offset < IPV4_HEADER || offset > bytes.len() {
            return Err(ParseError::HeaderLength);
        }
        if total < offset || (extent == Extent::Whole && total != bytes.len()) {
            return Err(ParseError::Length);
        }
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let protocol = header[9];
        let obstacle = match protocol {
            AUTHENTICATION => Some(Obstacle::Authenticated),
            _ => has_source_route(&bytes[IPV4_HEADER..offset]).then_some(Obstacle::SourceRoute),
        };
        Ok(Self {
            version: IpVersion::V4,
            protocol,
            offset,
            fragmented_offset: offset,
            end: total.min(bytes.len()),
            // Thirteen bits of offset; the reserved bit above MF and DF is nobody's (RFC 791 section 3.1).
            fragment: Some(Fragment {
                id: u32::from(u16::from_be_bytes([header[4], header[5]])),
                offset: (flags & 0x1FFF) << 3,
                more: flags & 0x2000 != 0,
            }),
            obstacle,
            cut_off: false,
        })
    }

    fn v6(bytes: &[u8], extent: Extent) -> Result<Self, ParseError> {
        let Some((header, _)) = bytes.split_first_chunk::<IPV6_HEADER>() else {
            return Err(ParseError::Truncated);
        };
        let total = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if extent == Extent::Whole && total != bytes.len() {
            return Err(ParseError::Length);
        }
        let mut network = Self {
            version: IpVersion::V6,
            protocol: header[6],
            offset: IPV6_HEADER,
            fragmented_offset: IPV6_HEADER,
            end: total.min(bytes.len()),
            fragment: None,
            obstacle: None,
            cut_off: false,
        };
        let bytes = &bytes[..network.end];
        for _ in 0..MAX_EXTENSION_HEADERS {
            if !network.step(bytes, extent)? {
                return Ok(network);
            }
        }
        match is_extension(network.protocol) && !network.is_later_fragment() {
            true => Err(ParseError::TooManyExtensions),
            false => Ok(network),
        }
    }

    fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }

    /// Walks over one extension header. False at the end of the chain.
    fn step(&mut self, bytes: &[u8], extent: Extent) -> Result<bool, ParseError> {
        if !is_extension(self.protocol) || self.is_later_fragment() {
            return Ok(false);
        }
        // Hop-by-hop options come first or not at all (RFC 8200 section 4.1).
        if self.protocol == HOP_BY_HOP && self.offset != IPV6_HEADER {
            return Err(ParseError::Extension);
        }
        let header = bytes.get(self.offset..).unwrap_or_default();
        let len = match (self.protocol, header) {
            (FRAGMENT, _) => 8,
            // In units of 4 bytes, less 2, unlike all others (RFC 4302 section 2.2).
            (AUTHENTICATION, [_, len, ..]) => (usize::from(*len) + 2) * 4,
            // In units of 8 bytes, not counting the first (RFC 8200 sections 4.3, 4.4, 4.6).
            (_, [_, len, ..]) => (usize::from(*len) + 1) * 8,
            _ => usize::MAX,
        };
        let Some(header) = header.get(..len) else {
            let first = self.fragment.is_some_and(|fragment| fragment.more);
            self.cut_off = true;
            return if first || extent == Extent::Quoted { Ok(false) } else { Err(ParseError::Extension) };
        };
        match self.protocol {
            FRAGMENT if self.fragment.is_some() => return Err(ParseError::Extension),
            FRAGMENT => {
                let flags = u16::from_be_bytes([header[2], header[3]]);
                self.fragment = Some(Fragment {
                    id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    offset: flags & 0xFFF8,
                    more: flags & 1 != 0,
                });
                self.fragmented_offset = self.offset + len;
            }
            AUTHENTICATION => self.obstacle = Some(Obstacle::Authenticated),
            ROUTING if header[3] != 0 => self.obstacle = self.obstacle.or(Some(Obstacle::SourceRoute)),
            _ => {}
        }
        self.protocol = header[0];
        self.offset += len;
        Ok(true)
    }
}

fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Tells if IPv4 options hold a loose or strict source route that has stops left: its pointer is not past its end (RFC
/// 791 section 3.1). Options that cannot be walked hold none; what is malformed in them is the receiver's to refuse.
fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        match options {
            [0, ..] | [] => return false,
            [1, rest @ ..] => options = rest,
            [kind, len, ..] if *len >= 2 && usize::from(*len) <= options.len() => {
                let (option, rest) = options.split_at(usize::from(*len));
                if matches!(kind, 131 | 137) && option.get(2).is_some_and(|pointer| pointer <= len) {
                    return true;
                }
                options = rest;
            }
            _ => return false,
        }
    }
}

enum TransportError {
    CutOff,
    Impossible,
}

/// The transport header's kind and, from its start, where its payload is. `header` reaches to the packet's end.
fn transport(
    header: &[u8],
    layout: &Layout,
    whole: bool,
    extent: Extent,
) -> Result<(Transport, std::ops::Range<usize>), TransportError> {
    let kind = match (layout.protocol, layout.version) {
        (TCP, _) => Transport::Tcp,
        (UDP, _) => Transport::Udp,
        (ICMP, IpVersion::V4) => Transport::Icmp,
        (ICMPV6, IpVersion::V6) => Transport::Icmpv6,
        _ => return Ok((Transport::Opaque, 0..header.len())),
    };
    let least = match (kind, extent) {
        (Transport::Tcp, Extent::Whole) => 20,
        // ICMP quotes at least 8 bytes of the transport header (RFC 792); all kinds of ICMP have as many themselves.
        _ => 8,
    };
    if header.len() < least {
        return Err(TransportError::CutOff);
    }
    match kind {
        Transport::Tcp => {
            let Some(offset) = header.get(12).map(|byte| usize::from(byte >> 4) * 4) else {
                return Ok((kind, header.len()..header.len()));
            };
            if extent == Extent::Whole && (offset < 20 || (whole && offset > header.len())) {
                return Err(TransportError::Impossible);
            }
            Ok((kind, offset.min(header.len())..header.len()))
        }
        Transport::Udp => {
            // What lies behind the length is no payload (RFC 9868 calls it the surplus area).
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            if extent == Extent::Whole && (len < 8 || (whole && len > header.len())) {
                return Err(TransportError::Impossible);
            }
            Ok((kind, 8..len.clamp(8, header.len())))
        }
        _ => Ok((kind, 8..header.len())),
    }
}
