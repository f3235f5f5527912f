use proptest::prelude::*;

use super::*;
use crate::{
    offload::{OffloadError, Opened, Segments},
    packet::{
        IpPacket, ParseError,
        samples::{Body, Sample, cases, make_unfinished},
    },
};

const ALL: &[GsoType] = &GsoType::ALL;

/// A packet and whether its checksum is unfinished.
#[derive(Debug, Clone)]
struct Packet {
    bytes: Vec<u8>,
    partial: bool,
}

impl Packet {
    fn vnet(&self) -> VnetHdr {
        if !self.partial {
            return VnetHdr::default();
        }
        let packet = IpPacket::parse(&self.bytes[..]).unwrap();
        let csum_offset = if packet.transport() == Some(Transport::Udp) { 6 } else { 16 };
        let csum_start = packet.layout().transport_offset() as u16;
        VnetHdr { needs_csum: true, csum_start, csum_offset, ..VnetHdr::default() }
    }
}

/// One TCP or UDP packet of flow `port`.
fn packet(v6: bool, udp: bool, port: u16, payload: &[u8], flags: u8) -> Vec<u8> {
    let payload = payload.to_vec();
    let body = if udp {
        Body::Udp { ports: (port, 443), checksum: true, payload }
    } else {
        Body::Tcp { ports: (port, 443), flags, options: vec![1; 12], payload }
    };
    let (source, destination) = if v6 { ("fd00:1::7", "fd00:1::8") } else { ("10.244.1.7", "10.244.1.8") };
    Sample::new(source, destination, body).build()
}

/// A flow's packets: a super-packet, cut.
fn train(v6: bool, udp: bool, port: u16, payload: usize, size: u16, flags: u8, partial: bool) -> Vec<Packet> {
    let payload: Vec<u8> = (0..payload).map(|at| (at * 3 + usize::from(port)) as u8).collect();
    let mut bytes = packet(v6, udp, port, &payload, flags);
    let (csum_start, csum_offset) = make_unfinished(&mut bytes);
    let gso_type = match (udp, v6) {
        (true, _) => GsoType::UdpL4,
        (false, false) => GsoType::TcpV4,
        (false, true) => GsoType::TcpV6,
    };
    let vnet =
        VnetHdr { needs_csum: true, gso_type, gso_size: size, csum_start, csum_offset, ..VnetHdr::default() };
    let mut segments = Segments::plan(&vnet, &IpPacket::parse(&bytes[..]).unwrap(), !partial).unwrap();
    let mut all = Vec::new();
    while let Some(segment) = segments.cut_next(&mut bytes) {
        all.push(Packet { bytes: segment.to_vec(), partial });
    }
    all
}

/// Sets the flag that makes the identification meaningless.
fn dont_fragment(packets: &mut [Packet]) {
    packets.iter_mut().for_each(|packet| packet.bytes[6] = 0x40);
}

/// Output for these packets: headers and bytes of each write, with the number of packets in it.
fn coalesced(packets: &[Packet], kinds: &[GsoType]) -> Vec<(VnetHdr, Vec<u8>, u16)> {
    let mut buffers: Vec<Vec<u8>> = packets.iter().map(|packet| packet.bytes.clone()).collect();
    let mut out = Vec::new();
    let mut coalescer = Coalescer::new(kinds);
    for (buffer, packet) in buffers.iter_mut().zip(packets) {
        let layout = IpPacket::parse(&buffer[..]).unwrap().layout();
        if let Err(opened) = coalescer.push(Opened::new(buffer, layout, packet.vnet())) {
            write(&mut coalescer, &mut out);
            coalescer.push(opened).unwrap();
        }
    }
    write(&mut coalescer, &mut out);
    assert!(coalescer.is_empty());
    out
}

fn write(coalescer: &mut Coalescer<'_>, out: &mut Vec<(VnetHdr, Vec<u8>, u16)>) {
    coalescer.drain(|pieces, packets| {
        let (header, rest) = pieces.split_first().unwrap();
        let bytes = rest.iter().flat_map(|piece| piece.iter().copied()).collect();
        out.push((VnetHdr::decode(header).unwrap(), bytes, packets));
    });
}

/// Packets that the kernel makes of what was written: each super-packet cut again, checksums complete.
fn cut_again(writes: &[(VnetHdr, Vec<u8>, u16)]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (vnet, bytes, packets) in writes {
        let mut bytes = bytes.clone();
        if vnet.gso_type == GsoType::None {
            assert_eq!(*packets, 1);
            all.push(complete(&Packet { bytes, partial: vnet.needs_csum }));
            continue;
        }
        let mut segments = Segments::plan(vnet, &IpPacket::parse(&bytes[..]).unwrap(), true).unwrap();
        assert_eq!(segments.count(), *packets);
        while let Some(segment) = segments.cut_next(&mut bytes) {
            all.push(segment.to_vec());
        }
    }
    all
}

/// The packet with its checksum finished.
fn complete(packet: &Packet) -> Vec<u8> {
    let mut bytes = packet.bytes.clone();
    let vnet = packet.vnet();
    if packet.partial {
        let mut parsed = IpPacket::parse(&mut bytes[..]).unwrap();
        parsed.finish_checksum(vnet.csum_start, vnet.csum_offset).unwrap();
    }
    bytes
}

/// By flow, since only within one the order is kept.
fn by_flow(packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut packets = packets;
    packets.sort_by_key(|packet| {
        let parsed = IpPacket::parse(&packet[..]).unwrap();
        // Acknowledgements without data may be overtaken.
        (parsed.flow(), parsed.payload().is_empty())
    });
    packets
}

#[test]
fn a_train_becomes_one_write_that_is_the_super_packet_it_was() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        for partial in [true, false] {
            let packets = train(v6, udp, 4_000, 43 * 1_388 + 100, 1_388, 0x18, partial);
            assert_eq!(packets.len(), 44);
            let writes = coalesced(&packets, ALL);
            let [(vnet, bytes, 44)] = &writes[..] else { panic!("{} writes", writes.len()) };
            assert_eq!((vnet.gso_size, vnet.needs_csum), (1_388, true));
            let whole = IpPacket::parse(&bytes[..]).unwrap();
            assert_eq!(usize::from(vnet.hdr_len), whole.payload().start);
            assert_eq!(usize::from(vnet.csum_start), whole.layout().transport_offset());
            if !udp {
                assert_eq!(whole.tcp_flags(), Some(0x18), "PSH of the last one");
            }
            let expected: Vec<_> = packets.iter().map(complete).collect();
            assert_eq!(cut_again(&writes), expected);
        }
    }
}

#[test]
fn nothing_is_joined_that_the_device_does_not_take() {
    let kinds = [(false, false, GsoType::TcpV4), (true, false, GsoType::TcpV6)];
    let udp = [false, true].map(|v6| (v6, true, GsoType::UdpL4));
    for (v6, is_udp, kind) in kinds.into_iter().chain(udp) {
        let packets = train(v6, is_udp, 4_000, 4_000, 1_000, 0x10, true);
        let others: Vec<GsoType> = GsoType::ALL.into_iter().filter(|other| *other != kind).collect();
        assert_eq!(coalesced(&packets, &others).len(), 4);
        assert_eq!(coalesced(&packets, &[kind]).len(), 1);
    }
}

/// Each change makes the second of two packets one that a cut of a super-packet would not give.
#[test]
fn whatever_does_not_continue_stands_alone() {
    let join = |packets: &[Packet]| coalesced(packets, ALL).len() == 1;
    let tcp = train(false, false, 4_000, 2_000, 1_000, 0x10, true);
    let udp = train(false, true, 4_000, 2_000, 1_000, 0, true);
    assert!(join(&tcp) && join(&udp));
    // (packet, offset, what is xored in): TOS, TTL, don't fragment, source, port; sequence, acknowledgement, ECE,
    // CWR, SYN, RST, URG, window, option.
    let tcp_changes = [
        (1, 1),
        (8, 1),
        (6, 0x40),
        (15, 1),
        (21, 1),
        (27, 1),
        (31, 1),
        (33, 0x40),
        (33, 0x80),
        (33, 2),
        (33, 4),
        (33, 0x20),
        (34, 1),
        (41, 3),
    ];
    for (at, bits) in tcp_changes {
        let mut packets = tcp.clone();
        packets[1].bytes[at] ^= bits;
        assert!(!join(&packets), "TCP byte {at} xor {bits:#x}");
    }
    for (at, bits) in [(1, 1), (8, 1), (6, 0x40), (15, 1), (21, 1)] {
        let mut packets = udp.clone();
        packets[1].bytes[at] ^= bits;
        assert!(!join(&packets), "UDP byte {at} xor {bits:#x}");
    }
    // IPv6: class, flow label, hop limit.
    for (at, bits) in [(0, 1), (3, 1), (7, 1)] {
        let mut packets = train(true, false, 4_000, 2_000, 1_000, 0x10, true);
        assert!(join(&packets));
        packets[1].bytes[at] ^= bits;
        assert!(!join(&packets), "IPv6 byte {at} xor {bits:#x}");
    }
}

#[test]
fn a_longer_packet_or_one_behind_a_shorter_stands_alone() {
    let mut packets = train(false, true, 4_000, 2_500, 1_000, 0, true);
    dont_fragment(&mut packets);
    assert_eq!(coalesced(&packets, ALL).len(), 1);
    let longer = [packets[2].clone(), packets[0].clone()];
    assert_eq!(coalesced(&longer, ALL).len(), 2);
    let behind = [packets[0].clone(), packets[2].clone(), packets[2].clone()];
    assert_eq!(coalesced(&behind, ALL).len(), 2);
}

#[test]
fn a_push_or_fin_ends_a_train_and_is_kept() {
    for flag in [0x08, 0x01] {
        let mut packets = train(false, false, 4_000, 3_000, 1_000, 0x10, true);
        packets[1].bytes[33] |= flag;
        let writes = coalesced(&packets, ALL);
        assert_eq!(writes.iter().map(|write| write.2).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(writes[0].1[33], 0x10 | flag);
    }
}

#[test]
fn an_identification_counts_only_where_fragments_are_allowed() {
    for (dont_fragment, joined) in [(true, true), (false, false)] {
        let mut packets = train(false, true, 4_000, 2_000, 1_000, 0, true);
        for packet in &mut packets {
            packet.bytes[6] = if dont_fragment { 0x40 } else { 0 };
        }
        packets[1].bytes[5] ^= 0x10;
        assert_eq!(coalesced(&packets, ALL).len() == 1, joined);
    }
}

#[test]
fn a_corrupt_packet_is_neither_joined_nor_mended() {
    for udp in [false, true] {
        for bad in 0..3 {
            let mut packets = train(false, udp, 4_000, 3_000, 1_000, 0x10, false);
            *packets[bad].bytes.last_mut().unwrap() ^= 1;
            let writes = coalesced(&packets, ALL);
            let alone = writes.iter().find(|write| write.1 == packets[bad].bytes);
            assert!(alone.is_some_and(|write| write.0 == VnetHdr::default()), "packet {bad}");
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut packets = train(false, true, 4_000, 2_000, 1_000, 0, false);
    for packet in &mut packets {
        packet.bytes[26..28].fill(0);
    }
    let writes = coalesced(&packets, ALL);
    assert_eq!(writes.len(), 2);
    assert_eq!(writes[0].1, packets[0].bytes);
}

#[test]
fn an_acknowledgement_without_data_holds_nothing_up() {
    let data = train(false, false, 4_000, 2_000, 1_000, 0x10, true);
    let ack = Packet { bytes: packet(false, false, 4_000, &[], 0x10), partial: false };
    let writes = coalesced(&[data[0].clone(), ack, data[1].clone()], ALL);
    assert_eq!(writes.iter().map(|write| write.2).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_super_packet_ends_at_the_longest_ip_packet_and_udp_at_its_segments() {
    let mut packets = train(false, false, 4_000, 60_000, 1_000, 0x10, true);
    let mut more = train(false, false, 4_000, 10_000, 1_000, 0x10, true);
    for (at, packet) in more.iter_mut().enumerate() {
        let sequence = 0x0102_0304_u32 + 60_000 + at as u32 * 1_000;
        packet.bytes[24..28].copy_from_slice(&sequence.to_be_bytes());
    }
    packets.append(&mut more);
    dont_fragment(&mut packets);
    let expected = [(65_535 - 52) / 1_000, 70 - (65_535 - 52) / 1_000];
    assert_eq!(coalesced(&packets, ALL).iter().map(|write| write.2).collect::<Vec<_>>(), expected);

    let packets = train(false, true, 4_000, 100 * 64, 64, 0, true);
    assert_eq!(coalesced(&packets, ALL).iter().map(|write| write.2).collect::<Vec<_>>(), [64, 36]);
}

#[test]
fn a_full_coalescer_hands_the_packet_back() {
    let flows: Vec<Packet> =
        (0..=MAX_HEADS as u16).flat_map(|port| train(false, false, port, 100, 100, 0x10, true)).collect();
    assert_eq!(coalesced(&flows, ALL).len(), MAX_HEADS + 1);
    let parts: Vec<Packet> = (0..5).flat_map(|port| train(false, true, port, 30 * 64, 64, 0, true)).collect();
    let writes = coalesced(&parts, ALL);
    assert_eq!(writes.iter().map(|write| usize::from(write.2)).sum::<usize>(), 150);
}

/// Trains of several flows, dealt out in any interleaving, with records lost, doubled and out of order.
fn traffic() -> impl Strategy<Value = Vec<Packet>> {
    let flow = (
        any::<bool>(),
        any::<bool>(),
        1usize..6_000,
        200u16..1_500,
        prop_oneof![Just(0x10u8), Just(0x18), Just(0x11)],
        any::<bool>(),
    );
    (prop::collection::vec(flow, 1..6), prop::collection::vec((any::<u16>(), 0u8..20), 0..80)).prop_map(
        |(flows, dealing)| {
            let mut trains: Vec<Vec<Packet>> = flows
                .into_iter()
                .enumerate()
                .map(|(at, (v6, udp, payload, size, flags, partial))| {
                    train(v6, udp, 4_000 + at as u16, payload, size, flags, partial)
                })
                .collect();
            let mut all = Vec::new();
            for (choice, fate) in dealing {
                let at = usize::from(choice) % trains.len();
                let Some(train) = trains.get_mut(at).filter(|train| !train.is_empty()) else { continue };
                match fate {
                    0 => drop(train.remove(0)),
                    1 => all.push(train[0].clone()),
                    2 => all.push(train.remove(train.len() - 1)),
                    _ => all.push(train.remove(0)),
                }
            }
            all.extend(trains.into_iter().flatten());
            all
        },
    )
}

proptest! {
    #![proptest_config(cases(600))]

    /// The receiving kernel, cutting again, sees the very packets that were opened, in order within each flow.
    #[test]
    fn joining_loses_and_changes_nothing(packets in traffic()) {
        let expected = by_flow(packets.iter().map(complete).collect());
        let writes = coalesced(&packets, ALL);
        prop_assert!(writes.len() <= packets.len());
        prop_assert_eq!(by_flow(cut_again(&writes)), expected);
    }
}

/// The bytes of what was joined, if these may be.
fn joined_from_bytes(packets: &[(Vec<u8>, VnetHdr)]) -> Result<Vec<(VnetHdr, Vec<u8>, u16)>, OffloadError> {
    let mut buffers: Vec<Vec<u8>> = packets.iter().map(|(bytes, _)| bytes.clone()).collect();
    let mut out = Vec::new();
    let mut coalescer = Coalescer::new(ALL);
    for (buffer, (_, vnet)) in buffers.iter_mut().zip(packets) {
        coalescer.push(CheckedPacket::new(buffer, *vnet)?).expect("there is room");
    }
    write(&mut coalescer, &mut out);
    Ok(out)
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn packets_checked_from_bytes_are_joined_like_opened_ones(
        v6: bool, udp: bool, partial: bool, payload in 1usize..6_000, size in 100u16..1_500, noise: [u16; 2],
    ) {
        let mut packets = train(v6, udp, 4_000, payload, size, 0x10, partial);
        packets.extend(train(v6, !udp, 5_000, payload / 2 + 1, size, 0x18, !partial));
        // Fields that mean nothing in a single packet.
        let told = |packet: &Packet| {
            let vnet = packet.vnet();
            let (csum_start, csum_offset) =
                if packet.partial { (vnet.csum_start, vnet.csum_offset) } else { (noise[0], noise[1]) };
            VnetHdr { hdr_len: noise[0], gso_size: noise[1], ecn: true, csum_start, csum_offset, ..vnet }
        };
        let checked: Vec<_> = packets.iter().map(|packet| (packet.bytes.clone(), told(packet))).collect();
        prop_assert_eq!(joined_from_bytes(&checked), Ok(coalesced(&packets, ALL)));
    }

    #[test]
    fn any_bytes_with_any_header_are_refused_or_joined(
        bytes in prop::collection::vec(any::<u8>(), 0..120), headers: [[u8; 10]; 3], v6: bool, udp: bool,
    ) {
        let real = packet(v6, udp, 4_000, &bytes, 0x10);
        for header in headers {
            let Ok(vnet) = VnetHdr::decode(&header) else { continue };
            for bytes in [&bytes, &real] {
                let packet = (bytes.clone(), vnet);
                if let Ok(out) = joined_from_bytes(&[packet.clone(), packet]) {
                    let packets: u16 = out.iter().map(|(_, _, packets)| packets).sum();
                    prop_assert_eq!(packets, 2);
                }
            }
        }
    }
}

#[test]
fn what_is_no_single_packet_of_its_header_is_not_checked() {
    let check = |bytes: &[u8], vnet: VnetHdr| {
        let mut bytes = bytes.to_vec();
        CheckedPacket::new(&mut bytes, vnet).map(|packet| packet.vnet())
    };
    let tcp = packet(false, false, 4_000, b"payload", 0x10);
    let unfinished = VnetHdr { needs_csum: true, csum_start: 20, csum_offset: 16, ..VnetHdr::default() };
    assert_eq!(check(&tcp, VnetHdr::default()), Ok(VnetHdr::default()));
    assert_eq!(check(&tcp, unfinished), Ok(unfinished));
    assert_eq!(check(&tcp[..39], unfinished), Err(OffloadError::Packet(ParseError::Length)));
    for gso_type in [GsoType::TcpV4, GsoType::TcpV6, GsoType::UdpL4] {
        assert_eq!(
            check(&tcp, VnetHdr { gso_type, gso_size: 7, ..unfinished }),
            Err(OffloadError::SuperPacket)
        );
    }
    for (csum_start, csum_offset) in [(20, 6), (20, 15), (19, 17), (0, 36), (u16::MAX, u16::MAX)] {
        let elsewhere = VnetHdr { csum_start, csum_offset, ..unfinished };
        assert_eq!(check(&tcp, elsewhere), Err(OffloadError::Checksum));
    }
    let echo = Sample::echo("10.244.1.7", "10.244.1.8", true, 7);
    assert_eq!(check(&echo, VnetHdr { csum_offset: 2, ..unfinished }), Err(OffloadError::Checksum));
    let udp = Body::Udp { ports: (1, 2), checksum: true, payload: vec![7; 900] };
    let fragment = &Sample::new("10.244.1.7", "10.244.1.8", udp).fragments(400)[0];
    assert_eq!(check(fragment, VnetHdr::default()), Ok(VnetHdr::default()));
    assert_eq!(check(fragment, VnetHdr { csum_offset: 6, ..unfinished }), Err(OffloadError::Checksum));
}
