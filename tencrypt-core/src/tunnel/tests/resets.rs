//! RESETs that this side sends for sessions that it does not know: to whom.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::pair::{Pair, address, ring};
use crate::{
    CipherSuite, Identity, Output, Seed, TunnelConfig,
    crypto::PeerId,
    directory::{Class, Fact, FactChange, FactSource},
    record::SessionIndex,
    testing::start,
    trust::{CertificateAuthority, Trust},
    tunnel::{
        Tunnel,
        limits::{LISTED_FOR, MAX_RESETS, REJECT_AFTER},
        membership::Claimant,
        proofs::ProvenBy,
    },
};

fn lone() -> Tunnel {
    let config = TunnelConfig::new(["10.0.0.0/8".parse().expect("a range")]);
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
    Tunnel::builder(config, ring(9), identity)
        .build(Seed::from_bytes([2; 32]), start())
        .expect("any suite fits")
}

/// RESETs for a record of this lane's session from `from`, so long after the start.
fn told(tunnel: &mut Tunnel, from: IpAddr, lane: u8, after: Duration) -> usize {
    let now = start() + after;
    tunnel.disclaim(SessionIndex::from_parts(lane, 7).expect("an index"), (from, 8_362).into(), now);
    let mut resets = 0;
    while let Output::Transmit(_) = tunnel.poll_output(&mut [0; 2_048], now) {
        resets += 1;
    }
    resets
}

fn learn(tunnel: &mut Tunnel, class: Class, source: FactSource) {
    tunnel.apply_facts(&[FactChange::Learn(Fact::new(address(1), class, source, None))], start());
    while !matches!(tunnel.poll_output(&mut [0; 2_048], start()), Output::Timeout(_)) {}
}

#[test]
fn at_first_all_are_told_that_may_be_of_the_tenant_and_later_those_alone_that_are() {
    let soon = Duration::from_secs(1);
    assert_eq!(told(&mut lone(), address(1), 0, soon), 1);
    assert_eq!(told(&mut lone(), address(1), 0, REJECT_AFTER), 0, "no session of before can live");
    assert_eq!(told(&mut lone(), IpAddr::from([192, 0, 2, 7]), 0, soon), 0);
    for source in [FactSource::Static, FactSource::Dns("www.example.com".into())] {
        let mut tunnel = lone();
        learn(&mut tunnel, Class::External, source.clone());
        assert_eq!(told(&mut tunnel, address(1), 0, soon), 0, "{source}");
    }
    let mut tunnel = lone();
    learn(&mut tunnel, Class::Internal, FactSource::Static);
    assert_eq!(told(&mut tunnel, address(1), 0, REJECT_AFTER), 1);
}

#[test]
fn who_starts_over_has_just_started() {
    let mut tunnel = lone();
    let identity = Identity::generate(Seed::from_bytes([3; 32]), &[address(0)]);
    tunnel.forget_sessions(identity, start() + REJECT_AFTER);
    assert_eq!(told(&mut tunnel, address(1), 0, REJECT_AFTER + Duration::from_secs(1)), 1);
}

/// A pod behind a service may come back long after its last session.
#[test]
fn who_is_still_believed_to_be_somewhere_is_told_although_the_address_counts_as_unknown_again() {
    let mut tunnel = lone();
    let claimant = Claimant { member: PeerId::from_bytes([2; 32]), addresses: &[], certificate: None };
    tunnel.proven(claimant, address(1), ProvenBy::Answer, start(), start());
    while !matches!(tunnel.poll_output(&mut [0; 2_048], start()), Output::Timeout(_)) {}
    assert_eq!(told(&mut tunnel, address(1), 0, LISTED_FOR + Duration::from_secs(1)), 1);
}

#[test]
fn another_lanes_sessions_and_those_of_a_pod_without_certificate_are_not_disclaimed() {
    let mut tunnel = lone();
    assert_eq!(told(&mut tunnel, address(1), 1, Duration::ZERO), 0);
    let authority = CertificateAuthority::from_seed(&Seed::from_bytes([5; 32])).public_key();
    tunnel.set_trust(Arc::new(Trust::certificates(authority, [])), start());
    assert_eq!(told(&mut tunnel, address(1), 0, Duration::ZERO), 0);
}

/// The places are for those who have not answered yet.
#[test]
fn who_comes_back_after_a_reset_leaves_its_place_to_another() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let (now, other) = (pair.now, |number: usize| IpAddr::from([10, 1, 0, number as u8]));
    let resets = &mut pair.tunnels[0].resets;
    assert!(resets.may_send(address(1), now));
    assert!((1..MAX_RESETS).all(|number| resets.may_send(other(number), now)));
    assert!(!resets.may_send(other(MAX_RESETS), now));
    pair.send(1);
    assert!(pair.tunnels[0].resets.may_send(other(MAX_RESETS), pair.now));
}
