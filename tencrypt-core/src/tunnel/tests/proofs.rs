//! Proofs that a member is at an address: what counts as one, and all that follows. Each rule has a test that fails without it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::pair::{Pair, address, ring};
use crate::{
    CipherSuite, Event, Identity, LaneUpdate, Output, Seed, TunnelConfig, Verdict,
    crypto::PeerId,
    directory::{Class, Fact, FactChange, FactSource, Standing},
    lane_update::LaneChange,
    nat::{PortEndpoints, ServiceProtocol},
    offload::VnetHdr,
    packet::samples::Sample,
    testing::start,
    trust::{Certificate, CertificateAuthority, Request, Trust},
    tunnel::{
        HeldPacket, LaneId, Outbound, TunPacket, Tunnel,
        exchanges::Purpose,
        limits::USE_NOTED,
        membership::Claimant,
        peer_key::PeerKey,
        proofs::ProvenBy::{self, Answer, Confirmation},
    },
};

/// Outside of the protected ranges.
const OUTSIDE: &str = "192.0.2.7";
const POD: &str = "10.0.0.7";
const SERVICE: &str = "10.96.0.7";

fn at(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

fn member(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::from_seed(&Seed::from_bytes([5; 32]))
}

fn trust() -> Arc<Trust> {
    Arc::new(Trust::certificates(authority().public_key(), ["10.96.0.0/12".parse().expect("a range")]))
}

fn certificate(subject: PeerId, prefixes: &[&str]) -> Certificate {
    let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
    let pod = "pod".parse().expect("a name");
    let request = Request { tenant: [1; 16], subject, pod: &pod, generation: 1, prefixes: &prefixes };
    authority().issue(&request).expect("a certificate")
}

/// A tunnel of 10.0.0.1 that knows nobody.
fn lone() -> Tunnel {
    let config = TunnelConfig::new(["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().expect("a range")));
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
    Tunnel::builder(config, ring(9), identity)
        .build(Seed::from_bytes([2; 32]), start())
        .expect("any suite fits")
}

/// Two that have talked.
fn talking() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    pair.send(1);
    assert_eq!(pair.delivered, [1, 1]);
    pair
}

/// The peer of this side.
fn peer_of(pair: &Pair, side: usize) -> PeerKey {
    pair.tunnels[side].peers.keys()[0]
}

/// A member that names these addresses proves one.
fn prove(tunnel: &mut Tunnel, number: u8, names: &[IpAddr], address: IpAddr, by: ProvenBy) {
    let claimant = Claimant { member: member(number), addresses: names, certificate: None };
    tunnel.proven(claimant, address, by, start(), start());
}

fn speaks(tunnel: &Tunnel, number: u8, address: IpAddr) -> bool {
    tunnel.routes.speaks_until(address, member(number), start()).is_some()
}

fn learn(tunnel: &mut Tunnel, fact: Fact) {
    tunnel.apply_facts(&[FactChange::Learn(fact)], start());
}

/// Events and updates for other lanes that wait.
fn told(tunnel: &mut Tunnel) -> (Vec<Event>, Vec<LaneChange>) {
    let (mut events, mut changes) = (Vec::new(), Vec::new());
    loop {
        match tunnel.poll_output(&mut [0; 2_048], start()) {
            Output::Event(event) => events.push(event),
            Output::LaneUpdate(LaneUpdate { change, .. }) => changes.push(change),
            Output::Timeout(_) => return (events, changes),
            _ => {}
        }
    }
}

#[test]
fn protected_addresses_of_other_pods_alone_can_be_proven() {
    let mut tunnel = lone();
    for address in [at(OUTSIDE), address(0), at("127.0.0.1")] {
        prove(&mut tunnel, 2, &[address], address, Answer);
        assert!(!speaks(&tunnel, 2, address), "{address}");
    }
    prove(&mut tunnel, 2, &[at(POD)], at(POD), Answer);
    assert!(speaks(&tunnel, 2, at(POD)));
}

/// RESP to a gateway's address comes to whoever is behind it.
#[test]
fn a_confirmation_proves_what_is_named_alone_and_an_answer_any_address() {
    let mut tunnel = lone();
    prove(&mut tunnel, 2, &[address(1)], at(POD), Confirmation);
    assert!(!speaks(&tunnel, 2, at(POD)));
    prove(&mut tunnel, 3, &[at(POD)], at(POD), Confirmation);
    assert!(speaks(&tunnel, 3, at(POD)));
    prove(&mut tunnel, 4, &[], at("10.0.0.8"), Answer);
    assert!(speaks(&tunnel, 4, at("10.0.0.8")));
}

#[test]
fn who_names_a_services_address_is_one_of_the_pods_behind_it_and_no_more() {
    let mut tunnel = lone();
    let fact = Fact::new(at(SERVICE), Class::Internal, FactSource::Static, None);
    learn(&mut tunnel, fact.with_endpoints([at("10.0.0.3"), at("10.0.0.4")], []));
    for number in [3, 4] {
        prove(&mut tunnel, number, &[at(SERVICE)], at(SERVICE), Answer);
    }
    assert!(speaks(&tunnel, 3, at(SERVICE)) && speaks(&tunnel, 4, at(SERVICE)));
    prove(&mut tunnel, 5, &[at(SERVICE)], at(SERVICE), Confirmation);
    assert!(!speaks(&tunnel, 5, at(SERVICE)), "a source proves nothing of a service");
    // The same where the ranges of services are known.
    let mut tunnel = lone();
    tunnel.set_trust(trust(), start());
    let (own, from) = (certificate(member(6), &["10.0.0.6/32"]), at(SERVICE));
    let claimant = Claimant { member: member(6), addresses: &[from], certificate: Some(&own) };
    tunnel.proven(claimant, from, Confirmation, start(), start());
    assert!(!speaks(&tunnel, 6, from));
    tunnel.proven(claimant, from, Answer, start(), start());
    assert!(speaks(&tunnel, 6, from));
    assert!(tunnel.routes.route(from, start()).is_some_and(|route| !route.is_named));
}

#[test]
fn with_certificates_an_address_is_proven_by_whom_it_is_certified_for() {
    let mut tunnel = lone();
    tunnel.set_trust(trust(), start());
    let own = certificate(member(2), &["10.0.0.7/32"]);
    let certified = Claimant { member: member(2), addresses: &[], certificate: Some(&own) };
    for (claimant, address, is_so) in [
        (certified, at(POD), true),
        (certified, at("10.0.0.8"), false),
        (certified, at(SERVICE), true),
        (Claimant { certificate: None, ..certified }, at("10.0.0.9"), false),
    ] {
        tunnel.proven(claimant, address, Answer, start(), start());
        assert_eq!(speaks(&tunnel, 2, address), is_so, "{address}");
    }
}

#[test]
fn a_proof_is_told_and_ends_silence_plaintext_and_what_was_believed_of_a_vip() {
    let mut tunnel = lone();
    let _sibling = tunnel.sibling(LaneId::new(1).expect("a lane"), Seed::from_bytes([3; 32]), start());
    assert!(tunnel.ask(at(POD), Purpose::Traffic, false, start()));
    tunnel.gave_up(at(POD), start());
    tunnel.policy.found_own_vip(at(POD), start());
    assert!(tunnel.exchanges.is_silent(at(POD), start()));
    told(&mut tunnel);

    prove(&mut tunnel, 2, &[at(POD)], at(POD), Answer);
    assert!(!tunnel.exchanges.is_silent(at(POD), start()) && !tunnel.policy.is_own_vip(at(POD)));
    assert_eq!(tunnel.policy.classify(at(POD), start()).standing, Standing::Internal);
    let internal = [Event::Internal { destination: at(POD) }];
    let change = |peer, is_there| match is_there {
        true => LaneChange::Found { address: at(POD), peer },
        false => LaneChange::Lost { address: at(POD), peer },
    };
    let (events, changes) = told(&mut tunnel);
    assert_eq!((&events[..], &changes[..]), (&internal[..], &[change(member(2), true)][..]));

    // Another one has it now.
    prove(&mut tunnel, 3, &[at(POD)], at(POD), Answer);
    let (events, changes) = told(&mut tunnel);
    assert_eq!(events, internal);
    assert_eq!(changes, [change(member(2), false), change(member(3), true)]);
    assert!(!speaks(&tunnel, 2, at(POD)));
}

/// A pod restarted, or its address is another's: nothing waits for the old one to be missed.
#[test]
fn who_answers_where_records_to_another_go_has_that_one_dead_at_once() {
    let mut pair = talking();
    let (now, other) = (pair.now, pair.tunnels[1].peer_id());
    let tunnel = &mut pair.tunnels[0];
    let claimant = Claimant { member: member(9), addresses: &[address(1)], certificate: None };
    assert!(tunnel.peers.is_alive(other, now));
    tunnel.proven(claimant, address(1), Answer, now, now);
    assert!(!tunnel.peers.is_alive(other, now));
}

#[test]
fn copies_of_what_was_sent_to_a_service_wait_for_the_next_pod_behind_it() {
    let mut pair = talking();
    pair.connected = false;
    let (key, now) = (peer_of(&pair, 0), pair.now);
    let tunnel = &mut pair.tunnels[0];
    tunnel.peers.suspect(key, now);
    let mut packet = Sample::udp("10.0.0.1", SERVICE, (1, 2));
    let packet = HeldPacket::new(&TunPacket::new(VnetHdr::default(), &mut packet));
    tunnel.peers.keep_copy(key, at(SERVICE), packet);
    tunnel.died(key, now);
    assert!(tunnel.exchanges.is_asked(at(SERVICE)));
    assert_eq!(tunnel.peers.copied_to(key), [at(SERVICE)]);
}

#[test]
fn of_what_a_member_asserts_those_are_asked_that_can_be_a_pods() {
    let mut tunnel = lone();
    let external = at("10.0.0.8");
    learn(&mut tunnel, Fact::new(external, Class::External, FactSource::Static, None));
    // Protected it is not, whatever is said of it.
    learn(&mut tunnel, Fact::new(at("192.0.2.8"), Class::Internal, FactSource::Static, None));
    let named = [address(0), at(POD), external, at(OUTSIDE), at("192.0.2.8"), at("fd00::7")];
    let claimant = Claimant { member: member(2), addresses: &named, certificate: None };
    tunnel.ask_asserted(claimant, address(1), start());
    let asked: Vec<IpAddr> =
        named.into_iter().filter(|address| tunnel.exchanges.is_asked(*address)).collect();
    assert_eq!(
        asked,
        [at(POD)],
        "own, external, unprotected ones and those of a family it has none of are not"
    );
}

#[test]
fn no_fact_lets_a_peer_send_from_outside_of_the_protected_ranges() {
    let mut pair = talking();
    let (key, peer, now) = (peer_of(&pair, 0), pair.tunnels[1].peer_id(), pair.now);
    let tunnel = &mut pair.tunnels[0];
    for address in [at(OUTSIDE), at(POD)] {
        learn(tunnel, Fact::new(address, Class::Internal, FactSource::Static, None).with_owner(peer));
    }
    assert_eq!(tunnel.speaks_until(key, at(OUTSIDE), now), None);
    assert!(tunnel.speaks_until(key, at(POD), now).is_some());
}

#[test]
fn another_lanes_finding_counts_and_the_use_of_a_belief_is_noted_once_a_minute() {
    let mut pair = talking();
    let (key, peer, now) = (peer_of(&pair, 0), pair.tunnels[1].peer_id(), pair.now);
    let tunnel = &mut pair.tunnels[0];
    assert_eq!(tunnel.speaks_until(key, at(POD), now), None);
    assert!(tunnel.lanes.found(at(POD), peer, 1, now));
    assert!(tunnel.speaks_until(key, at(POD), now).is_some());
    let until = tunnel.speaks_until(key, address(1), now).expect("its own");
    assert!(until <= now + USE_NOTED, "or what flows use would end while they are in use");
}

/// Any other would make this pod ask whom a member likes, and keep packets for it.
#[test]
fn packets_wait_for_the_proof_of_an_address_that_their_sender_asserts_and_for_no_other() {
    let mut pair = talking();
    let (key, now) = (peer_of(&pair, 0), pair.now);
    let tunnel = &mut pair.tunnels[0];
    assert!(!tunnel.is_being_proven(key, at(POD), now) && !tunnel.exchanges.is_asked(at(POD)));
}

#[test]
fn a_fact_about_an_address_names_its_owner_whatever_was_proven() {
    let mut tunnel = lone();
    prove(&mut tunnel, 2, &[at(POD)], at(POD), Answer);
    let owner = |tunnel: &Tunnel| tunnel.owner(at(POD), start()).map(|(member, _)| member);
    let range = Fact::new(
        "10.0.0.0/24".parse::<crate::IpNet>().expect("a range"),
        Class::Internal,
        FactSource::Static,
        None,
    );
    learn(&mut tunnel, range.with_owner(member(4)));
    assert_eq!(owner(&tunnel), Some(member(2)), "a range says less than a proof");
    learn(&mut tunnel, Fact::new(at(POD), Class::Internal, FactSource::Static, None).with_owner(member(3)));
    assert_eq!(owner(&tunnel), Some(member(3)));
    assert!(!speaks(&tunnel, 2, at(POD)), "and whoever else was there is not any more");
}

#[test]
fn facts_take_an_address_from_all_who_are_not_there_by_them() {
    let mut tunnel = lone();
    for number in [3, 4] {
        let own = at(&format!("10.0.0.{number}"));
        prove(&mut tunnel, number, &[own], own, Answer);
        prove(&mut tunnel, number, &[], at(SERVICE), Answer);
    }
    assert!(speaks(&tunnel, 3, at(SERVICE)) && speaks(&tunnel, 4, at(SERVICE)));
    let fact = Fact::new(at(SERVICE), Class::Internal, FactSource::Kubernetes, None);
    learn(&mut tunnel, fact.clone().with_endpoints([at("10.0.0.4")], []));
    assert!(!speaks(&tunnel, 3, at(SERVICE)) && speaks(&tunnel, 4, at(SERVICE)));
    // The same with endpoints by port, down to none.
    let port = |endpoints: Vec<_>| PortEndpoints::new(ServiceProtocol::Tcp, 80, endpoints);
    learn(&mut tunnel, fact.clone().with_services([port(vec![(at("10.0.0.4"), 80).into()])], None));
    assert!(speaks(&tunnel, 4, at(SERVICE)));
    learn(&mut tunnel, fact.with_services([port(vec![])], None));
    assert!(!speaks(&tunnel, 4, at(SERVICE)));
}

#[test]
fn what_a_member_names_no_more_is_not_its_own_any_more() {
    let mut tunnel = lone();
    let (kept, left) = (at("10.0.0.8"), at(POD));
    for address in [kept, left] {
        prove(&mut tunnel, 2, &[kept, left], address, Answer);
    }
    prove(&mut tunnel, 2, &[kept], at(SERVICE), Answer);
    tunnel.keep_named(Claimant { member: member(2), addresses: &[kept], certificate: None }, start());
    assert!(speaks(&tunnel, 2, kept) && !speaks(&tunnel, 2, left));
    assert!(speaks(&tunnel, 2, at(SERVICE)), "it never said that this one was its own");
}

#[test]
fn whoever_else_asks_from_an_address_has_the_one_there_asked_if_it_lives() {
    let mut pair = talking();
    pair.connected = false;
    let (now, peer) = (pair.now, pair.tunnels[1].peer_id());
    let tunnel = &mut pair.tunnels[0];
    tunnel.doubt_route(address(1), peer, now);
    assert!(!tunnel.exchanges.is_asked(address(1)), "it is the same");
    tunnel.doubt_route(address(1), member(9), now);
    assert!(tunnel.exchanges.is_asked(address(1)));
}

/// Anybody can forge them.
#[test]
fn however_many_reports_say_that_nobody_listens_a_peer_is_asked_once_a_second() {
    let mut pair = talking();
    let before = pair.tunnels[0].stats().handshakes;
    for _ in 0..50 {
        let now = pair.now;
        pair.tunnels[0].handle_unreachable((address(1), 8_362).into(), now);
        pair.run(Duration::from_millis(10));
    }
    assert_eq!(pair.tunnels[0].stats().handshakes - before, 1);
}

#[test]
fn the_pod_behind_a_service_is_asked_on_behalf_of_that_and_serves_it() {
    let mut pair = talking();
    let (key, now) = (peer_of(&pair, 0), pair.now);
    let is_served = |pair: &Pair, vip| {
        let tunnel = &pair.tunnels[1];
        tunnel.peers.find(tunnel.peers.keys()[0]).expect("a peer").is_served_under(vip)
    };
    assert!(!is_served(&pair, at(SERVICE)) && !is_served(&pair, address(1)), "its own address is no VIP");
    pair.tunnels[0].peers.note_vip(key, at(SERVICE));
    assert_eq!(pair.tunnels[0].ask_for_life(key, now), Some(address(1)));
    pair.settle();
    assert!(is_served(&pair, at(SERVICE)));
}

#[test]
fn a_service_whose_pod_has_no_session_any_more_is_asked_for_at_that_pod_first() {
    let mut pair = talking();
    let (now, peer) = (pair.now, pair.tunnels[1].peer_id());
    let claimant = Claimant { member: peer, addresses: &[address(1)], certificate: None };
    pair.tunnels[0].proven(claimant, at(SERVICE), Answer, now, now);
    pair.run(Duration::from_secs(200));
    pair.connected = false;
    assert!(pair.tunnels[0].peers.keys().is_empty());
    assert_eq!(pair.offer_packet(0, Sample::udp("10.0.0.1", SERVICE, (1, 2))), Outbound::Held);
    assert!(pair.tunnels[0].exchanges.is_asked(address(1)));
}

#[test]
fn peers_are_told_of_changed_addresses_within_two_seconds() {
    let mut pair = talking();
    let now = pair.now;
    pair.tunnels[0].set_addresses(&[address(0), at(POD)], now);
    pair.run(Duration::from_secs(2));
    let key = peer_of(&pair, 1);
    assert!(pair.tunnels[1].peers.find(key).is_some_and(|peer| peer.asserts(at(POD))));
}

/// Two with certificates, the second one's for these.
fn certified(prefixes: &[&str]) -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let own = certificate(pair.tunnels[0].peer_id(), &["10.0.0.1/32"]);
    let other = certificate(pair.tunnels[1].peer_id(), prefixes);
    for (tunnel, certificate) in pair.tunnels.iter_mut().zip([own, other]) {
        tunnel.set_trust(trust(), start());
        tunnel.set_certificate(Some(certificate), start()).expect("it counts");
    }
    pair.send(0);
    pair.send(1);
    assert_eq!(pair.delivered, [1, 1]);
    pair
}

#[test]
fn a_fact_gives_nobody_what_its_certificate_does_not_list() {
    let mut pair = certified(&["10.0.0.2/32"]);
    let (key, peer, now) = (peer_of(&pair, 0), pair.tunnels[1].peer_id(), pair.now);
    let tunnel = &mut pair.tunnels[0];
    learn(tunnel, Fact::new(at(POD), Class::Internal, FactSource::Static, None).with_owner(peer));
    assert_eq!(tunnel.speaks_until(key, at(POD), now), None);
    assert_eq!(tunnel.classify(at(POD), now), Verdict::Hold);
    assert_eq!(tunnel.classify(address(1), now), Verdict::Encrypt(peer));
}

#[test]
fn a_new_certificate_with_fewer_addresses_takes_the_others_away() {
    let mut pair = certified(&["10.0.0.2/32", "10.0.0.64/28"]);
    let (peer, inside) = (pair.tunnels[1].peer_id(), at("10.0.0.65"));
    let (key, now) = (peer_of(&pair, 0), pair.now);
    pair.tunnels[0].claim_certified(key, inside, now);
    let speaks = |pair: &Pair| pair.tunnels[0].routes.speaks_until(inside, peer, pair.now).is_some();
    assert!(speaks(&pair));
    let fewer = certificate(peer, &["10.0.0.2/32"]);
    pair.tunnels[1].set_certificate(Some(fewer), now).expect("it counts");
    pair.send(1);
    pair.run(Duration::from_secs(1));
    assert!(!speaks(&pair));
    assert!(pair.tunnels[0].routes.speaks_until(address(1), peer, pair.now).is_some());
}

#[test]
fn an_authority_takes_from_peers_what_their_certificates_do_not_list() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    for (side, prefix) in ["10.0.0.1/32", "10.0.0.2/32"].into_iter().enumerate() {
        let own = certificate(pair.tunnels[side].peer_id(), &[prefix]);
        pair.tunnels[side].set_certificate(Some(own), start()).expect("it counts");
    }
    pair.send(0);
    let (peer, now) = (pair.tunnels[1].peer_id(), pair.now);
    let tunnel = &mut pair.tunnels[0];
    let claimant = Claimant { member: peer, addresses: &[], certificate: None };
    tunnel.proven(claimant, at(POD), Answer, now, now);
    assert!(tunnel.routes.speaks_until(at(POD), peer, now).is_some());
    tunnel.set_trust(trust(), now);
    assert!(tunnel.routes.speaks_until(at(POD), peer, now).is_none());
    assert!(tunnel.peers.is_alive(peer, now), "a member it is");
}

#[test]
fn who_is_no_member_any_more_keeps_no_address() {
    let mut pair = talking();
    let (peer, now) = (pair.tunnels[1].peer_id(), pair.now);
    let tunnel = &mut pair.tunnels[0];
    tunnel.set_certificate(Some(certificate(tunnel.peer_id(), &["10.0.0.1/32"])), now).expect("it counts");
    assert!(tunnel.routes.speaks_until(address(1), peer, now).is_some());
    tunnel.set_trust(trust(), now);
    assert!(tunnel.routes.speaks_until(address(1), peer, now).is_none());
}
