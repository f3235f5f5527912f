use proptest::prelude::*;

use super::*;
use crate::packet::samples::{Body, Sample, assert_checksums, cases, make_unfinished};

/// A super-packet and its virtio-net header, as a device with every offload hands it out.
fn super_packet(v6: bool, udp: bool, payload: usize, size: u16, flags: u8) -> (VnetHdr, Vec<u8>) {
    let payload: Vec<u8> = (0..payload).map(|at| (at * 7 + at / 251) as u8).collect();
    let body = if udp {
        Body::Udp { ports: (4_000, 443), checksum: true, payload }
    } else {
        Body::Tcp { ports: (4_000, 443), flags, options: vec![1; 12], payload }
    };
    let (source, destination) = if v6 { ("fd00:1::7", "fd00:1::8") } else { ("10.244.1.7", "10.244.1.8") };
    let mut bytes = Sample::new(source, destination, body).build();
    let (csum_start, csum_offset) = make_unfinished(&mut bytes);
    let gso_type = match (udp, v6) {
        (true, _) => GsoType::UdpL4,
        (false, false) => GsoType::TcpV4,
        (false, true) => GsoType::TcpV6,
    };
    // hdr_len lies: nothing may depend on it.
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type,
        ecn: false,
        hdr_len: 9,
        gso_size: size,
        csum_start,
        csum_offset,
    };
    (vnet, bytes)
}

fn cut(vnet: &VnetHdr, bytes: &[u8], finish: bool) -> Vec<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let mut segments = Segments::plan(vnet, &IpPacket::parse(&bytes[..]).unwrap(), finish).unwrap();
    let mut all = Vec::new();
    let announced = (segments.count(), segments.segment_len(), segments.last_len());
    while let Some(segment) = segments.cut_next(&mut bytes) {
        all.push(segment.to_vec());
    }
    assert_eq!(segments.left(), 0);
    assert_eq!(all.len(), usize::from(announced.0));
    for (at, segment) in all.iter().enumerate() {
        let last = at + 1 == all.len();
        assert_eq!(segment.len(), if last { announced.2 } else { announced.1 });
    }
    all
}

/// Completes what [`make_unfinished`] undid.
fn finished(segment: &[u8]) -> Vec<u8> {
    let mut bytes = segment.to_vec();
    let mut packet = IpPacket::parse(&mut bytes[..]).unwrap();
    let start = packet.layout().transport_offset() as u16;
    let offset = if packet.transport() == Some(Transport::Udp) { 6 } else { 16 };
    packet.finish_checksum(start, offset).unwrap();
    bytes
}

fn sequence(packet: &[u8]) -> u32 {
    let at = IpPacket::parse(packet).unwrap().layout().transport_offset() + 4;
    u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn segments_are_whole_packets_that_hold_the_payload_in_order(
        v6: bool, udp: bool, finish: bool, payload in 1usize..9_000, size in 1u16..3_000, flags: u8,
    ) {
        let (vnet, bytes) = super_packet(v6, udp, payload, size, flags);
        let whole = IpPacket::parse(&bytes[..]).unwrap();
        let segments = cut(&vnet, &bytes, finish);
        prop_assert_eq!(segments.len(), payload.div_ceil(usize::from(size)));
        let mut payloads = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            let (first, last) = (at == 0, at + 1 == segments.len());
            let complete = if finish { segment.clone() } else { finished(segment) };
            assert_checksums(&complete);
            let packet = IpPacket::parse(&segment[..]).unwrap();
            prop_assert_eq!(packet.flow(), whole.flow());
            prop_assert_eq!(packet.ttl(), whole.ttl());
            if !v6 {
                let id = |packet: &[u8]| u16::from_be_bytes([packet[4], packet[5]]);
                prop_assert_eq!(id(segment), id(&bytes).wrapping_add(at as u16));
            }
            if !udp {
                prop_assert_eq!(sequence(segment), sequence(&bytes).wrapping_add((at * usize::from(size)) as u32));
                let mut expected = flags;
                if !last {
                    expected &= !0x09;
                }
                if !first {
                    expected &= !0x80;
                }
                prop_assert_eq!(packet.tcp_flags(), Some(expected));
            }
            payloads.extend_from_slice(&segment[packet.payload()]);
        }
        prop_assert_eq!(&payloads[..], &bytes[whole.payload()]);
    }

    #[test]
    fn any_header_on_any_packet_is_cut_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200), header: [u8; 10], v6: bool, udp: bool,
    ) {
        let Ok(vnet) = VnetHdr::decode(&header) else { return Ok(()) };
        let (_, real) = super_packet(v6, udp, 150, 50, 0x10);
        for mut bytes in [bytes, real] {
            let Ok(packet) = IpPacket::parse(&bytes[..]) else { continue };
            let Ok(mut segments) = Segments::plan(&vnet, &packet, false) else { continue };
            while segments.cut_next(&mut bytes).is_some() {}
            prop_assert_eq!(segments.left(), 0);
        }
    }
}

#[test]
fn a_super_packet_without_an_unfinished_checksum_gets_complete_ones() {
    let (vnet, bytes) = super_packet(false, false, 500, 100, 0x10);
    let bytes = finished(&bytes);
    let segments = cut(&VnetHdr { needs_csum: false, ..vnet }, &bytes, false);
    assert_eq!(segments.len(), 5);
    segments.iter().for_each(|segment| assert_checksums(segment));
}

#[test]
fn what_is_not_what_its_header_says_is_refused() {
    let (tcp, bytes) = super_packet(false, false, 500, 100, 0x10);
    let packet = IpPacket::parse(&bytes[..]).unwrap();
    let plan = |vnet: VnetHdr| Segments::plan(&vnet, &packet, false).map(|segments| segments.count());
    assert_eq!(plan(tcp), Ok(5));
    for gso_type in [GsoType::None, GsoType::TcpV6, GsoType::UdpL4] {
        assert_eq!(plan(VnetHdr { gso_type, ..tcp }), Err(OffloadError::Type));
    }
    assert_eq!(plan(VnetHdr { gso_size: 0, ..tcp }), Err(OffloadError::Size));
    assert_eq!(plan(VnetHdr { gso_size: u16::MAX, ..tcp }), Err(OffloadError::Size));

    let mut body = Sample::new(
        "10.244.1.7",
        "10.244.1.8",
        Body::Udp { ports: (1, 2), checksum: true, payload: vec![7; 2_000] },
    );
    body.id = 9;
    let fragment = &body.fragments(800)[0];
    let udp = VnetHdr { gso_type: GsoType::UdpL4, ..tcp };
    let packet = IpPacket::parse(&fragment[..]).unwrap();
    assert_eq!(Segments::plan(&udp, &packet, false).map(|_| ()), Err(OffloadError::Type));
}

#[test]
fn a_payload_of_one_segment_is_one_segment() {
    let (vnet, bytes) = super_packet(true, false, 100, 1_388, 0x18);
    let segments = cut(&vnet, &bytes, false);
    assert_eq!(segments.len(), 1);
    assert_eq!(finished(&segments[0]), finished(&bytes));
}
