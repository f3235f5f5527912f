//! Tests of parsing and rewriting together.

use std::net::IpAddr;

use proptest::prelude::*;

use super::samples::{
    Body, Sample, any_addresses, any_sample, assert_checksums, assert_reassembled, cases, make_unfinished,
};
use crate::packet::*;

const A: &str = "10.244.1.7";
const B: &str = "10.96.0.10";
const A6: &str = "fd00:1::7";
const B6: &str = "fd00:96::a";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn parse(bytes: &[u8]) -> Result<IpPacket<&[u8]>, ParseError> {
    IpPacket::parse(bytes)
}

fn error(bytes: &[u8]) -> ParseError {
    parse(bytes).expect_err("malformed")
}

/// A copy with one byte changed.
fn with(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    bytes
}

#[test]
fn fields_are_read_where_they_are() {
    let bytes = Sample::tcp(A, B, (40_000, 443), 0x12);
    let packet = parse(&bytes).expect("well-formed");
    assert_eq!((packet.source(), packet.destination()), (address(A), address(B)));
    assert_eq!((packet.protocol(), packet.transport()), (6, Some(Transport::Tcp)));
    assert_eq!((packet.ports(), packet.tcp_flags()), (Some((40_000, 443)), Some(0x12)));
    assert_eq!((packet.ttl(), packet.ecn(), packet.fragment()), (64, 0, None));
    assert_eq!((packet.transport_header(), packet.payload()), (20..40, 40..bytes.len()));

    let bytes = Sample::udp(A6, B6, (5353, 53));
    let packet = parse(&bytes).expect("well-formed");
    assert_eq!((packet.source(), packet.destination()), (address(A6), address(B6)));
    assert_eq!((packet.protocol(), packet.ports()), (17, Some((5353, 53))));
    assert_eq!((packet.ttl(), packet.transport_header(), packet.payload()), (64, 40..48, 48..60));
}

#[test]
fn versions_other_than_4_and_6_are_refused() {
    let good = Sample::udp(A, B, (1, 2));
    for version in [0, 1, 5, 7, 15] {
        assert_eq!(error(&with(&good, 0, version << 4 | 5)), ParseError::Version(version));
    }
    assert_eq!(error(&[]), ParseError::Truncated);
}

#[test]
fn lengths_must_be_exact() {
    for good in [Sample::udp(A, B, (1, 2)), Sample::udp(A6, B6, (1, 2))] {
        assert!(parse(&good).is_ok());
        let longer = [&good[..], &[0]].concat();
        assert_eq!(error(&longer), ParseError::Length);
        for len in 0..good.len() {
            assert!(parse(&good[..len]).is_err(), "{len}");
        }
    }
}

#[test]
fn ipv4_header_lengths_below_5_words_or_beyond_the_packet_are_refused() {
    let good = Sample::udp(A, B, (1, 2));
    for words in 0..5 {
        assert_eq!(error(&with(&good, 0, 0x40 | words)), ParseError::HeaderLength);
    }
    assert_eq!(error(&with(&good, 0, 0x4F)), ParseError::HeaderLength);
    let mut short_total = good;
    short_total[2..4].copy_from_slice(&19u16.to_be_bytes());
    assert_eq!(error(&short_total), ParseError::Length);
}

#[test]
fn ipv6_payload_length_zero_with_data_is_refused() {
    let mut jumbo = Sample::udp(A6, B6, (1, 2));
    jumbo[4..6].fill(0);
    assert_eq!(error(&jumbo), ParseError::Length);
    let mut empty = jumbo[..40].to_vec();
    empty[6] = 59;
    assert_eq!(parse(&empty).expect("a packet of nothing").transport(), Some(Transport::Opaque));
}

#[test]
fn malformed_ipv4_options_pass_unchanged_and_source_routes_are_not_rewritten() {
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![9; 20] };
    // The last two: a source route too short to have a pointer, and one that has arrived.
    for options in
        [[7, 0, 0, 0], [7, 200, 4, 0], [1, 1, 1, 7], [0, 131, 3, 3], [1, 1, 131, 2], [131, 4, 5, 0]]
    {
        let sample = Sample { options: options.to_vec(), ..Sample::new(A, B, body.clone()) };
        let mut bytes = sample.build();
        let mut packet = IpPacket::parse(&mut bytes[..]).expect("options are not ours to judge");
        packet.set_source(address("10.9.9.9"), false).expect("rewritten");
        assert_eq!(bytes[20..24], options);
        assert_checksums(&bytes);
    }
    for options in [[131, 4, 4, 0], [137, 4, 4, 0], [1, 131, 3, 3]] {
        let sample = Sample { options: options.to_vec(), ..Sample::new(A, B, body.clone()) };
        let mut bytes = sample.build();
        let before = bytes.clone();
        let mut packet = IpPacket::parse(&mut bytes[..]).expect("carried");
        assert_eq!(packet.set_destination(address(A), false), Err(RewriteError::SourceRoute));
        assert_eq!(bytes, before);
    }
}

#[test]
fn a_routing_header_with_segments_left_or_an_authentication_header_refuses_rewriting() {
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![9; 20] };
    let routing = |left| (43, [vec![0, 2, 2, left], vec![0; 20]].concat());
    let authentication = (51, [vec![0, 4], vec![0; 22]].concat());
    let cases = [
        (routing(0), Ok(())),
        (routing(1), Err(RewriteError::SourceRoute)),
        (authentication, Err(RewriteError::Authenticated)),
    ];
    for (extension, expected) in cases {
        let sample = Sample { extensions: vec![extension], ..Sample::new(A6, B6, body.clone()) };
        let mut bytes = sample.build();
        let mut packet = IpPacket::parse(&mut bytes[..]).expect("carried");
        assert_eq!(packet.ports(), Some((1, 2)));
        assert_eq!(packet.set_destination(address(A6), false), expected);
    }
}

#[test]
fn chains_of_more_than_eight_extension_headers_are_refused() {
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![] };
    let chain = |count| Sample {
        extensions: vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0]); count],
        ..Sample::new(A6, B6, body.clone())
    };
    assert_eq!(parse(&chain(8).build()).expect("walked").ports(), Some((1, 2)));
    assert_eq!(error(&chain(9).build()), ParseError::TooManyExtensions);
    assert_eq!(error(&chain(100).build()), ParseError::TooManyExtensions);
}

#[test]
fn hop_by_hop_options_behind_another_header_are_refused() {
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![] };
    let header = || vec![0, 0, 1, 4, 0, 0, 0, 0];
    let chain = |first, second| Sample {
        extensions: vec![(first, header()), (second, header())],
        ..Sample::new(A6, B6, body.clone())
    };
    assert!(parse(&chain(0, 60).build()).is_ok());
    assert_eq!(error(&chain(60, 0).build()), ParseError::Extension);
    assert_eq!(error(&chain(0, 0).build()), ParseError::Extension);
}

#[test]
fn extension_headers_that_overrun_the_packet_are_refused() {
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![] };
    for protocol in [0, 43, 51, 60] {
        for len in [3, 10, 255] {
            let sample = Sample {
                extensions: vec![(protocol, vec![0, len, 1, 4, 0, 0, 0, 0])],
                ..Sample::new(A6, B6, body.clone())
            };
            assert_eq!(error(&sample.build()), ParseError::Extension, "{protocol} {len}");
        }
    }
    // A header of which only the first byte is there, and none at all.
    let mut bytes = Sample::udp(A6, B6, (1, 2))[..41].to_vec();
    bytes[5] = 1;
    for protocol in [0, 43, 44, 51, 60] {
        assert_eq!(error(&with(&bytes, 6, protocol)), ParseError::Extension);
    }
}

#[test]
fn unknown_protocols_are_opaque_and_have_no_ports() {
    for protocol in [2, 4, 41, 47, 50, 59, 132, 136, 255] {
        for (source, destination) in [(A, B), (A6, B6)] {
            let body = Body::Opaque { protocol, payload: vec![0x11; 30] };
            let bytes = Sample::new(source, destination, body).build();
            let packet = parse(&bytes).expect("carried");
            assert_eq!((packet.transport(), packet.protocol()), (Some(Transport::Opaque), protocol));
            assert_eq!((packet.ports(), packet.echo_id(), packet.tcp_flags()), (None, None, None));
        }
    }
    // ICMP of the other family is nobody's.
    let body = Body::Opaque { protocol: 58, payload: vec![128, 0] };
    assert_eq!(
        parse(&Sample::new(A, B, body).build()).expect("carried").transport(),
        Some(Transport::Opaque)
    );
}

#[test]
fn cut_off_and_impossible_transport_headers_are_refused() {
    for (protocol, least) in [(6, 20), (17, 8), (1, 8)] {
        for len in 0..least {
            let mut payload = vec![0; len];
            if len > 5 {
                payload[5] = len as u8;
            }
            let bytes = Sample::new(A, B, Body::Opaque { protocol, payload }).build();
            assert_eq!(error(&bytes), ParseError::Transport, "{protocol} {len}");
        }
    }
    let tcp = Sample::tcp(A, B, (1, 2), 2);
    assert_eq!(error(&with(&tcp, 32, 0x40)), ParseError::Transport);
    assert_eq!(error(&with(&tcp, 32, 0xF0)), ParseError::Transport);
    let udp = Sample::udp(A, B, (1, 2));
    assert_eq!(error(&with(&udp, 25, 7)), ParseError::Transport);
    assert_eq!(error(&with(&udp, 25, 21)), ParseError::Transport);
    let surplus = with(&udp, 25, 18);
    assert_eq!(parse(&surplus).expect("RFC 9868").payload(), 28..38);
}

#[test]
fn fragments_have_ports_in_the_first_piece_only() {
    let body = Body::Udp { ports: (7000, 53), checksum: true, payload: vec![5; 40] };
    for (source, destination) in [(A, B), (A6, B6)] {
        let pieces = Sample::new(source, destination, body.clone()).fragments(24);
        let [first, last] = &pieces[..] else { panic!("two pieces") };
        let (first, last) = (parse(first).expect("first"), parse(last).expect("last"));
        assert_eq!(first.fragment(), Some(Fragment { id: 0x1234, offset: 0, more: true }));
        assert_eq!(last.fragment(), Some(Fragment { id: 0x1234, offset: 24, more: false }));
        assert_eq!((first.ports(), last.ports()), (Some((7000, 53)), None));
        assert_eq!((last.transport(), last.flow(), last.protocol()), (None, None, 17));
    }
}

#[test]
fn the_reserved_bit_does_not_shift_the_offset() {
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![5; 40] };
    let whole = with(&Sample::udp(A, B, (1, 2)), 6, 0x80);
    assert_eq!(parse(&whole).expect("whole").fragment(), None);
    let pieces = Sample::new(A, B, body).fragments(24);
    let first = with(&pieces[0], 6, pieces[0][6] | 0x80);
    assert_eq!(parse(&first).expect("first").fragment().map(|fragment| fragment.offset), Some(0));
}

#[test]
fn impossible_fragments_are_refused() {
    let body = Body::Opaque { protocol: 17, payload: vec![5; 40] };
    for (source, destination) in [(A, B), (A6, B6)] {
        let last = |offset| {
            let sample = Sample::new(source, destination, body.clone());
            let mut piece = sample.fragments(24).remove(1);
            let at = if source == A { 6 } else { 42 };
            let field: u16 = if source == A { offset / 8 } else { offset };
            piece[at..at + 2].copy_from_slice(&field.to_be_bytes());
            piece
        };
        // Sixteen bytes at 65,512 end at 65,528; at 65,528 they pass the end.
        assert!(parse(&last(65_512)).is_ok());
        assert_eq!(error(&last(65_528)), ParseError::Fragment);
    }
    let mut odd = Sample::new(A, B, Body::Opaque { protocol: 17, payload: vec![5; 21] }).build();
    odd[6] = 0x20;
    assert_eq!(error(&odd), ParseError::Fragment);
}

#[test]
fn a_tiny_first_fragment_has_no_transport_and_is_not_rewritten() {
    let body = Body::Tcp { ports: (1, 2), flags: 2, options: vec![], payload: vec![1; 30] };
    for (source, destination) in [(A, B), (A6, B6)] {
        let mut pieces = Sample::new(source, destination, body.clone()).fragments(8);
        let before = pieces[0].clone();
        let mut first = IpPacket::parse(&mut pieces[0][..]).expect("carried");
        assert_eq!((first.transport(), first.ports(), first.flow()), (None, None, None));
        assert_eq!(first.set_source(address(destination), false), Err(RewriteError::OutOfReach));
        assert_eq!(pieces[0], before);
    }
}

#[test]
fn a_whole_packet_with_a_fragment_header_is_whole() {
    let atomic = (44, vec![0, 0, 0, 0, 0, 0, 0, 9]);
    let body = Body::Udp { ports: (1, 2), checksum: true, payload: vec![1; 13] };
    let sample = Sample { extensions: vec![atomic.clone()], ..Sample::new(A6, B6, body) };
    let bytes = sample.build();
    let packet = parse(&bytes).expect("RFC 6946");
    assert_eq!((packet.fragment(), packet.ports()), (None, Some((1, 2))));
    let twice = Sample { extensions: vec![atomic.clone(), atomic], ..sample };
    assert_eq!(error(&twice.build()), ParseError::Extension);
}

#[test]
fn echo_flows_turn_round_into_their_replies() {
    for (source, destination) in [(A, B), (A6, B6)] {
        let request = Sample::echo(source, destination, true, 77);
        let reply = Sample::echo(destination, source, false, 77);
        let (request, reply) = (parse(&request).expect("request"), parse(&reply).expect("reply"));
        assert_eq!((request.echo_id(), reply.echo_id()), (Some(77), Some(77)));
        assert_eq!(request.flow().map(Flow::reverse), reply.flow());
        // The other side's own request of the same identifier is another flow.
        let other = Sample::echo(destination, source, true, 77);
        assert_ne!(parse(&other).expect("request").flow(), reply.flow());
    }
}

#[test]
fn wrong_rewrites_are_refused_and_change_nothing() {
    let udp = Sample::udp(A, B, (1, 2));
    let opaque = Sample::new(A, B, Body::Opaque { protocol: 47, payload: vec![1; 9] }).build();
    let echo = Sample::echo(A, B, true, 5);
    let fragment = Sample::new(A, B, Body::Udp { ports: (1, 2), checksum: true, payload: vec![0; 40] })
        .fragments(24)
        .remove(0);
    let to = Rewrite::default();
    let port = Rewrite { destination_port: Some(9), ..to };
    let moved = Rewrite { source: Some(address("10.0.0.9")), ..to };
    let cases = [
        (&udp, Rewrite { source: Some(address(A6)), ..to }, false, RewriteError::Family),
        (&opaque, port, false, RewriteError::NoPort),
        (&echo, port, false, RewriteError::NoPort),
        (&echo, moved, true, RewriteError::Unfinished),
        (&opaque, moved, true, RewriteError::Unfinished),
        (&fragment, moved, true, RewriteError::Unfinished),
    ];
    for (bytes, to, partial, expected) in cases {
        let mut copy = bytes.clone();
        let mut packet = IpPacket::parse(&mut copy[..]).expect("well-formed");
        assert_eq!(packet.rewrite(to, partial), Err(expected));
        assert_eq!(&copy, bytes);
    }
}

#[test]
fn finishing_a_checksum_outside_the_packet_is_refused() {
    let mut bytes = Sample::udp(A, B, (1, 2));
    let len = bytes.len() as u16;
    let mut packet = IpPacket::parse(&mut bytes[..]).expect("well-formed");
    for (start, offset) in [(0, 0), (19, 6), (20, len - 21), (len, 0), (20, 0xFFFF), (0xFFFF, 0xFFFF)] {
        assert_eq!(packet.finish_checksum(start, offset), Err(RewriteError::Position), "{start} {offset}");
    }
    assert_eq!(packet.finish_checksum(20, len - 22), Ok(()));
}

#[test]
fn a_finished_checksum_of_zero_is_stored_as_all_ones() {
    let mut bytes = Sample::udp(A, B, (1, 2));
    let (start, offset) = make_unfinished(&mut bytes);
    // The last word of the payload takes the sum to 0xFFFF.
    let last = bytes.len() - 2;
    bytes[last..].fill(0);
    let missing = checksum::Sum::new().bytes(&bytes[20..]).checksum();
    bytes[last..].copy_from_slice(&missing.to_be_bytes());
    IpPacket::parse(&mut bytes[..]).expect("well-formed").finish_checksum(start, offset).expect("inside");
    assert_eq!(bytes[26..28], [0xFF, 0xFF]);
    assert_checksums(&bytes);
}

#[test]
fn the_ecn_field_is_set_without_touching_anything_else() {
    for good in [Sample::udp(A, B, (1, 2)), Sample::udp(A6, B6, (1, 2))] {
        let mut bytes = good.clone();
        // All other bits of the byte set: they are the traffic class and, in IPv6, the flow label.
        bytes[1] = 0xFF;
        if bytes[0] >> 4 == 4 {
            bytes[10..12].fill(0);
            let sum = checksum::Sum::new().bytes(&bytes[..20]).checksum();
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        for ecn in [0, 1, 2, 3, 0, 3] {
            let mut packet = IpPacket::parse(&mut bytes[..]).expect("well-formed");
            packet.set_ecn(ecn);
            assert_eq!(packet.ecn(), ecn);
            let rest = if bytes[0] >> 4 == 4 { 0b1111_1100 } else { 0b1100_1111 };
            assert_eq!(bytes[1] & rest, rest);
            assert_checksums(&bytes);
        }
        assert_eq!(bytes[12..], good[12..]);
    }
}

#[test]
fn quoted_packets_that_lie_about_their_lengths_are_not_read() {
    let inner = Sample::tcp(A, B, (1, 2), 2);
    for lie in
        [with(&inner, 0, 0x41), with(&inner, 0, 0x4F), with(&inner, 0, 0x75), inner[..19].to_vec(), vec![]]
    {
        let len = lie.len().min(28);
        let mut bytes = Sample::unreachable(B, A, &lie, len);
        let mut packet = IpPacket::parse(&mut bytes[..]).expect("well-formed itself");
        assert_eq!(packet.quoted_flow(), None);
        let _ = packet.rewrite_quoted(Rewrite { source: Some(address(B)), ..Rewrite::default() });
        assert_eq!((packet.source(), packet.destination()), (address(B), address(A)));
    }
}

/// A packet and what to change in it.
fn any_change() -> impl Strategy<Value = (Sample, Rewrite)> {
    any_addresses::<4>().prop_flat_map(|[source, destination, new_source, new_destination]| {
        let sample = any_sample(source, destination);
        (sample, any::<[bool; 4]>(), any::<(u16, u16)>()).prop_map(move |(sample, change, ports)| {
            let (tcp_udp, request) = match sample.body {
                Body::Tcp { .. } | Body::Udp { .. } => (true, false),
                Body::Echo { request, .. } => (false, request),
                _ => (false, false),
            };
            let reply = matches!(sample.body, Body::Echo { request: false, .. });
            let to = Rewrite {
                source: change[0].then_some(new_source),
                destination: change[1].then_some(new_destination),
                source_port: (change[2] && (tcp_udp || request)).then_some(ports.0),
                destination_port: (change[3] && (tcp_udp || reply)).then_some(ports.1),
            };
            (sample, to)
        })
    })
}

/// The payload, without the checksum that some opaque protocols have in it.
fn content(bytes: &[u8], layout: Layout) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let (Some(Transport::Opaque), Some(at)) = (layout.transport(), layout.checksum_offset()) {
        bytes[at..at + 2].fill(0);
    }
    bytes[layout.payload_offset()..layout.payload_end()].to_vec()
}

fn assert_changed(after: &IpPacket<&[u8]>, before: &IpPacket<&[u8]>, to: Rewrite) {
    assert_eq!(after.layout(), before.layout());
    assert_eq!(content(after.bytes(), after.layout()), content(before.bytes(), before.layout()));
    assert_eq!(after.source(), to.source.unwrap_or(before.source()));
    assert_eq!(after.destination(), to.destination.unwrap_or(before.destination()));
    if let (Some(after), Some(before)) = (after.flow(), before.flow()) {
        assert_eq!(after.source_port, to.source_port.unwrap_or(before.source_port));
        assert_eq!(after.destination_port, to.destination_port.unwrap_or(before.destination_port));
    }
}

proptest! {
    #![proptest_config(cases(4000))]

    /// One byte wrong among the headers, at most.
    #[test]
    fn the_short_way_and_the_long_way_find_the_same(
        sample in any_addresses::<2>().prop_flat_map(|[source, destination]| any_sample(source, destination)),
        at in 0usize..60, bits: u8,
    ) {
        let mut bytes = sample.build();
        prop_assert_eq!(Layout::of(&bytes), Layout::of_walked(&bytes));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= bits;
        }
        prop_assert_eq!(Layout::of(&bytes), Layout::of_walked(&bytes));
    }

    #[test]
    fn rewriting_keeps_the_payload_and_every_checksum((sample, to) in any_change()) {
        let before = sample.build();
        assert_checksums(&before);
        let mut after = before.clone();
        IpPacket::parse(&mut after[..]).expect("well-formed").rewrite(to, false).expect("rewritten");
        assert_changed(&parse(&after).expect("still well-formed"), &parse(&before).expect("well-formed"), to);
        assert_checksums(&after);
        if matches!(sample.body, Body::Udp { checksum: false, .. }) {
            let at = parse(&after).expect("well-formed").layout().checksum_offset().expect("UDP");
            prop_assert_eq!(&after[at..at + 2], &[0, 0]);
        }
    }

    #[test]
    fn rewriting_fragments_keeps_what_they_make_up((sample, to) in any_change(), words in 3usize..40) {
        let before = sample.fragments(words * 8);
        prop_assume!(!before.is_empty());
        let mut after = before.clone();
        for piece in &mut after {
            let mut packet = IpPacket::parse(&mut piece[..]).expect("well-formed");
            let addresses = Rewrite { source_port: None, destination_port: None, ..to };
            let to = if packet.is_later_fragment() { addresses } else { to };
            packet.rewrite(to, false).expect("rewritten");
        }
        for (after, before) in after.iter().zip(&before) {
            assert_changed(&parse(after).expect("well-formed"), &parse(before).expect("well-formed"), to);
        }
        assert_reassembled(&after);
    }

    #[test]
    fn an_unfinished_checksum_is_right_once_finished((sample, to) in any_change()) {
        prop_assume!(matches!(sample.body, Body::Tcp { .. } | Body::Udp { checksum: true, .. }));
        let mut bytes = sample.build();
        let (start, offset) = make_unfinished(&mut bytes);
        let mut packet = IpPacket::parse(&mut bytes[..]).expect("well-formed");
        prop_assert_eq!(packet.layout().transport_offset(), usize::from(start));
        prop_assert_eq!(packet.layout().checksum_offset(), Some(usize::from(start + offset)));
        packet.rewrite(to, true).expect("rewritten");
        packet.finish_checksum(start, offset).expect("inside");
        assert_checksums(&bytes);
    }

    #[test]
    fn a_quoted_packet_is_rewritten_as_far_as_it_is_there((sample, to) in any_change(), cut in 0usize..200) {
        let inner = sample.build();
        let header = parse(&inner).expect("well-formed").layout().transport_offset() + 8;
        prop_assume!(inner.len() >= header);
        // Half a checksum field, which an odd length may leave, cannot be kept right.
        let len = (header + cut * 2).min(inner.len());
        let (source, destination) = (sample.destination, sample.source);
        let kind = if source.is_ipv4() { 11 } else { 2 };
        let error = Sample { body: Body::Error { kind, quoted: inner[..len].to_vec() }, source, destination, ..sample };
        let mut bytes = error.build();
        assert_checksums(&bytes);
        let mut packet = IpPacket::parse(&mut bytes[..]).expect("well-formed");
        prop_assert!(packet.is_icmp_error());
        prop_assert_eq!(packet.quoted_flow(), parse(&inner).expect("well-formed").flow());
        packet.rewrite_quoted(to).expect("rewritten");
        let mut expected = inner;
        IpPacket::parse(&mut expected[..]).expect("well-formed").rewrite(to, false).expect("rewritten");
        prop_assert_eq!(&packet.bytes()[packet.payload()], &expected[..len]);
        assert_checksums(&bytes);
    }

    #[test]
    fn etherparse_finds_the_same_parts((sample, _) in any_change()) {
        let bytes = sample.build();
        let packet = parse(&bytes).expect("well-formed");
        let oracle = etherparse::IpSlice::from_slice(&bytes).expect("etherparse reads it");
        prop_assert_eq!(packet.source(), oracle.source_addr());
        prop_assert_eq!(packet.destination(), oracle.destination_addr());
        prop_assert_eq!(packet.protocol(), oracle.payload().ip_number.0);
        prop_assert_eq!(&bytes[packet.layout().transport_offset()..], oracle.payload().payload);
    }
}

proptest! {
    #![proptest_config(cases(300_000))]

    /// Bytes that look like a packet for long enough to get deep: version, lengths and protocol are often right.
    #[test]
    fn random_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        shape in any::<[u8; 4]>(),
        to in any_addresses::<2>(),
        ports in any::<(u16, u16)>(),
        partial in any::<bool>(),
    ) {
        let protocols = [0, 1, 6, 17, 43, 44, 51, 58, 59, 60];
        let len = bytes.len() as u16;
        if shape[0] < 250 && len > 41 {
            let protocol = protocols[usize::from(shape[1]) % protocols.len()];
            if shape[0] % 2 == 0 {
                bytes[0] = 0x45 + shape[2] % 4;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[9] = protocol;
                bytes[6] &= shape[3];
                bytes[7] &= shape[3];
            } else {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
                bytes[6] = protocol;
                bytes[40] = protocols[usize::from(shape[2]) % protocols.len()];
                bytes[41] &= shape[3] & 3;
            }
        }
        let before = bytes.clone();
        prop_assert_eq!(Layout::of(&bytes), Layout::of_walked(&bytes));
        let Ok(mut packet) = IpPacket::parse(&mut bytes[..]) else { return Ok(()) };
        let layout = packet.layout();
        prop_assert!(layout.transport_offset() <= packet.payload().start);
        prop_assert!(packet.payload().end <= before.len() && packet.payload().start <= packet.payload().end);
        let _ = (packet.flow(), packet.quoted_flow(), packet.echo_id(), packet.tcp_flags(), packet.ttl());
        let to = Rewrite {
            source: Some(to[0]),
            destination: Some(to[1]),
            source_port: (shape[0] % 3 == 0).then_some(ports.0),
            destination_port: (shape[0] % 5 == 0).then_some(ports.1),
        };
        let rewritten = packet.rewrite(to, partial);
        prop_assert_eq!(content(packet.bytes(), layout), content(&before, layout));
        if rewritten.is_err() {
            prop_assert_eq!(packet.bytes(), &before);
        }
        let _ = packet.rewrite_quoted(to);
        packet.set_ecn(ports.0 as u8);
        prop_assert_eq!(IpPacket::parse(packet.bytes()).map(|packet| packet.layout()), Ok(layout));
        let _ = packet.finish_checksum(ports.0 % 130, ports.1 % 130);
    }
}
