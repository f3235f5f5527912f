//! Two parsers that are not ours, and the fields that all three read.

mod by_etherparse;
mod by_pnet;

use std::net::IpAddr;

use tencrypt::packet::IpPacket;

/// The fields of a packet that an oracle reads. It has none for packets that it cannot walk through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ecn: u8,
    pub(crate) ttl: u8,
    /// The protocol behind IP and its extension headers, and where its header starts.
    pub(crate) protocol: u8,
    pub(crate) transport_offset: usize,
    /// Identification, and whether more follow; `None` of a whole packet. The offset is compared on its own: see
    /// [`Offset`].
    pub(crate) fragment: Option<(u32, bool)>,
    pub(crate) transport: Transport,
}

/// The fields of a transport header; none where the packet does not hold it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Transport {
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) echo_id: Option<u16>,
    pub(crate) tcp_flags: Option<u8>,
    pub(crate) checksum: Option<u16>,
}

/// A fragment's offset in bytes, as each oracle reads it.
///
/// `pnet_packet` leaves one bit too many in that of IPv6 (`FragmentPacket::get_fragment_offset` clears two bits of the
/// field and not three), so that a reserved bit moves the fragment. Our reading is compared with etherparse alone there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) by_etherparse: u16,
    pub(crate) by_pnet: u16,
}

impl Fields {
    /// Ours.
    pub(crate) fn of(packet: &IpPacket<&[u8]>) -> Self {
        let checksum = packet.layout().checksum_offset().filter(|_| {
            // Those of opaque protocols are not read by the oracles.
            packet.transport() != Some(tencrypt::packet::Transport::Opaque)
        });
        Self {
            source: packet.source(),
            destination: packet.destination(),
            ecn: packet.ecn(),
            ttl: packet.ttl(),
            protocol: packet.protocol(),
            transport_offset: packet.layout().transport_offset(),
            fragment: packet.fragment().map(|fragment| (fragment.id, fragment.more)),
            transport: Transport {
                ports: packet.ports(),
                echo_id: packet.echo_id(),
                tcp_flags: packet.tcp_flags(),
                checksum: checksum.map(|at| u16::from_be_bytes([packet.bytes()[at], packet.bytes()[at + 1]])),
            },
        }
    }

    /// Readings of all oracles, each with its name.
    pub(crate) fn by_oracles(bytes: &[u8]) -> [(&'static str, Option<Self>); 2] {
        [("etherparse", by_etherparse::fields(bytes)), ("pnet_packet", by_pnet::fields(bytes))]
    }
}

impl Offset {
    /// Of the packet's fragment header; `None` if it has none that both see.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            by_etherparse: by_etherparse::fragment_offset(bytes)?,
            by_pnet: by_pnet::fragment_offset(bytes)?,
        })
    }
}

/// Tells if every checksum of an unfragmented packet is right, recomputed by both oracles.
pub(crate) fn checksums_hold(bytes: &[u8]) -> bool {
    let (first, second) = (by_etherparse::checksums_hold(bytes), by_pnet::checksums_hold(bytes));
    assert_eq!(first, second, "the oracles disagree: {bytes:02x?}");
    first
}

/// Tells if two checksums are one number: in one's complement 0xFFFF is 0 too (RFC 1071). Not for UDP, whose 0 says that
/// there is none.
fn is_same_sum(found: u16, computed: u16) -> bool {
    found % 0xffff == computed % 0xffff
}
