//! Ends of ways around the tunnel, and what keeps one from being opened.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::pair::{ADDRESSES, Pair, address, ring};
use crate::{
    DropReason, Event, Identity, LaneUpdate, Output, Seed, TunnelConfig, UnansweredPolicy,
    crypto::PeerId,
    directory::{Class, Fact, FactChange, FactSource, Standing},
    lane_update::LaneChange,
    offload::VnetHdr,
    packet::samples::Sample,
    sink::bytes::DatagramQueue,
    testing::start,
    trust::{CertificateAuthority, Trust},
    tunnel::{
        HeldPacket, Outbound, TunPacket, Tunnel, limits::ASK_WAIT, membership::Claimant, peer_key::PeerKey,
        proofs::ProvenBy,
    },
};

fn lone(unknown: UnansweredPolicy) -> Tunnel {
    let mut config = TunnelConfig::new(["10.0.0.0/8".parse().expect("a range")]);
    config.unknown = unknown;
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
    Tunnel::builder(config, ring(9), identity)
        .build(Seed::from_bytes([2; 32]), start())
        .expect("any suite fits")
}

fn fact(class: Class, source: FactSource) -> FactChange {
    FactChange::Learn(Fact::new(address(1), class, source, None))
}

fn dns() -> FactSource {
    FactSource::Dns("www.example.com".into())
}

fn offer(tunnel: &mut Tunnel, after: Duration) -> Outbound {
    let mut packet = Sample::udp(ADDRESSES[0], ADDRESSES[1], (1, 2));
    let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
    tunnel.handle_packet(&mut packet, start() + after, &mut DatagramQueue::new(0))
}

/// Lets time pass in steps. Returns the packets that left in plain, and the events.
fn run_to(tunnel: &mut Tunnel, end: Duration) -> (usize, Vec<Event>) {
    let (mut released, mut events) = (0, Vec::new());
    let mut at = Duration::ZERO;
    while at <= end {
        tunnel.handle_timeout(start() + at);
        loop {
            match tunnel.poll_output(&mut [0; 2_048], start() + at) {
                Output::Released(_) => released += 1,
                Output::Event(event) => events.push(event),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        at += Duration::from_millis(10);
    }
    (released, events)
}

#[test]
fn an_open_destination_that_a_fact_calls_internal_is_told_at_once_and_when_it_is_asked_about() {
    let mut tunnel = lone(UnansweredPolicy::Drop);
    tunnel.apply_facts(&[fact(Class::External, FactSource::Static)], start());
    assert_eq!(offer(&mut tunnel, Duration::ZERO), Outbound::Bypass);
    run_to(&mut tunnel, Duration::ZERO);
    tunnel.apply_facts(&[fact(Class::Internal, FactSource::Static)], start());
    let internal = [Event::Internal { destination: address(1) }];
    assert_eq!(run_to(&mut tunnel, Duration::ZERO).1, internal);
    // The owner of a bypass that has not heard of it asks.
    tunnel.ask_external(address(1), start());
    assert_eq!(run_to(&mut tunnel, Duration::ZERO).1, internal);
}

#[test]
fn under_plain_what_is_known_to_be_the_tenants_is_dropped_unanswered() {
    let mut tunnel = lone(UnansweredPolicy::Plain);
    tunnel.apply_facts(&[fact(Class::Internal, FactSource::Static)], start());
    assert_eq!(offer(&mut tunnel, Duration::ZERO), Outbound::Held);
    assert_eq!(run_to(&mut tunnel, ASK_WAIT).0, 0);
    assert_eq!(tunnel.stats().dropped(DropReason::HeldTimeout), 1);
    let again = offer(&mut tunnel, ASK_WAIT + Duration::from_millis(1));
    assert_ne!(again, Outbound::Bypass);
    // Nor one at which a member has answered.
    let mut tunnel = lone(UnansweredPolicy::Plain);
    let claimant = Claimant { member: PeerId::from_bytes([2; 32]), addresses: &[], certificate: None };
    tunnel.proven(claimant, address(1), ProvenBy::Answer, start(), start());
    tunnel.routes.clear(1);
    assert_eq!(offer(&mut tunnel, Duration::ZERO), Outbound::Held);
    assert_eq!(run_to(&mut tunnel, ASK_WAIT).0, 0);
    // The same for one that nobody knows anything of, as the control.
    let mut tunnel = lone(UnansweredPolicy::Plain);
    assert_eq!(offer(&mut tunnel, Duration::ZERO), Outbound::Held);
    assert_eq!(run_to(&mut tunnel, ASK_WAIT).0, 1);
}

#[test]
fn what_waits_on_the_word_of_dns_does_not_leave_once_this_pod_is_closed() {
    let mut tunnel = lone(UnansweredPolicy::Drop);
    tunnel.apply_facts(&[fact(Class::External, dns())], start());
    assert_eq!(offer(&mut tunnel, Duration::ZERO), Outbound::Held);
    let authority = CertificateAuthority::from_seed(&Seed::from_bytes([5; 32])).public_key();
    tunnel.set_trust(Arc::new(Trust::certificates(authority, [])), start());
    assert_eq!(run_to(&mut tunnel, ASK_WAIT).0, 0);
}

#[test]
fn what_waits_on_the_word_of_dns_goes_on_waiting_where_a_fact_says_internal_meanwhile() {
    let mut pair = Pair::with_config(|_| {});
    pair.connected = false;
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[fact(Class::External, dns())], now);
    assert_eq!(pair.offer(0), Outbound::Held);
    pair.tunnels[0].apply_facts(&[fact(Class::Internal, FactSource::Static)], now);
    pair.run(Duration::from_millis(150));
    pair.connected = true;
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.delivered[1], 1);
}

#[test]
fn another_lane_makes_no_address_internal_that_is_not_protected() {
    let mut tunnel = lone(UnansweredPolicy::Drop);
    let outside = IpAddr::from([192, 0, 2, 7]);
    for (address, standing) in [(outside, Standing::External), (address(1), Standing::Internal)] {
        let change = LaneChange::Found { address, peer: PeerId::from_bytes([2; 32]) };
        tunnel.handle_lane_update(&LaneUpdate { lane: 1, change }, start());
        assert_eq!(tunnel.policy.classify(address, start()).standing, standing, "{address}");
    }
}

/// An address that a member asserts and nobody answers at is what it was before.
#[test]
fn that_nobody_proves_an_address_changes_nothing_that_is_believed_of_it() {
    let mut tunnel = lone(UnansweredPolicy::Drop);
    tunnel.policy.found_own_vip(address(1), start());
    let claimant =
        Claimant { member: PeerId::from_bytes([2; 32]), addresses: &[address(1)], certificate: None };
    tunnel.ask_asserted(claimant, IpAddr::from([10, 0, 0, 3]), start());
    assert!(tunnel.exchanges.is_asked(address(1)));
    let (_, events) = run_to(&mut tunnel, 2 * ASK_WAIT);
    assert!(!tunnel.exchanges.is_asked(address(1)) && tunnel.policy.is_own_vip(address(1)));
    assert!(events.is_empty() && !tunnel.exchanges.is_silent(address(1), start() + 2 * ASK_WAIT));
}

#[test]
fn a_packet_whose_source_nobody_proves_is_counted() {
    let mut tunnel = lone(UnansweredPolicy::Drop);
    let packet = HeldPacket::new(&TunPacket::new(VnetHdr::default(), &mut [0; 40]));
    assert!(tunnel.waiting.add(PeerKey::ONE, address(1), packet, start()));
    run_to(&mut tunnel, Duration::from_millis(100));
    assert_eq!(tunnel.stats().dropped(DropReason::InnerSource), 1);
}
