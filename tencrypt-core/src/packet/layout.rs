//! Where things are in a packet: the one place that reads lengths.

use thiserror::Error;

/// Extension headers of one IPv6 packet. Real ones have two or three.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

/// The layout of a packet whose lengths were all checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) v4: bool,
    pub(super) protocol: u8,
    pub(super) transport: Option<Transport>,
    pub(super) transport_offset: u16,
    pub(super) payload_offset: u16,
    pub(super) len: u16,
    pub(super) fragment: Option<Fragment>,
    /// A routing header with segments left: the destination in the header is not the last one.
    pub(super) source_routed: bool,
}

/// The header behind the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 792.
    Icmp,
    /// RFC 4443.
    Icmpv6,
    /// Anything else, carried as it is.
    Opaque,
}

/// A packet's place in a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fragment {
    /// The identification, 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Where it belongs, in bytes.
    pub offset: u16,
    /// More follow.
    pub more: bool,
}

/// Why bytes are not a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// No bytes, or a version other than 4 and 6.
    #[error("not IPv4 or IPv6")]
    Version,
    /// The IP header does not fit or is shorter than its minimum.
    #[error("IP header does not fit")]
    Header,
    /// The length in the header is not the length of the bytes.
    #[error("length in the IP header is not the packet's")]
    Length,
    /// An extension header does not fit, there are more than eight, or one is where it must not be.
    #[error("IPv6 extension headers are malformed")]
    Extension,
    /// The transport header does not fit, or its own length is wrong.
    #[error("transport header is malformed")]
    Transport,
    /// A fragment that reaches beyond 65,535 bytes.
    #[error("fragment reaches beyond the longest packet")]
    Fragment,
}

impl Layout {
    /// Reads and checks the layout of a whole packet.
    ///
    /// # Errors
    /// [`ParseError`], the first thing found wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes, true),
            Some(6) => Self::parse_v6(bytes, true),
            _ => Err(ParseError::Version),
        }
    }

    /// Reads the layout of a packet that is quoted in an ICMP error, of which only the beginning is there. What is
    /// there of the transport header may be less than a header.
    ///
    /// # Errors
    /// [`ParseError`] if not even the IP header is whole.
    pub(crate) fn parse_quoted(bytes: &[u8]) -> Result<Self, ParseError> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes, false),
            Some(6) => Self::parse_v6(bytes, false),
            _ => Err(ParseError::Version),
        }
    }

    /// Bytes before the transport header.
    #[must_use]
    pub fn transport_offset(&self) -> usize {
        self.transport_offset.into()
    }

    /// Bytes before what the transport header is in front of; for [`Transport::Opaque`] and later fragments the same
    /// as [`transport_offset`](Self::transport_offset).
    #[must_use]
    pub fn payload_offset(&self) -> usize {
        self.payload_offset.into()
    }

    fn parse_v4(bytes: &[u8], whole: bool) -> Result<Self, ParseError> {
        // RFC 791 section 3.1.
        let header: &[u8; 20] = bytes.first_chunk().ok_or(ParseError::Header)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < 20 || header_len > bytes.len() {
            return Err(ParseError::Header);
        }
        if total < header_len || whole && total != bytes.len() {
            return Err(ParseError::Length);
        }
        let field = u16::from_be_bytes([header[6], header[7]]);
        let (more, offset) = (field & 0x2000 != 0, (field & 0x1fff) * 8);
        let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
        let fragment = (more || offset > 0).then_some(Fragment { id, offset, more });
        Self::finish(bytes, true, header[9], header_len, fragment, false, whole)
    }

    fn parse_v6(bytes: &[u8], whole: bool) -> Result<Self, ParseError> {
        // RFC 8200 section 3. A payload length of zero means no payload here: jumbograms (RFC 2675) do not exist on
        // links with an MTU of 65,535 or less.
        let header: &[u8; 40] = bytes.first_chunk().ok_or(ParseError::Header)?;
        let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if whole && 40 + payload != bytes.len() {
            return Err(ParseError::Length);
        }
        let (mut next, mut at) = (header[6], 40);
        let (mut fragment, mut source_routed) = (None, false);
        for count in 0.. {
            let length = match next {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT
                    if count >= MAX_EXTENSIONS =>
                {
                    return Err(ParseError::Extension);
                }
                // RFC 8200 section 4.1: hop-by-hop options come first or not at all.
                HOP_BY_HOP if count > 0 => return Err(ParseError::Extension),
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    let start = bytes.get(at..at + 4).ok_or(ParseError::Extension)?;
                    source_routed |= next == ROUTING && start[3] > 0;
                    8 + usize::from(start[1]) * 8
                }
                // RFC 4302 section 2.2: in words of 32 bits, less two.
                AUTHENTICATION => {
                    let start = bytes.get(at..at + 2).ok_or(ParseError::Extension)?;
                    8 + usize::from(start[1]) * 4
                }
                FRAGMENT => {
                    let start: &[u8] = bytes.get(at..at + 8).ok_or(ParseError::Extension)?;
                    if fragment.is_some() {
                        return Err(ParseError::Extension);
                    }
                    let field = u16::from_be_bytes([start[2], start[3]]);
                    let id = u32::from_be_bytes([start[4], start[5], start[6], start[7]]);
                    let found = Fragment { id, offset: field & 0xfff8, more: field & 1 != 0 };
                    fragment = Some(found);
                    if found.offset > 0 {
                        // What follows is the middle of something: the next header is that of the first fragment.
                        return Self::finish(bytes, false, start[0], at + 8, fragment, source_routed, whole);
                    }
                    8
                }
                _ => break,
            };
            next = bytes[at];
            at += length;
            if at > bytes.len() {
                return Err(ParseError::Extension);
            }
        }
        Self::finish(bytes, false, next, at, fragment, source_routed, whole)
    }

    fn finish(
        bytes: &[u8],
        v4: bool,
        protocol: u8,
        at: usize,
        fragment: Option<Fragment>,
        source_routed: bool,
        whole: bool,
    ) -> Result<Self, ParseError> {
        let len = u16::try_from(bytes.len()).map_err(|_| ParseError::Length)?;
        let rest = bytes.get(at..).ok_or(ParseError::Header)?;
        if let Some(fragment) = fragment
            && usize::from(fragment.offset) + rest.len() > usize::from(u16::MAX)
        {
            return Err(ParseError::Fragment);
        }
        let later = fragment.is_some_and(|fragment| fragment.offset > 0);
        let first = fragment.is_some_and(|fragment| fragment.offset == 0 && fragment.more);
        let transport = match protocol {
            _ if later => None,
            TCP => Some(Transport::Tcp),
            UDP => Some(Transport::Udp),
            ICMP if v4 => Some(Transport::Icmp),
            ICMPV6 if !v4 => Some(Transport::Icmpv6),
            _ => Some(Transport::Opaque),
        };
        let header = match transport {
            Some(Transport::Tcp) => {
                let length = rest.get(12).map(|byte| usize::from(byte >> 4) * 4);
                match length {
                    Some(length) if length >= 20 && length <= rest.len() => length,
                    // A first fragment must hold the ports and the checksum (RFC 1858); options may be cut off.
                    Some(length) if length >= 20 && first && rest.len() >= 20 => rest.len(),
                    _ if !whole => rest.len(),
                    _ => return Err(ParseError::Transport),
                }
            }
            Some(Transport::Udp) => {
                let length =
                    rest.get(4..6).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
                match length {
                    // Bytes behind the datagram are UDP options (RFC 9868).
                    Some(length) if length >= 8 && rest.len() >= 8 && (length <= rest.len() || first) => 8,
                    _ if !whole => rest.len().min(8),
                    _ => return Err(ParseError::Transport),
                }
            }
            Some(Transport::Icmp | Transport::Icmpv6) => match rest.len() {
                8.. => 8,
                // ICMPv6 and ICMP have four bytes in common; the shortest message has eight (RFC 792, RFC 4443).
                _ if !whole => rest.len(),
                _ => return Err(ParseError::Transport),
            },
            Some(Transport::Opaque) | None => 0,
        };
        Ok(Self {
            v4,
            protocol,
            transport,
            transport_offset: at as u16,
            payload_offset: (at + header) as u16,
            len,
            fragment,
            source_routed,
        })
    }
}
