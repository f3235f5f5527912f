//! Services whose ports have endpoints of their own, from the device to the pod behind them and back.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::pair::{ADDRESSES, Pair, address};
use crate::{
    CipherSuite, DropReason, LaneUpdate, Output, Seed,
    directory::{Class, Fact, FactChange, FactSource},
    lane_update::LaneChange,
    nat::{PortEndpoints, ServiceProtocol},
    offload::VnetHdr,
    packet::samples::{Body, Sample},
    sink::bytes::DatagramQueue,
    tunnel::{LaneId, Outbound, TunPacket, Tunnel},
};

const VIP: &str = "10.96.0.7";
const HERE: &str = ADDRESSES[0];
const THERE: &str = ADDRESSES[1];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn port(number: u16, endpoints: &[&str]) -> PortEndpoints {
    let endpoints: Vec<SocketAddr> =
        endpoints.iter().map(|endpoint| endpoint.parse().expect("an endpoint")).collect();
    PortEndpoints::new(ServiceProtocol::Udp, number, endpoints)
}

/// Two pods, of which the first is told of the other and of a service with these ports.
fn calling(ports: Vec<PortEndpoints>, affinity: Option<Duration>) -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let fact = |address: IpAddr| Fact::new(address, Class::Internal, FactSource::Kubernetes, None);
    let service = fact(ip(VIP)).with_services(ports, affinity);
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[FactChange::Learn(fact(address(1))), FactChange::Learn(service)], now);
    pair
}

fn call(port: u16) -> Vec<u8> {
    Sample::udp(HERE, VIP, (5_000, port))
}

#[test]
fn a_call_reaches_the_pod_and_the_target_port_of_the_port_that_was_called() {
    let services = vec![port(80, &["10.0.0.2:8080"]), port(81, &["10.0.0.1:9090", "10.0.0.2:9091"])];
    let mut pair = calling(services, None);
    for (number, target) in [(80, 8080), (81, 9091)] {
        let outcome = pair.offer_packet(0, call(number));
        assert!(matches!(outcome, Outbound::Sent { .. } | Outbound::Held), "{outcome:?}");
        assert_eq!(pair.last.take(), Some(Sample::udp(HERE, THERE, (5_000, target))));
        let _ = pair.offer_packet(1, Sample::udp(THERE, HERE, (target, 5_000)));
        assert_eq!(pair.last.take(), Some(Sample::udp(VIP, HERE, (number, 5_000))));
    }
    assert_eq!(pair.tunnels[0].stats().dropped_total(), 0);
}

#[test]
fn a_port_that_the_service_has_not_is_refused_and_so_is_one_without_a_pod() {
    let mut pair = calling(vec![port(80, &["10.0.0.2:8080"]), port(81, &[])], None);
    for (refused, packet) in (1..).zip([call(82), call(81), Sample::tcp(HERE, VIP, (5_000, 80), 2)]) {
        assert_eq!(pair.offer_packet(0, packet), Outbound::Dropped(DropReason::Policy));
        assert_eq!(pair.tunnels[0].stats().dropped(DropReason::Policy), refused);
    }
    assert_eq!(pair.delivered, [0, 0]);
    // A service of which no port has a pod is one all the same.
    let mut pair = calling(vec![port(81, &[])], None);
    assert_eq!(pair.offer_packet(0, call(81)), Outbound::Dropped(DropReason::Policy));
    assert!(!pair.tunnels[0].exchanges.is_asked(ip(VIP)));
}

#[test]
fn a_port_that_this_pod_alone_is_behind_leads_back_to_it_and_fragments_go_with_their_flow() {
    let mut pair = calling(vec![port(80, &["10.0.0.2:8080"]), port(81, &["10.0.0.1:9090"])], None);
    assert_eq!(pair.offer_packet(0, call(81)), Outbound::Hairpin);
    let body = Body::Udp { ports: (5_000, 81), checksum: true, payload: vec![7; 600] };
    for piece in Sample::new(HERE, VIP, body).fragments(256) {
        assert_eq!(pair.offer_packet(0, piece), Outbound::Hairpin);
    }
    assert_eq!(pair.offer_packet(0, Sample::udp(HERE, VIP, (9_090, 5_000))), Outbound::Hairpin);
    assert_eq!(pair.delivered, [0, 0]);
    // The other port is another pod's, although packets to this service have come back here.
    let now = pair.now;
    pair.tunnels[0].policy.found_own_vip(ip(VIP), now);
    assert_eq!(pair.offer_packet(0, call(80)), Outbound::Held);
    assert_eq!(pair.delivered, [0, 1]);
}

/// Gives a lane a call of the service, and returns what it tells the others of where it goes.
fn told(lane: &mut Tunnel, now: Instant) -> Vec<LaneUpdate> {
    let mut packet = call(80);
    let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
    let outcome = lane.handle_packet(&mut packet, now, &mut DatagramQueue::new(1));
    assert_eq!(outcome, Outbound::Held);
    let mut told = Vec::new();
    loop {
        match lane.poll_output(&mut [0; 2_048], now) {
            Output::LaneUpdate(update) if matches!(update.change, LaneChange::Choice(_)) => told.push(update),
            Output::Timeout(_) => return told,
            _ => {}
        }
    }
}

#[test]
fn every_lane_sends_new_flows_to_where_another_lane_has_sent_the_last_one() {
    let affinity = Some(Duration::from_secs(60));
    // The pod, and 200 others, one of which would be chosen before it.
    let listed = (2..=201).map(|last| format!("10.0.1.{last}:8080")).chain(["10.0.0.2:8080".to_owned()]);
    let listed: Vec<String> = listed.collect();
    let grown = port(80, &listed.iter().map(String::as_str).collect::<Vec<_>>());
    for is_told in [true, false] {
        let mut pair = calling(vec![port(80, &["10.0.0.2:8080"])], affinity);
        let now = pair.now;
        let first = &mut pair.tunnels[0];
        let mut second = first.sibling(LaneId::new(1).expect("a lane"), Seed::from_bytes([9; 32]), now);
        let updates = told(first, now);
        assert_eq!(updates.len(), 1);
        if is_told {
            updates.iter().for_each(|update| second.handle_lane_update(update, now));
        }
        let service = Fact::new(ip(VIP), Class::Internal, FactSource::Kubernetes, None);
        let service = service.with_services([grown.clone()], affinity);
        second.apply_facts(&[FactChange::Learn(service)], now);
        assert_eq!(told(&mut second, now).len(), 1);
        assert_eq!(second.exchanges.is_asked(address(1)), is_told);
    }
}
