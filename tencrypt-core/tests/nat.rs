//! Translation there and back again, for every kind of packet.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use tencrypt::{
    crypto::PeerId,
    nat::{Nat, NatError, NatOutcome, Service, ServicePort},
    packet::IpPacket,
};

/// The peer that calls.
const CLIENT: PeerId = PeerId::from_bytes([7; 32]);

/// A moment to count from.
#[expect(clippy::disallowed_methods, reason = "a test needs some Instant to count from")]
fn start() -> Instant {
    Instant::now()
}

#[derive(Debug, Clone, Copy)]
struct Hosts {
    client: IpAddr,
    vip: IpAddr,
    own: IpAddr,
}

const V4: [&str; 3] = ["10.1.0.1", "10.96.0.10", "10.1.0.2"];
const V6: [&str; 3] = ["fd00:1::1", "fd00:96::a", "fd00:1::2"];

fn hosts(v4: bool) -> Hosts {
    let [client, vip, own] = if v4 { V4 } else { V6 }.map(|address| address.parse().unwrap());
    Hosts { client, vip, own }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Udp,
    Tcp,
    Request,
    Reply,
}

fn packet(kind: Kind, from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut out = Vec::new();
    let payload = b"some payload";
    match (kind, from.is_ipv4()) {
        (Kind::Udp, _) => builder.udp(ports.0, ports.1).write(&mut out, payload),
        (Kind::Tcp, _) => builder.tcp(ports.0, ports.1, 1, 1_000).ack(1).write(&mut out, payload),
        (Kind::Request, true) => builder.icmpv4_echo_request(ports.0, 1).write(&mut out, payload),
        (Kind::Request, false) => builder.icmpv6_echo_request(ports.0, 1).write(&mut out, payload),
        (Kind::Reply, true) => builder.icmpv4_echo_reply(ports.0, 1).write(&mut out, payload),
        (Kind::Reply, false) => builder.icmpv6_echo_reply(ports.0, 1).write(&mut out, payload),
    }
    .unwrap();
    out
}

/// An ICMP error from `from` to `to` that quotes a packet.
fn error(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(3, 3, [0; 4])
            .write(&mut out, quoted),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(1, 4, [0; 4])
            .write(&mut out, quoted),
        _ => panic!("two families"),
    }
    .unwrap();
    out
}

fn kinds() -> impl Iterator<Item = (bool, Kind)> {
    [true, false].into_iter().flat_map(|v4| [Kind::Udp, Kind::Tcp, Kind::Request].map(|kind| (v4, kind)))
}

fn answer_kind(kind: Kind) -> Kind {
    if kind == Kind::Request { Kind::Reply } else { kind }
}

fn parse(bytes: &mut [u8]) -> IpPacket<&mut [u8]> {
    IpPacket::parse(bytes).unwrap()
}

#[test]
fn a_call_by_vip_reaches_the_pod_and_its_answer_comes_from_the_vip() {
    for (v4, kind) in kinds() {
        let Hosts { client, vip, own } = hosts(v4);
        let (mut nat, now) = (Nat::new(1), start());
        let mut call = packet(kind, client, vip, (5_000, 80));
        assert_eq!(nat.serve(&mut parse(&mut call), false, own, CLIENT, now), Ok(()));
        assert_eq!(call, packet(kind, client, own, (5_000, 80)), "{v4} {kind:?}");

        let mut answer =
            packet(answer_kind(kind), own, client, (if kind == Kind::Request { 5_000 } else { 80 }, 5_000));
        let expected =
            packet(answer_kind(kind), vip, client, (if kind == Kind::Request { 5_000 } else { 80 }, 5_000));
        assert_eq!(nat.reply(&mut parse(&mut answer), false, now), NatOutcome::Rewritten);
        assert_eq!(answer, expected, "{v4} {kind:?}");

        let mut direct = packet(Kind::Udp, own, client, (80, 5_001));
        let before = direct.clone();
        assert_eq!(nat.reply(&mut parse(&mut direct), false, now), NatOutcome::Untouched);
        assert_eq!(direct, before);
    }
}

#[test]
fn errors_about_a_call_by_vip_are_translated_both_ways() {
    for (v4, kind) in kinds() {
        let Hosts { client, vip, own } = hosts(v4);
        let (mut nat, now) = (Nat::new(1), start());
        let mut call = packet(kind, client, vip, (5_000, 80));
        nat.serve(&mut parse(&mut call), false, own, CLIENT, now).unwrap();
        // The pod refuses what it got; the client must see the VIP refuse what it sent.
        let mut refusal = error(own, client, &call);
        assert_eq!(nat.reply(&mut parse(&mut refusal), false, now), NatOutcome::Rewritten);
        assert_eq!(refusal, error(vip, client, &packet(kind, client, vip, (5_000, 80))), "{v4} {kind:?}");
        // The client refuses the answer it saw from the VIP; the pod must see its own answer refused.
        let ports = if kind == Kind::Request { (5_000, 5_000) } else { (80, 5_000) };
        let seen = packet(answer_kind(kind), vip, client, ports);
        let mut refusal = error(client, vip, &seen);
        nat.serve(&mut parse(&mut refusal), false, own, CLIENT, now).unwrap();
        assert_eq!(refusal, error(client, own, &packet(answer_kind(kind), own, client, ports)));
    }
}

#[test]
fn a_flow_goes_to_one_endpoint_with_its_port_and_comes_back_from_the_vip() {
    for (v4, kind) in kinds() {
        let Hosts { client, vip, own: endpoint } = hosts(v4);
        let (mut nat, now) = (Nat::new(1), start());
        let ports = [ServicePort::new(80, 8_080)];
        let service =
            Service { endpoints: &[endpoint], ports: &ports, exclude: &[client], ..Service::new(vip) };
        let target = if kind == Kind::Request { 80 } else { 8_080 };
        let mut call = packet(kind, client, vip, (5_000, 80));
        assert_eq!(nat.balance(&mut parse(&mut call), false, &service, now), Ok(endpoint));
        assert_eq!(call, packet(kind, client, endpoint, (5_000, target)), "{v4} {kind:?}");

        let source_port = if kind == Kind::Request { 5_000 } else { 8_080 };
        let mut answer = packet(answer_kind(kind), endpoint, client, (source_port, 5_000));
        assert_eq!(nat.unbalance(&mut parse(&mut answer), false, now), NatOutcome::Rewritten);
        let source_port = if kind == Kind::Request { 5_000 } else { 80 };
        assert_eq!(answer, packet(answer_kind(kind), vip, client, (source_port, 5_000)));

        // The endpoint refuses; the application must see the VIP refuse what it sent to the VIP.
        let mut refusal = error(endpoint, client, &call);
        assert_eq!(nat.unbalance(&mut parse(&mut refusal), false, now), NatOutcome::Rewritten);
        assert_eq!(refusal, error(vip, client, &packet(kind, client, vip, (5_000, 80))), "{v4} {kind:?}");
        // The application's host refuses the answer; the endpoint must see its own answer refused.
        let mut refusal = error(client, vip, &answer);
        assert_eq!(nat.balance(&mut parse(&mut refusal), false, &service, now), Ok(endpoint));
        let source_port = if kind == Kind::Request { 5_000 } else { 8_080 };
        assert_eq!(
            refusal,
            error(client, endpoint, &packet(answer_kind(kind), endpoint, client, (source_port, 5_000)))
        );
    }
}

#[test]
fn flows_spread_over_endpoints_and_stay_until_theirs_is_gone() {
    let Hosts { client, vip, .. } = hosts(true);
    let endpoints: Vec<IpAddr> = (1..=4).map(|last| IpAddr::from([10, 1, 1, last])).collect();
    let (mut nat, now) = (Nat::new(7), start());
    let service = Service { endpoints: &endpoints, exclude: &[client], ..Service::new(vip) };
    let pick = |nat: &mut Nat, port: u16, service: &Service<'_>| {
        nat.balance(&mut parse(&mut packet(Kind::Udp, client, vip, (port, 80))), false, service, now).unwrap()
    };
    let mut count = [0; 4];
    for port in 0..1_000 {
        let first = pick(&mut nat, port, &service);
        assert_eq!(pick(&mut nat, port, &service), first);
        count[endpoints.iter().position(|endpoint| *endpoint == first).unwrap()] += 1;
    }
    assert!(count.iter().all(|count| (150..350).contains(count)), "{count:?}");
    // One endpoint less: its flows move, the others stay.
    let fewer = Service { endpoints: &endpoints[..3], ..service };
    for port in 0..1_000 {
        let before = pick(&mut Nat::new(7), port, &service);
        let after = pick(&mut nat, port, &fewer);
        assert!(if before == endpoints[3] { after != endpoints[3] } else { after == before });
    }
}

#[test]
fn a_service_without_an_endpoint_of_the_family_is_an_error() {
    let Hosts { client, vip, own } = hosts(true);
    let (mut nat, now) = (Nat::new(1), start());
    for (endpoints, exclude) in
        [(vec![], vec![]), (vec!["fd00::1".parse().unwrap()], vec![]), (vec![own], vec![own])]
    {
        let service = Service { endpoints: &endpoints, exclude: &exclude, ..Service::new(vip) };
        let mut call = packet(Kind::Udp, client, vip, (1, 2));
        assert_eq!(nat.balance(&mut parse(&mut call), false, &service, now), Err(NatError::NoEndpoint));
    }
}

#[test]
fn a_pod_that_calls_its_own_vip_is_called_by_the_vip() {
    for (v4, kind) in kinds() {
        let Hosts { vip, own, .. } = hosts(v4);
        let (mut nat, now) = (Nat::new(1), start());
        let mut call = packet(kind, own, vip, (5_000, 80));
        let service = Service { ports: &[ServicePort::new(80, 8_080)], ..Service::new(vip) };
        nat.loop_back(&mut parse(&mut call), false, &service, own, now).unwrap();
        let target = if kind == Kind::Request { 80 } else { 8_080 };
        assert_eq!(call, packet(kind, vip, own, (5_000, target)), "{v4} {kind:?}");

        let source_port = if kind == Kind::Request { 5_000 } else { 8_080 };
        let mut answer = packet(answer_kind(kind), own, vip, (source_port, 5_000));
        assert_eq!(nat.loop_reply(&mut parse(&mut answer), false, now), NatOutcome::Rewritten);
        let source_port = if kind == Kind::Request { 5_000 } else { 80 };
        assert_eq!(answer, packet(answer_kind(kind), vip, own, (source_port, 5_000)));

        let mut again = packet(kind, own, vip, (5_000, 80));
        assert_eq!(
            nat.loop_reply(&mut parse(&mut again), false, now),
            NatOutcome::Untouched,
            "{v4} {kind:?}"
        );
    }
}

/// A packet cut in two fragments.
fn cut(bytes: &[u8], at: usize) -> [Vec<u8>; 2] {
    let header = &bytes[..20];
    let fragment = |from: usize, to: usize, more: bool| {
        let mut out = header.to_vec();
        out.extend(&bytes[20 + from..20 + to]);
        let (total, field) = (out.len() as u16, (from as u16 / 8) | if more { 0x2000 } else { 0 });
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out[4..6].copy_from_slice(&[9, 9]);
        out[6..8].copy_from_slice(&field.to_be_bytes());
        out[10..12].fill(0);
        let checksum = !tencrypt::internal::Sum::new().bytes(&out[..20]).fold();
        out[10..12].copy_from_slice(&checksum.to_be_bytes());
        out
    };
    [fragment(0, at, true), fragment(at, bytes.len() - 20, false)]
}

#[test]
fn later_fragments_follow_their_first_one() {
    let Hosts { client, vip, own } = hosts(true);
    let (mut nat, now) = (Nat::new(1), start());
    let service = Service {
        endpoints: &[own],
        ports: &[ServicePort::new(80, 8_080)],
        exclude: &[client],
        ..Service::new(vip)
    };
    let [mut first, mut last] = cut(&packet(Kind::Udp, client, vip, (5_000, 80)), 16);
    let mut early = last.clone();
    assert_eq!(nat.balance(&mut parse(&mut early), false, &service, now), Err(NatError::FirstFragmentUnseen));
    nat.balance(&mut parse(&mut first), false, &service, now).unwrap();
    assert_eq!(nat.balance(&mut parse(&mut last), false, &service, now), Ok(own));
    assert_eq!([first, last], cut(&packet(Kind::Udp, client, own, (5_000, 8_080)), 16));

    let [mut first, mut last] = cut(&packet(Kind::Udp, own, client, (8_080, 5_000)), 16);
    assert_eq!(nat.unbalance(&mut parse(&mut first), false, now), NatOutcome::Rewritten);
    assert_eq!(nat.unbalance(&mut parse(&mut last), false, now), NatOutcome::Rewritten);
    assert_eq!([first, last], cut(&packet(Kind::Udp, vip, client, (80, 5_000)), 16));

    // A minute later the identification may belong to another packet.
    let [_, mut last] = cut(&packet(Kind::Udp, own, client, (8_080, 5_000)), 16);
    let later = now + Duration::from_secs(61);
    assert_eq!(nat.unbalance(&mut parse(&mut last), false, later), NatOutcome::Refused);
}

#[test]
fn idle_translations_end() {
    let Hosts { client, vip, own } = hosts(true);
    let (mut nat, now) = (Nat::new(1), start());
    nat.serve(&mut parse(&mut packet(Kind::Udp, client, vip, (5_000, 80))), false, own, CLIENT, now).unwrap();
    let due = nat.poll_timeout().unwrap();
    assert_eq!(due, now + Duration::from_secs(120));
    nat.handle_timeout(due);
    assert_eq!(nat.poll_timeout(), None);
    let mut answer = packet(Kind::Udp, own, client, (80, 5_000));
    assert_eq!(nat.reply(&mut parse(&mut answer), false, due), NatOutcome::Untouched);
}

proptest! {
    #[test]
    fn there_and_back_is_the_identity(v4: bool, port: u16, service_port: u16, target: u16, kind in 0..3usize) {
        let Hosts { client, vip, own } = hosts(v4);
        let kind = [Kind::Udp, Kind::Tcp, Kind::Request][kind];
        let (mut nat, now) = (Nat::new(3), start());
        let ports = [ServicePort::new(service_port, target)];
        let service = Service { endpoints: &[own], ports: &ports, exclude: &[client], ..Service::new(vip) };
        // What the client sends is what the pod answers, seen from the other side.
        let mut call = packet(kind, client, vip, (port, service_port));
        nat.balance(&mut parse(&mut call), false, &service, now).unwrap();
        let seen = IpPacket::parse(&call[..]).unwrap();
        let (from, to) = seen.ports().unwrap_or((port, port));
        let mut answer = packet(answer_kind(kind), own, client, (to, from));
        prop_assert_eq!(nat.unbalance(&mut parse(&mut answer), false, now), NatOutcome::Rewritten);
        let expected_port = if kind == Kind::Request { port } else { service_port };
        prop_assert_eq!(answer, packet(answer_kind(kind), vip, client, (expected_port, port)));
    }
}
