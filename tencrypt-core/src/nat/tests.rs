//! Tests of the translation as its callers see it.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::{
    fragments::FRAGMENT_LIFETIME,
    table::{DATAGRAM, TCP_ESTABLISHED, TCP_TRANSITORY},
    *,
};
use crate::{
    packet::samples::{Body, Sample, any_addresses, any_sample, assert_checksums, cases, make_unfinished},
    testing::start,
};

pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;
pub(super) const FIN: u8 = 0x11;

/// The addresses of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    pub(super) client: &'static str,
    pub(super) vip: &'static str,
    pub(super) own: &'static str,
    pub(super) other: &'static str,
    router: &'static str,
}

pub(super) const V4: World = World {
    client: "10.244.1.7",
    vip: "10.96.0.10",
    own: "10.244.2.9",
    other: "10.244.3.3",
    router: "10.244.0.1",
};
pub(super) const V6: World =
    World { client: "fd00:1::7", vip: "fd00:96::a", own: "fd00:2::9", other: "fd00:3::3", router: "fd00::1" };

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn nat() -> Nat {
    Nat::new(7)
}

pub(super) fn view(bytes: &mut [u8]) -> IpPacket<&mut [u8]> {
    IpPacket::parse(bytes).expect("well-formed")
}

/// A peer, by a number.
pub(super) fn peer(number: u16) -> PeerId {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    PeerId::from_bytes(key)
}

fn serve(nat: &mut Nat, bytes: &mut [u8], own: &str, now: Instant) -> Result<(), NatError> {
    serve_to(nat, bytes, own, peer(1), now)
}

pub(super) fn serve_to(
    nat: &mut Nat,
    bytes: &mut [u8],
    own: &str,
    client: PeerId,
    now: Instant,
) -> Result<(), NatError> {
    nat.serve(&mut view(bytes), false, ip(own), client, now)
}

pub(super) fn reply(nat: &mut Nat, bytes: &mut [u8], now: Instant) -> NatOutcome {
    nat.reply(&mut view(bytes), false, now)
}

pub(super) fn balance(
    nat: &mut Nat,
    bytes: &mut [u8],
    service: &Service<'_>,
    now: Instant,
) -> Result<IpAddr, NatError> {
    nat.balance(&mut view(bytes), false, service, now)
}

/// Serves a packet that must become `expected`.
fn serves(nat: &mut Nat, world: World, bytes: &[u8], expected: &[u8], now: Instant) {
    let mut bytes = bytes.to_vec();
    assert_eq!(serve(nat, &mut bytes, world.own, now), Ok(()));
    assert_eq!(bytes, expected);
    assert_checksums(&bytes);
}

/// Sends an answer that must become `expected`.
fn replies(nat: &mut Nat, bytes: &[u8], expected: &[u8], now: Instant) {
    let mut bytes = bytes.to_vec();
    assert_eq!(reply(nat, &mut bytes, now), NatOutcome::Rewritten);
    assert_eq!(bytes, expected);
    assert_checksums(&bytes);
}

fn untouched(nat: &mut Nat, bytes: &[u8], now: Instant) {
    let mut copy = bytes.to_vec();
    assert_eq!(reply(nat, &mut copy, now), NatOutcome::Untouched);
    assert_eq!(copy, bytes);
}

fn opaque(source: &str, destination: &str) -> Vec<u8> {
    Sample::new(source, destination, Body::Opaque { protocol: 132, payload: vec![3; 20] }).build()
}

fn big_udp(source: &str, destination: &str, ports: (u16, u16)) -> Vec<Vec<u8>> {
    let body = Body::Udp { ports, checksum: true, payload: (0..=255).collect() };
    Sample::new(source, destination, body).fragments(64)
}

#[test]
fn a_served_flow_of_any_protocol_goes_there_and_back() {
    for world in [V4, V6] {
        let World { client, vip, own, .. } = world;
        let (mut nat, now) = (nat(), start());
        let tcp = |a: &str, b: &str, ports| Sample::tcp(a, b, ports, SYN);
        serves(&mut nat, world, &tcp(client, vip, (5000, 80)), &tcp(client, own, (5000, 80)), now);
        replies(&mut nat, &tcp(own, client, (80, 5000)), &tcp(vip, client, (80, 5000)), now);
        let udp = Sample::udp;
        serves(&mut nat, world, &udp(client, vip, (5000, 80)), &udp(client, own, (5000, 80)), now);
        replies(&mut nat, &udp(own, client, (80, 5000)), &udp(vip, client, (80, 5000)), now);
        let echo = Sample::echo;
        serves(&mut nat, world, &echo(client, vip, true, 9), &echo(client, own, true, 9), now);
        replies(&mut nat, &echo(own, client, false, 9), &echo(vip, client, false, 9), now);
        serves(&mut nat, world, &opaque(client, vip), &opaque(client, own), now);
        replies(&mut nat, &opaque(own, client), &opaque(vip, client), now);
        assert_eq!(nat.len(), 4);
    }
}

/// Flows that are older than the other lanes have not been told yet.
#[test]
fn a_flow_from_before_there_were_other_lanes_is_told_with_its_next_packet() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let mut call = Sample::udp(client, vip, (5000, 80));
    serve(&mut nat, &mut call.clone(), own, now).unwrap();
    let _ = nat.sibling();
    assert_eq!(nat.poll_update(), None);
    serve(&mut nat, &mut call.clone(), own, now).unwrap();
    assert!(nat.poll_update().is_some());
    serve(&mut nat, &mut call, own, now).unwrap();
    assert_eq!(nat.poll_update(), None, "once is enough for half of its time");
}

#[test]
fn what_is_no_answer_stays_as_it_is() {
    let World { client, vip, own, other, .. } = V4;
    let (mut nat, now) = (nat(), start());
    untouched(&mut nat, &Sample::udp(own, client, (80, 5000)), now);
    let served = Sample::udp(client, own, (5000, 80));
    serves(&mut nat, V4, &Sample::udp(client, vip, (5000, 80)), &served, now);
    serves(&mut nat, V4, &Sample::echo(client, vip, true, 9), &Sample::echo(client, own, true, 9), now);
    for packet in [
        Sample::udp(own, client, (80, 5001)),
        Sample::udp(own, client, (81, 5000)),
        Sample::udp(own, other, (80, 5000)),
        Sample::tcp(own, client, (80, 5000), SYN),
        Sample::echo(own, client, true, 9),
        Sample::echo(own, client, false, 10),
        opaque(own, client),
    ] {
        untouched(&mut nat, &packet, now);
    }
}

#[test]
fn unfinished_checksums_are_right_once_finished() {
    for World { client, vip, own, .. } in [V4, V6] {
        let (mut nat, now) = (nat(), start());
        let mut bytes = Sample::udp(client, vip, (5000, 80));
        let (at, offset) = make_unfinished(&mut bytes);
        let mut packet = view(&mut bytes);
        assert_eq!(nat.serve(&mut packet, true, ip(own), peer(1), now), Ok(()));
        packet.finish_checksum(at, offset).expect("inside");
        assert_eq!(bytes, Sample::udp(client, own, (5000, 80)));
        let mut bytes = Sample::tcp(own, client, (80, 5000), SYN);
        make_unfinished(&mut bytes);
        assert_eq!(nat.reply(&mut view(&mut bytes), true, now), NatOutcome::Untouched);
    }
}

#[test]
fn icmp_errors_about_a_served_flow_are_rewritten_inside_and_outside() {
    for world in [V4, V6] {
        let World { client, vip, own, router, .. } = world;
        let (mut nat, now) = (nat(), start());
        let served = Sample::udp(client, own, (5000, 80));
        serves(&mut nat, world, &Sample::udp(client, vip, (5000, 80)), &served, now);
        // 28 and 48 bytes: the IP header and 8 bytes, the least there is.
        for len in [if own == V4.own { 28 } else { 48 }, 200] {
            // The pod refuses what it was sent.
            let sent = Sample::unreachable(own, client, &served, len);
            let expected = Sample::unreachable(vip, client, &Sample::udp(client, vip, (5000, 80)), len);
            replies(&mut nat, &sent, &expected, now);
            // The client, or a router on the way, refuses the answer.
            for source in [client, router] {
                let opened = Sample::unreachable(source, vip, &Sample::udp(vip, client, (80, 5000)), len);
                let expected = Sample::unreachable(source, own, &Sample::udp(own, client, (80, 5000)), len);
                serves(&mut nat, world, &opened, &expected, now);
            }
        }
        let foreign = Sample::unreachable(client, vip, &Sample::udp(vip, client, (81, 5000)), 200);
        assert_eq!(serve(&mut nat, &mut foreign.clone(), own, now), Err(NatError::UnknownFlow));
        untouched(&mut nat, &Sample::unreachable(own, client, &Sample::udp(client, own, (1, 80)), 200), now);
        assert_eq!(nat.len(), 1);
    }
}

#[test]
fn fragments_follow_their_first_one() {
    for world in [V4, V6] {
        let World { client, vip, own, .. } = world;
        let (mut nat, now) = (nat(), start());
        let pieces = big_udp(client, vip, (5000, 80));
        assert_eq!(serve(&mut nat, &mut pieces[1].clone(), own, now), Err(NatError::FirstFragmentUnseen));
        for (piece, expected) in pieces.iter().zip(big_udp(client, own, (5000, 80))) {
            serves(&mut nat, world, piece, &expected, now);
        }
        let answer = big_udp(own, client, (80, 5000));
        assert_eq!(reply(&mut nat, &mut answer[1].clone(), now), NatOutcome::Refused);
        for (piece, expected) in answer.iter().zip(big_udp(vip, client, (80, 5000))) {
            replies(&mut nat, piece, &expected, now);
        }
        assert_eq!(nat.len(), 1);
    }
}

#[test]
fn fragments_between_the_same_addresses_but_of_no_served_flow_pass() {
    let World { client, vip, own, other, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let served = Sample::udp(client, own, (5000, 80));
    serves(&mut nat, V4, &Sample::udp(client, vip, (5000, 80)), &served, now);
    for piece in big_udp(own, client, (81, 5000)) {
        untouched(&mut nat, &piece, now);
    }
    // Another peer's need no first one.
    untouched(&mut nat, &big_udp(own, other, (80, 5000))[2], now);
}

#[test]
fn in_ipv4_an_identification_belongs_to_one_protocol() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let body = Body::Opaque { protocol: 47, payload: vec![3; 100] };
    let others = Sample::new(client, vip, body).fragments(64);
    serve(&mut nat, &mut big_udp(client, vip, (5000, 80))[0].clone(), own, now).expect("served");
    assert_eq!(serve(&mut nat, &mut others[1].clone(), own, now), Err(NatError::FirstFragmentUnseen));
}

#[test]
fn fragments_are_forgotten_after_a_minute() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let pieces = big_udp(client, vip, (5000, 80));
    serve(&mut nat, &mut pieces[0].clone(), own, now).expect("served");
    assert_eq!(nat.poll_timeout(), Some(now + FRAGMENT_LIFETIME));
    let later = now + FRAGMENT_LIFETIME;
    nat.handle_timeout(later - Duration::from_millis(1));
    let just_before = later - Duration::from_millis(1);
    assert_eq!(serve(&mut nat, &mut pieces[1].clone(), own, just_before), Ok(()));
    // Even before the timer ran.
    assert_eq!(serve(&mut nat, &mut pieces[1].clone(), own, later), Err(NatError::FirstFragmentUnseen));
    nat.handle_timeout(later);
    assert_eq!(serve(&mut nat, &mut pieces[1].clone(), own, later), Err(NatError::FirstFragmentUnseen));
    assert_eq!(nat.poll_timeout(), Some(now + DATAGRAM));
}

#[test]
fn an_identification_used_again_counts_from_then() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let pieces = big_udp(client, vip, (5000, 80));
    let half = now + FRAGMENT_LIFETIME / 2;
    for at in [now, half] {
        serve(&mut nat, &mut pieces[0].clone(), own, at).expect("served");
    }
    let later = now + FRAGMENT_LIFETIME;
    nat.handle_timeout(later);
    assert_eq!(serve(&mut nat, &mut pieces[1].clone(), own, later), Ok(()));
    nat.handle_timeout(half + FRAGMENT_LIFETIME);
    assert_eq!(nat.poll_timeout(), Some(half + DATAGRAM));
}

#[test]
fn fragment_memory_is_bounded_and_the_oldest_goes_first() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (Nat::with_capacity(7, 10, 4), start());
    let packets: Vec<_> = (0..6)
        .map(|id| {
            let body = Body::Udp { ports: (5000, 80), checksum: true, payload: vec![1; 100] };
            Sample { id, ..Sample::new(client, vip, body) }.fragments(64)
        })
        .collect();
    for pieces in &packets {
        serve(&mut nat, &mut pieces[0].clone(), own, now).expect("served");
    }
    for (id, pieces) in packets.iter().enumerate() {
        let result = serve(&mut nat, &mut pieces[1].clone(), own, now);
        assert_eq!(result.is_ok(), id >= 2, "{id}");
    }
}

#[test]
fn packets_that_cannot_be_rewritten_are_refused() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let body = Body::Tcp { ports: (5000, 80), flags: SYN, options: vec![], payload: vec![0; 40] };
    let mut tiny = Sample::new(client, vip, body.clone()).fragments(8).remove(0);
    assert_eq!(serve(&mut nat, &mut tiny, own, now), Err(RewriteError::OutOfReach.into()));
    let mut routed = Sample { options: vec![131, 4, 4, 0], ..Sample::new(client, vip, body.clone()) }.build();
    assert_eq!(serve(&mut nat, &mut routed, own, now), Err(RewriteError::SourceRoute.into()));
    assert!(nat.is_empty());
    let served = Sample::tcp(client, own, (5000, 80), SYN);
    serves(&mut nat, V4, &Sample::tcp(client, vip, (5000, 80), SYN), &served, now);
    let mut tiny = Sample::new(own, client, body).fragments(8).remove(0);
    assert_eq!(reply(&mut nat, &mut tiny, now), NatOutcome::Refused);
    assert_eq!(NatError::Full.drop_reason(), DropReason::NatFull);
    assert_eq!(NatError::UnknownFlow.drop_reason(), DropReason::Policy);
}

#[test]
fn a_balanced_flow_keeps_its_endpoint_and_comes_back_from_the_vip() {
    for World { client: own, vip, own: first, other: second, router } in [V4, V6] {
        let (mut nat, now) = (nat(), start());
        let endpoints = [ip(first), ip(second)];
        let service =
            Service { endpoints: &endpoints, ports: &[ServicePort::new(80, 8080)], ..Service::new(ip(vip)) };
        for port in 5000..5040 {
            let mut call = Sample::tcp(own, vip, (port, 80), SYN);
            let endpoint = balance(&mut nat, &mut call, &service, now).expect("balanced");
            let chosen = if endpoint == ip(first) { first } else { second };
            assert_eq!(call, Sample::tcp(own, chosen, (port, 8080), SYN));
            let reversed = [endpoints[1], endpoints[0]];
            let service = Service { endpoints: &reversed, ..service };
            let mut again = Sample::tcp(own, vip, (port, 80), ACK);
            assert_eq!(balance(&mut nat, &mut again, &service, now), Ok(endpoint));
            let mut answer = Sample::tcp(chosen, own, (8080, port), ACK);
            assert_eq!(nat.unbalance(&mut view(&mut answer), false, now), NatOutcome::Rewritten);
            assert_eq!(answer, Sample::tcp(vip, own, (80, port), ACK));
            // An error from the endpoint, one from a router, and one of this pod about an answer.
            for (source, seen_as) in [(chosen, vip), (router, router)] {
                let about = Sample::tcp(own, chosen, (port, 8080), ACK);
                let mut error = Sample::unreachable(source, own, &about, 100);
                assert_eq!(nat.unbalance(&mut view(&mut error), false, now), NatOutcome::Rewritten);
                let about = Sample::tcp(own, vip, (port, 80), ACK);
                assert_eq!(error, Sample::unreachable(seen_as, own, &about, 100));
            }
            let mut error = Sample::unreachable(own, vip, &Sample::tcp(vip, own, (80, port), ACK), 100);
            assert_eq!(balance(&mut nat, &mut error, &service, now), Ok(endpoint));
            let about = Sample::tcp(chosen, own, (8080, port), ACK);
            assert_eq!(error, Sample::unreachable(own, chosen, &about, 100));
        }
        assert_eq!(nat.len(), 40);
    }
}

#[test]
fn fragments_of_a_balanced_flow_go_to_one_endpoint_and_back() {
    for World { client: own, vip, own: first, other: second, .. } in [V4, V6] {
        let (mut nat, now) = (nat(), start());
        let endpoints = [ip(first), ip(second)];
        let service =
            Service { endpoints: &endpoints, ports: &[ServicePort::new(80, 8080)], ..Service::new(ip(vip)) };
        let mut pieces = big_udp(own, vip, (5000, 80));
        let orphan = balance(&mut nat, &mut pieces[3].clone(), &service, now);
        assert_eq!(orphan, Err(NatError::FirstFragmentUnseen));
        let chosen: Vec<_> = pieces.iter_mut().map(|piece| balance(&mut nat, piece, &service, now)).collect();
        let endpoint = chosen[0].expect("balanced");
        assert_eq!(chosen, vec![Ok(endpoint); pieces.len()]);
        let endpoint = if endpoint == ip(first) { first } else { second };
        assert_eq!(pieces, big_udp(own, endpoint, (5000, 8080)));
        let mut answer = big_udp(endpoint, own, (8080, 5000));
        for piece in &mut answer {
            assert_eq!(nat.unbalance(&mut view(piece), false, now), NatOutcome::Rewritten);
        }
        assert_eq!(answer, big_udp(vip, own, (80, 5000)));
    }
}

#[test]
fn flows_spread_over_the_endpoints_that_may_be_chosen() {
    let own = V4.client;
    let (mut nat, now) = (nat(), start());
    let endpoints = ["10.244.3.1", V6.own, "10.244.3.2", own, "10.244.3.3"].map(ip);
    let service = Service { endpoints: &endpoints, exclude: &[ip(own)], ..Service::new(ip(V4.vip)) };
    let mut counts = std::collections::BTreeMap::new();
    for port in 0..3000 {
        let mut call = Sample::udp(own, V4.vip, (port, 80));
        let endpoint = balance(&mut nat, &mut call, &service, now).expect("balanced");
        *counts.entry(endpoint).or_insert(0u32) += 1;
    }
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [endpoints[0], endpoints[2], endpoints[4]]);
    // 1,000 each; four standard deviations of a fair choice are 103.
    assert!(counts.values().all(|count| count.abs_diff(1000) < 103), "{counts:?}");
}

#[test]
fn an_endpoint_that_is_gone_is_replaced() {
    let World { client: own, vip, own: first, other: second, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let call = |nat: &mut Nat, endpoints: &[IpAddr], exclude: &[IpAddr]| {
        let service = Service { endpoints, exclude, ..Service::new(ip(vip)) };
        balance(nat, &mut Sample::udp(own, vip, (5000, 80)), &service, now)
    };
    assert_eq!(call(&mut nat, &[ip(first)], &[]), Ok(ip(first)));
    assert_eq!(call(&mut nat, &[ip(first), ip(second)], &[]), Ok(ip(first)));
    assert_eq!(call(&mut nat, &[ip(second)], &[]), Ok(ip(second)));
    assert_eq!(nat.len(), 1);
    let mut late = Sample::udp(first, own, (80, 5000));
    assert_eq!(nat.unbalance(&mut view(&mut late), false, now), NatOutcome::Untouched);
    assert_eq!(call(&mut nat, &[ip(second)], &[ip(second)]), Err(NatError::NoEndpoint));
    assert_eq!(call(&mut nat, &[ip(V6.own)], &[]), Err(NatError::NoEndpoint));
    assert_eq!(call(&mut nat, &[], &[]), Err(NatError::NoEndpoint));
}

#[test]
fn a_pod_that_calls_its_own_service_reaches_itself() {
    for World { client: own, vip, .. } in [V4, V6] {
        let (mut nat, now) = (nat(), start());
        let ports = [ServicePort::new(80, 8080)];
        let service = Service { ports: &ports, ..Service::new(ip(vip)) };
        let call = |nat: &mut Nat, mut bytes: Vec<u8>| {
            nat.loop_back(&mut view(&mut bytes), false, &service, ip(own), now).expect("turned round");
            bytes
        };
        let answer = |nat: &mut Nat, mut bytes: Vec<u8>| {
            assert_eq!(nat.loop_reply(&mut view(&mut bytes), false, now), NatOutcome::Rewritten);
            bytes
        };
        let tcp = |a: &str, b: &str, ports| Sample::tcp(a, b, ports, SYN);
        assert_eq!(call(&mut nat, tcp(own, vip, (5000, 80))), tcp(vip, own, (5000, 8080)));
        assert_eq!(answer(&mut nat, tcp(own, vip, (8080, 5000))), tcp(vip, own, (80, 5000)));
        let echo = Sample::echo;
        assert_eq!(call(&mut nat, echo(own, vip, true, 3)), echo(vip, own, true, 3));
        assert_eq!(answer(&mut nat, echo(own, vip, false, 3)), echo(vip, own, false, 3));
        // The pod refuses its own packet.
        let refused = Sample::unreachable(own, vip, &tcp(vip, own, (5000, 8080)), 100);
        let heard = Sample::unreachable(vip, own, &tcp(own, vip, (5000, 80)), 100);
        assert_eq!(answer(&mut nat, refused), heard);
        // A second service port with the same target: the answers would be the same.
        let second = call(&mut nat, tcp(own, vip, (5000, 8080)));
        let port = view(&mut second.clone()).ports().expect("TCP").0;
        assert_ne!(port, 5000);
        assert_eq!(second, tcp(vip, own, (port, 8080)));
        assert_eq!(answer(&mut nat, tcp(own, vip, (8080, port))), tcp(vip, own, (8080, 5000)));
        assert_eq!(answer(&mut nat, tcp(own, vip, (8080, 5000))), tcp(vip, own, (80, 5000)));
    }
}

#[test]
fn two_vips_of_one_pod_called_from_one_port_are_kept_apart() {
    let World { client, vip, own, other, .. } = V4;
    let second_vip = other;
    let (mut nat, now) = (nat(), start());
    for flows in [Sample::udp, |a: &str, b: &str, ports| Sample::tcp(a, b, ports, SYN)] {
        serves(&mut nat, V4, &flows(client, vip, (5000, 80)), &flows(client, own, (5000, 80)), now);
        let mut second = flows(client, second_vip, (5000, 80));
        serve(&mut nat, &mut second, own, now).expect("served");
        let port = view(&mut second).ports().expect("ports").0;
        assert!(port >= 49_152);
        assert_eq!(second, flows(client, own, (port, 80)));
        replies(&mut nat, &flows(own, client, (80, port)), &flows(second_vip, client, (80, 5000)), now);
        replies(&mut nat, &flows(own, client, (80, 5000)), &flows(vip, client, (80, 5000)), now);
    }
    // Without a port to change, the later one takes the answers.
    serves(&mut nat, V4, &opaque(client, vip), &opaque(client, own), now);
    serves(&mut nat, V4, &opaque(client, second_vip), &opaque(client, own), now);
    replies(&mut nat, &opaque(own, client), &opaque(second_vip, client), now);
    assert_eq!(nat.len(), 5);
}

#[test]
fn a_direct_connection_from_the_same_port_takes_its_answers_back() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    let note = |nat: &mut Nat, mut bytes: Vec<u8>| {
        nat.note_direct(&IpPacket::parse(&mut bytes[..]).expect("well-formed"), now)
    };
    let served = Sample::tcp(client, own, (5000, 80), SYN);
    serves(&mut nat, V4, &Sample::tcp(client, vip, (5000, 80), SYN), &served, now);
    note(&mut nat, Sample::tcp(client, own, (5000, 80), ACK));
    note(&mut nat, Sample::tcp(client, own, (5001, 80), SYN));
    assert_eq!(nat.len(), 1);
    note(&mut nat, served);
    assert!(nat.is_empty());
    untouched(&mut nat, &Sample::tcp(own, client, (80, 5000), ACK), now);
}

/// Time after the last of these packets (true: from the client) at which their flow is forgotten.
fn lifetime(packets: &[(bool, Option<u8>)]) -> Duration {
    let World { client, vip, own, .. } = V4;
    let (mut nat, mut now) = (nat(), start());
    for (from_client, flags) in packets {
        now += Duration::from_secs(1);
        let make = |a: &str, b: &str, ports| match flags {
            Some(flags) => Sample::tcp(a, b, ports, *flags),
            None => Sample::udp(a, b, ports),
        };
        if *from_client {
            serve(&mut nat, &mut make(client, vip, (5000, 80)), own, now).expect("served");
        } else {
            assert_eq!(reply(&mut nat, &mut make(own, client, (80, 5000)), now), NatOutcome::Rewritten);
        }
    }
    let due = nat.poll_timeout().expect("a flow");
    nat.handle_timeout(due - Duration::from_millis(1));
    assert_eq!(nat.len(), 1);
    nat.handle_timeout(due);
    assert_eq!((nat.len(), nat.poll_timeout()), (0, None));
    due - now
}

#[test]
fn flows_are_forgotten_after_the_idle_time_of_their_phase() {
    let (syn, syn_ack, ack, fin, rst) = (Some(SYN), Some(0x12), Some(ACK), Some(FIN), Some(0x04));
    assert_eq!(lifetime(&[(true, None)]), DATAGRAM);
    assert_eq!(lifetime(&[(true, None), (false, None), (true, None)]), DATAGRAM);
    assert_eq!(lifetime(&[(true, syn)]), TCP_TRANSITORY);
    assert_eq!(lifetime(&[(true, syn), (false, syn_ack)]), TCP_TRANSITORY);
    let open = [(true, syn), (false, syn_ack), (true, ack)];
    assert_eq!(lifetime(&open), TCP_ESTABLISHED);
    // Taken up in the middle, after a restart.
    assert_eq!(lifetime(&[(true, ack)]), TCP_TRANSITORY);
    assert_eq!(lifetime(&[(true, ack), (false, ack), (true, ack)]), TCP_ESTABLISHED);
    for end in [(true, fin), (false, fin), (true, rst), (false, rst)] {
        assert_eq!(lifetime(&[&open[..], &[end]].concat()), TCP_TRANSITORY);
        assert_eq!(lifetime(&[&open[..], &[end], &[(true, ack)]].concat()), TCP_TRANSITORY);
        assert_eq!(lifetime(&[&open[..], &[end], &open].concat()), TCP_ESTABLISHED);
    }
}

#[test]
fn a_flow_past_its_time_is_gone_even_before_the_timer_ran() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    serve(&mut nat, &mut Sample::udp(client, vip, (5000, 80)), own, now).expect("served");
    untouched(&mut nat, &Sample::udp(own, client, (80, 5000)), now + DATAGRAM);
    assert!(nat.is_empty());
}

#[test]
fn the_timer_does_bounded_work() {
    let World { client, vip, own, .. } = V4;
    let (mut nat, now) = (nat(), start());
    for port in 0..1000 {
        serve(&mut nat, &mut Sample::udp(client, vip, (port, 80)), own, now).expect("served");
    }
    let due = now + DATAGRAM;
    let mut left = vec![];
    while nat.poll_timeout() == Some(due) {
        nat.handle_timeout(due);
        left.push(nat.len());
    }
    assert_eq!(left, [744, 488, 232, 0]);
}

/// The answer to a packet: ports and kind of message turned round.
fn answer_to(body: &Body) -> Body {
    match body.clone() {
        Body::Tcp { ports, flags, options, payload } => {
            Body::Tcp { ports: (ports.1, ports.0), flags, options, payload }
        }
        Body::Udp { ports, checksum, payload } => Body::Udp { ports: (ports.1, ports.0), checksum, payload },
        Body::Echo { request, id, payload } => Body::Echo { request: !request, id, payload },
        other => other,
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Every packet becomes, byte for byte, the one that was built with the other addresses; so do its fragments.
    #[test]
    fn there_and_back_is_the_identity(
        (sample, [client, vip, own]) in any_addresses::<3>().prop_flat_map(|all| (any_sample(all[0], all[1]), Just(all))),
        words in 3usize..60,
        pieces in any::<bool>(),
    ) {
        prop_assume!(client != vip && vip != own && own != client);
        let between = |source, destination, body: &Body| {
            let sample = Sample { source, destination, body: body.clone(), ..sample.clone() };
            if pieces { sample.fragments(words * 8) } else { vec![sample.build()] }
        };
        let (now, there, back) = (start(), &sample.body, &answer_to(&sample.body));
        let endpoints = [own];
        let service = Service { endpoints: &endpoints, ..Service::new(vip) };

        let (mut serving, mut calling, mut looping) = (nat(), nat(), nat());
        let mut packets = between(client, vip, there);
        for packet in &mut packets {
            let mut copy = packet.clone();
            prop_assert_eq!(calling.balance(&mut view(&mut copy), false, &service, now), Ok(own));
            prop_assert_eq!(serving.serve(&mut view(packet), false, own, peer(1), now), Ok(()));
            prop_assert_eq!(&copy, packet);
        }
        prop_assert_eq!(&packets, &between(client, own, there));
        let mut packets = between(own, client, back);
        for packet in &mut packets {
            let mut copy = packet.clone();
            prop_assert_eq!(calling.unbalance(&mut view(&mut copy), false, now), NatOutcome::Rewritten);
            prop_assert_eq!(serving.reply(&mut view(packet), false, now), NatOutcome::Rewritten);
            prop_assert_eq!(&copy, packet);
        }
        prop_assert_eq!(&packets, &between(vip, client, back));

        let mut packets = between(own, vip, there);
        for packet in &mut packets {
            prop_assert_eq!(looping.loop_back(&mut view(packet), false, &Service::new(vip), own, now), Ok(()));
        }
        prop_assert_eq!(&packets, &between(vip, own, there));
        let mut packets = between(own, vip, back);
        for packet in &mut packets {
            prop_assert_eq!(looping.loop_reply(&mut view(packet), false, now), NatOutcome::Rewritten);
        }
        prop_assert_eq!(&packets, &between(vip, own, back));
    }
}

proptest! {
    #![proptest_config(cases(100_000))]

    /// Random calls with packets of a handful of addresses, some of their bytes random: no panic, every result is a
    /// packet, and the tables stay within their bounds.
    #[test]
    fn random_packets_never_panic(
        steps in prop::collection::vec(
            (0usize..6, 0usize..4, 0usize..4, 0u8..3, 0usize..80, any::<[u8; 6]>(), 0usize..6),
            1..12,
        ),
    ) {
        let all = [V4.client, V4.vip, V4.own, V4.other];
        let endpoints = [ip(V4.own), ip(V4.other)];
        let service = Service { endpoints: &endpoints, ports: &[ServicePort::new(1, 2)], exclude: &[ip(V4.own)], ..Service::new(ip(V4.vip)) };
        let (mut nat, mut now) = (Nat::with_capacity(7, 3, 2), start());
        for (kind, source, destination, port, at, random, call) in steps {
            let (a, b, ports) = (all[source], all[destination], (u16::from(port), u16::from(random[0] % 3)));
            let mut bytes = match kind {
                0 => Sample::tcp(a, b, ports, random[1]),
                1 => Sample::udp(a, b, ports),
                2 => Sample::echo(a, b, random[1] % 2 == 0, ports.0),
                3 => Sample::unreachable(a, b, &Sample::udp(b, a, ports), usize::from(random[1])),
                4 => big_udp(a, b, ports).remove(usize::from(random[1] % 5)),
                _ => opaque(a, b),
            };
            if random[2] % 2 == 0 {
                // Anywhere but in the length, so that most packets parse.
                let at = 4 + at % (bytes.len() - 4);
                bytes[at] = random[3];
            }
            now += Duration::from_secs(u64::from(random[4]));
            let len = bytes.len();
            let Ok(mut packet) = IpPacket::parse(&mut bytes[..]) else { continue };
            let partial = random[5] % 4 == 0;
            match call {
                0 => drop(nat.serve(&mut packet, partial, ip(V4.own), peer(random[0].into()), now)),
                1 => drop(nat.balance(&mut packet, partial, &service, now)),
                2 => drop(nat.loop_back(&mut packet, partial, &service, ip(V4.client), now)),
                3 => _ = nat.reply(&mut packet, partial, now),
                4 => _ = nat.unbalance(&mut packet, partial, now),
                _ => nat.note_direct(&packet, now),
            }
            prop_assert_eq!(packet.bytes().len(), len);
            prop_assert!(IpPacket::parse(packet.bytes()).is_ok());
            prop_assert!(nat.len() <= 3);
            nat.handle_timeout(now);
            prop_assert!(nat.poll_timeout().is_none_or(|at| at > now));
        }
    }
}
