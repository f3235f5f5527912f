//! Decisions that are remembered end with what they rest on, and not at the next timer.

use std::sync::Arc;

use super::pair::{ADDRESSES, Pair, address, ring};
use crate::{
    CipherSuite, DropReason,
    crypto::Seed,
    directory::{Class, Directory, Fact, FactChange, FactSource},
    lane_update::{LaneChange, LaneUpdate},
    testing::start,
    trust::{CertificateAuthority, Trust},
    tunnel::{Outbound, Verdict, limits::REJECT_AFTER},
};

/// Two that have talked in both directions often enough for every decision to be remembered.
fn talking() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    for side in [0, 1, 0, 1, 0, 1] {
        pair.send(side);
    }
    assert_eq!(pair.delivered, [3, 3]);
    pair
}

fn fact(class: Class) -> FactChange {
    FactChange::Learn(Fact::new(address(1), class, FactSource::Static, None))
}

#[test]
fn a_fact_counts_for_the_next_packet() {
    let mut pair = talking();
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[fact(Class::External)], now);
    assert_eq!(pair.offer(0), Outbound::Bypass);
    pair.tunnels[0].apply_facts(&[fact(Class::Internal)], now);
    assert_eq!(pair.offer(0), Outbound::Sent { records: 1 });
    pair.tunnels[0].apply_facts(&[fact(Class::Exempt)], now);
    assert_eq!(pair.offer(0), Outbound::Bypass);
}

/// Nobody called the timer that ends the session: the packet waits for a new one, and is not refused.
#[test]
fn a_session_that_is_over_seals_nothing_and_its_peer_is_asked_again() {
    let mut pair = talking();
    pair.now += REJECT_AFTER;
    assert_eq!(pair.offer(0), Outbound::Held);
}

#[test]
fn a_base_of_facts_counts_for_the_next_packet() {
    let mut pair = talking();
    let base = [Fact::new(address(1), Class::External, FactSource::Static, None)];
    pair.tunnels[0].set_directory(Arc::new(Directory::new(base, 1)));
    assert_eq!(pair.offer(0), Outbound::Bypass);
}

#[test]
fn addresses_that_are_this_pods_no_more_send_and_receive_nothing() {
    let mut pair = talking();
    pair.tunnels[0].set_addresses(&["10.0.0.9".parse().unwrap()], start());
    assert_eq!(pair.offer(0), Outbound::Dropped(DropReason::Policy));
    pair.send(1);
    assert_eq!(pair.delivered, [3, 3]);
    assert_eq!(pair.tunnels[0].stats().dropped(DropReason::InnerDestination), 1);
}

#[test]
fn a_fact_about_the_owner_of_an_address_counts_for_the_next_record() {
    let mut pair = talking();
    let stranger = crate::crypto::PeerId::from_bytes([9; 32]);
    let fact = Fact::new(address(1), Class::Internal, FactSource::Static, None).with_owner(stranger);
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[FactChange::Learn(fact)], now);
    pair.send(1);
    assert_eq!(pair.delivered, [3, 3]);
    assert_eq!(pair.tunnels[0].stats().dropped(DropReason::InnerSource), 1);
}

/// Each change of keys and trust ends what was decided with it in force.
#[test]
fn keys_that_are_gone_and_trust_that_asks_for_more_count_for_the_next_packet() {
    let mut pair = talking();
    let now = pair.now;
    let authority = CertificateAuthority::from_seed(&Seed::from_bytes([1; 32])).public_key();
    pair.tunnels[0].set_trust(Arc::new(Trust::certificates(authority, [])), now);
    assert_eq!(pair.offer(0), Outbound::Dropped(DropReason::Certificate));
    assert!(pair.tunnels[1].set_keys(ring(8), now).is_err(), "another key for an epoch in use");
    assert_eq!(pair.offer(1), Outbound::Sent { records: 1 });
}

#[test]
fn what_another_lane_has_lost_is_looked_up_anew() {
    let mut pair = talking();
    let (peer, now) = (pair.tunnels[1].peer_id(), pair.now);
    let before = pair.tunnels[0].revision();
    let change = LaneChange::Lost { address: address(1), peer };
    pair.tunnels[0].handle_lane_update(&LaneUpdate { lane: 1, change }, now);
    assert!(pair.tunnels[0].revision() > before);
    assert!(matches!(pair.tunnels[0].classify(ADDRESSES[1].parse().unwrap(), now), Verdict::Encrypt(_)));
}

/// A datagram of IPv4, from the first pod to the second, between these ports.
fn datagram((source, destination): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    for side in [0, 1] {
        let std::net::IpAddr::V4(address) = address(side) else { panic!("IPv4") };
        packet.extend(address.octets());
    }
    packet.extend([source.to_be_bytes(), destination.to_be_bytes()].concat());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let length = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    packet
}

#[test]
fn a_record_of_its_own_that_comes_from_the_device_is_not_sealed_again() {
    let mut pair = talking();
    let record = pair.sent[0].last().expect("a record").clone();
    let port = crate::TunnelConfig::DEFAULT_PORT;
    for (looped, lane) in (1..).zip([0, 1, 15]) {
        let sent = pair.sent[0].len();
        let outcome = pair.offer_packet(0, datagram((port + lane, port), &record));
        assert_eq!(outcome, Outbound::Dropped(DropReason::Loop));
        assert_eq!(pair.tunnels[0].stats().dropped(DropReason::Loop), looped);
        assert_eq!(pair.sent[0].len(), sent, "nothing leaves");
    }
    // A train of them, as the kernel hands over what it did not cut.
    let train = [record.as_slice(), &record].concat();
    assert_eq!(pair.offer_packet(0, datagram((port, port), &train)), Outbound::Dropped(DropReason::Loop));
    // What an application sends: another port, or something else.
    for (source, payload) in [(port + 16, record.as_slice()), (port - 1, &record), (port + 1, b"hello")] {
        let outcome = pair.offer_packet(0, datagram((source, port), payload));
        assert_eq!(outcome, Outbound::Sent { records: 1 }, "from port {source}");
    }
}
