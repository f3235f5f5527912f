//! Packets as etherparse reads them.

use etherparse::{
    Icmpv4Slice, Icmpv6Slice, IpFragOffset, IpNumber, Ipv4Slice, Ipv6ExtensionSlice, Ipv6Slice, NetSlice,
    SlicedPacket, TcpHeaderSlice, TransportSlice, UdpHeaderSlice,
};

use super::{Fields, Transport, is_same_sum};

/// The offset of a packet that is no fragment, or the first one.
const START: IpFragOffset = IpFragOffset::ZERO;

pub(super) fn fields(bytes: &[u8]) -> Option<Fields> {
    match SlicedPacket::from_ip(bytes).ok()?.net? {
        NetSlice::Ipv4(ip) => v4_fields(&ip, bytes),
        NetSlice::Ipv6(ip) => v6_fields(&ip, bytes),
        _ => None,
    }
}

pub(super) fn fragment_offset(bytes: &[u8]) -> Option<u16> {
    let offset = match SlicedPacket::from_ip(bytes).ok()?.net? {
        NetSlice::Ipv4(ip) => ip.header().fragments_offset(),
        NetSlice::Ipv6(ip) => fragment(&ip)?.0,
        _ => return None,
    };
    Some(offset.byte_offset())
}

fn v4_fields(ip: &Ipv4Slice<'_>, bytes: &[u8]) -> Option<Fields> {
    let header = ip.header();
    let transport_offset = header.slice().len();
    let content = bytes.get(transport_offset..)?;
    Some(Fields {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        ecn: header.ecn().value(),
        ttl: header.ttl(),
        protocol: header.protocol().0,
        transport_offset,
        fragment: header
            .is_fragmenting_payload()
            .then(|| (header.identification().into(), header.more_fragments())),
        transport: match header.protocol() {
            _ if header.fragments_offset() != START => Transport::default(),
            IpNumber::ICMP => icmp(content)?,
            protocol => transport(protocol, content),
        },
    })
}

fn v6_fields(ip: &Ipv6Slice<'_>, bytes: &[u8]) -> Option<Fields> {
    let header = ip.header();
    let mut extensions = ip.extensions().clone().into_iter();
    let later = |extension| matches!(extension, Ipv6ExtensionSlice::Fragment(header) if header.fragment_offset() != START);
    // Behind a later fragment's header is data, which looks like more headers only by chance.
    if extensions.any(later) && extensions.next().is_some() {
        return None;
    }
    let (offset, id, more) = fragment(ip).unwrap_or((START, 0, false));
    let (protocol, content) = (ip.payload().ip_number, ip.payload().payload);
    Some(Fields {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        ecn: header.traffic_class() & 0b11,
        ttl: header.hop_limit(),
        protocol: protocol.0,
        transport_offset: bytes.len() - content.len(),
        fragment: ip.is_payload_fragmented().then_some((id, more)),
        transport: match protocol {
            _ if offset != START => Transport::default(),
            IpNumber::IPV6_ICMP => Icmpv6Slice::from_slice(content)
                .map(|icmp| icmp_fields([128, 129], icmp.type_u8(), icmp.bytes5to8(), icmp.checksum()))
                .unwrap_or_default(),
            protocol => transport(protocol, content),
        },
    })
}

/// Offset, identification and the flag that more follow, of the only fragment header there may be.
fn fragment(ip: &Ipv6Slice<'_>) -> Option<(IpFragOffset, u32, bool)> {
    ip.extensions().clone().into_iter().find_map(|extension| match extension {
        Ipv6ExtensionSlice::Fragment(header) => {
            Some((header.fragment_offset(), header.identification(), header.more_fragments()))
        }
        _ => None,
    })
}

/// TCP's and UDP's header, if it is there whole.
fn transport(protocol: IpNumber, content: &[u8]) -> Transport {
    let read = match protocol {
        IpNumber::UDP => UdpHeaderSlice::from_slice(content).ok().map(|udp| Transport {
            ports: Some((udp.source_port(), udp.destination_port())),
            checksum: Some(udp.checksum()),
            ..Transport::default()
        }),
        IpNumber::TCP => TcpHeaderSlice::from_slice(content).ok().map(|tcp| {
            let flags =
                [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg(), tcp.ece(), tcp.cwr()];
            Transport {
                ports: Some((tcp.source_port(), tcp.destination_port())),
                tcp_flags: Some((0..).zip(flags).map(|(bit, set)| u8::from(set) << bit).sum()),
                checksum: Some(tcp.checksum()),
                ..Transport::default()
            }
        }),
        _ => None,
    };
    read.unwrap_or_default()
}

/// ICMP's header; `None` for what etherparse wants longer than the header is: timestamps.
fn icmp(content: &[u8]) -> Option<Transport> {
    match Icmpv4Slice::from_slice(content) {
        Ok(icmp) => Some(icmp_fields([8, 0], icmp.type_u8(), icmp.bytes5to8(), icmp.checksum())),
        Err(_) => (content.len() < 8).then(Transport::default),
    }
}

fn icmp_fields(echo: [u8; 2], kind: u8, [high, low, ..]: [u8; 4], checksum: u16) -> Transport {
    Transport {
        echo_id: echo.contains(&kind).then(|| u16::from_be_bytes([high, low])),
        checksum: Some(checksum),
        ..Transport::default()
    }
}

pub(super) fn checksums_hold(bytes: &[u8]) -> bool {
    let Ok(parsed) = SlicedPacket::from_ip(bytes) else { return false };
    let (Some(net), Some(transport)) = (parsed.net, parsed.transport) else { return false };
    let (v4, v6) = (net.ipv4_ref().map(|slice| slice.header()), net.ipv6_ref().map(|slice| slice.header()));
    if let Some(header) = &v4
        && header.to_header().calc_header_checksum() != header.header_checksum()
    {
        return false;
    }
    match (transport, v4, v6) {
        (TransportSlice::Udp(udp), Some(ip), _) => {
            udp.to_header().calc_checksum_ipv4_raw(ip.source(), ip.destination(), udp.payload()).unwrap()
                == udp.checksum()
        }
        (TransportSlice::Udp(udp), _, Some(ip)) => {
            udp.to_header().calc_checksum_ipv6_raw(ip.source(), ip.destination(), udp.payload()).unwrap()
                == udp.checksum()
        }
        (TransportSlice::Tcp(tcp), Some(ip), _) => {
            let header = tcp.to_header();
            let computed = header.calc_checksum_ipv4_raw(ip.source(), ip.destination(), tcp.payload());
            is_same_sum(tcp.checksum(), computed.unwrap())
        }
        (TransportSlice::Tcp(tcp), _, Some(ip)) => {
            let header = tcp.to_header();
            let computed = header.calc_checksum_ipv6_raw(ip.source(), ip.destination(), tcp.payload());
            is_same_sum(tcp.checksum(), computed.unwrap())
        }
        (TransportSlice::Icmpv4(icmp), ..) => {
            icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
        }
        (TransportSlice::Icmpv6(icmp), _, Some(ip)) => icmp.is_checksum_valid(ip.source(), ip.destination()),
        _ => false,
    }
}
