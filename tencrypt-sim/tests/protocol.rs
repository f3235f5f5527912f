//! The order of the protocol, one rule a test, in clear weather.

use std::{net::IpAddr, time::Duration};

use tencrypt::{
    CipherSuite, DropReason, Event, UnansweredPolicy, Verdict,
    directory::{Class, Fact, FactSource},
};
use tencrypt_sim::{PodId, PodOptions, Weather, World};

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));

fn two(world: &mut World) -> (PodId, PodId) {
    two_of(world, CipherSuite::Aes256Gcm)
}

fn two_of(world: &mut World, suite: CipherSuite) -> (PodId, PodId) {
    let tenant = world.tenant();
    let [a, b] = [1, 2].map(|number| {
        let mut options = PodOptions::new(&[v4(number)]);
        options.suite = suite;
        world.pod(&tenant, options)
    });
    (a, b)
}

fn clear() -> World {
    World::new(1, Weather::CLEAR)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn an_unknown_destination_is_asked_and_its_first_packet_is_not_lost() {
    for &suite in CipherSuite::ALL {
        let mut world = clear();
        let (a, b) = two_of(&mut world, suite);
        let first = world.send(a, v4(2), 100);
        world.run_for(Duration::from_millis(50));
        assert!(world.model().is_delivered(first), "{suite}");
        let back = world.send(b, v4(1), 100);
        world.run_for(Duration::from_millis(50));
        assert!(world.model().is_delivered(back), "{suite}");
        assert_eq!(world.tunnel_of(a).stats().handshakes, 1);
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn a_destination_that_does_not_answer_is_dropped_after_a_second_and_asked_again_one_after_its_last_init() {
    let mut world = clear();
    let (a, _) = two(&mut world);
    world.send(a, v4(9), 100);
    assert_eq!(world.tunnel_of(a).classify(v4(9), world.now()), Verdict::Hold);
    world.run_for(Duration::from_millis(1_100));
    assert_eq!(world.tunnel_of(a).stats().dropped(DropReason::HeldTimeout), 1);
    world.send(a, v4(9), 100);
    assert_eq!(world.tunnel_of(a).stats().dropped(DropReason::UnknownDestination), 1);
    world.run_for(Duration::from_millis(800));
    assert_eq!(world.tunnel_of(a).classify(v4(9), world.now()), Verdict::Hold);
    assert!(world.bypassed_of(a).is_empty());
}

#[test]
fn under_plain_an_unanswered_destination_gets_its_packets_as_they_are() {
    let mut world = clear();
    let tenant = world.tenant();
    let mut options = PodOptions::new(&[v4(1)]);
    options.unknown = UnansweredPolicy::Plain;
    let a = world.pod(&tenant, options);
    world.send(a, v4(9), 100);
    world.run_for(Duration::from_millis(1_100));
    assert_eq!(world.bypassed_of(a).len(), 1);
    assert_eq!(world.tunnel_of(a).stats().opportunistic, 1);
}

#[test]
fn under_plain_an_address_once_seen_internal_is_never_spoken_to_in_plain() {
    let mut world = clear();
    let tenant = world.tenant();
    let mut options = PodOptions::new(&[v4(1)]);
    options.unknown = UnansweredPolicy::Plain;
    options.facts = vec![Fact::new(v4(9), Class::Internal, FactSource::Static, None)];
    let a = world.pod(&tenant, options);
    world.send(a, v4(9), 100);
    world.run_for(seconds(20));
    world.send(a, v4(9), 100);
    world.run_for(seconds(20));
    assert!(world.bypassed_of(a).is_empty());
}

#[test]
fn another_tenant_gets_silence_and_no_session() {
    let mut world = clear();
    let (first, second) = (world.tenant(), world.tenant());
    let a = world.pod(&first, PodOptions::new(&[v4(1)]));
    let b = world.pod(&second, PodOptions::new(&[v4(2)]));
    world.capture();
    world.send(a, v4(2), 100);
    world.run_for(seconds(3));
    assert!(world.captured().iter().all(|(from, ..)| from.ip() == v4(1)), "the other tenant answered");
    assert!(world.tunnel_of(b).stats().dropped(DropReason::Mac1) >= 1);
    assert_eq!(world.tunnel_of(b).peers(world.now()).count(), 0);
    assert_eq!(world.tunnel_of(a).peers(world.now()).count(), 0);
    assert_eq!(world.model().totals().1, 0);
}

/// A session from `a` to `b`, and the sealed record of one more packet that has not been delivered.
fn sealed(world: &mut World, a: PodId) -> (std::net::SocketAddr, Vec<u8>) {
    world.capture();
    world.send(a, v4(2), 200);
    let captured = world.captured();
    let (from, _, bytes) = captured.into_iter().next_back().expect("a record was sent");
    (from, bytes)
}

#[test]
fn a_replayed_record_is_dropped_and_the_session_lives_on() {
    let mut world = clear();
    let (a, b) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    let (from, record) = sealed(&mut world, a);
    world.run_for(Duration::from_millis(50));
    for times in 1..=5 {
        world.inject(b, from, record.clone());
        assert_eq!(world.tunnel_of(b).stats().dropped(DropReason::Replay), times);
    }
    let after = world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    assert!(world.model().is_delivered(after));
    assert_eq!(world.model().violations(), []);
}

#[test]
fn a_record_with_any_bit_flipped_is_dropped_and_the_genuine_one_still_opens() {
    let mut world = clear();
    let (a, b) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    world.weather(Weather { loss: 100, ..Weather::CLEAR });
    let (from, record) = sealed(&mut world, a);
    let opened = world.tunnel_of(b).stats().decrypted;
    for bit in 0..record.len() * 8 {
        let mut forged = record.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        world.inject(b, from, forged);
    }
    let stats = world.tunnel_of(b).stats();
    assert_eq!(stats.decrypted, opened);
    // The type byte, flags and reserved bytes; the index; everything else. A flipped counter bit fails the tag, or
    // falls outside the window.
    let counted =
        [DropReason::Malformed, DropReason::Unsupported, DropReason::UnknownIndex, DropReason::Auth];
    let total: u64 = counted.iter().map(|reason| stats.dropped(*reason)).sum();
    assert_eq!(
        total
            + stats.dropped(DropReason::Replay)
            + stats.dropped(DropReason::TooOld)
            + stats.dropped(DropReason::Mac1),
        record.len() as u64 * 8
    );
    assert!(stats.dropped(DropReason::Auth) >= (record.len() as u64 - 16) * 8);
    world.inject(b, from, record);
    assert_eq!(world.tunnel_of(b).stats().decrypted, opened + 1);
}

#[test]
fn truncated_records_of_every_length_are_dropped() {
    let mut world = clear();
    let (a, b) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    world.weather(Weather { loss: 100, ..Weather::CLEAR });
    let (from, record) = sealed(&mut world, a);
    let before = *world.tunnel_of(b).stats();
    for len in 1..record.len() {
        world.inject(b, from, record[..len].to_vec());
    }
    let stats = world.tunnel_of(b).stats();
    assert_eq!(stats.decrypted, before.decrypted);
    assert_eq!(stats.dropped_total() - before.dropped_total(), record.len() as u64 - 1);
}

#[test]
fn reordering_within_the_window_is_delivered_and_beyond_it_counted_as_too_old() {
    let mut world = clear();
    let (a, b) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    world.weather(Weather { loss: 100, ..Weather::CLEAR });
    world.capture();
    for _ in 0..8_300 {
        world.send(a, v4(2), 28);
    }
    let records = world.captured();
    let last = records.len() - 1;
    let deliver = |world: &mut World, at: usize| world.inject(b, records[at].0, records[at].2.clone());
    let opened = world.tunnel_of(b).stats().decrypted;
    deliver(&mut world, last);
    deliver(&mut world, last - 1);
    deliver(&mut world, last - 8_191);
    assert_eq!(world.tunnel_of(b).stats().decrypted, opened + 3);
    deliver(&mut world, last - 8_192);
    deliver(&mut world, last - 8_193);
    assert_eq!(world.tunnel_of(b).stats().decrypted, opened + 3);
    assert_eq!(world.tunnel_of(b).stats().dropped(DropReason::TooOld), 2);
    assert_eq!(world.model().violations(), []);
}

#[test]
fn a_vip_leads_to_the_pod_behind_it_and_the_session_moves_there() {
    let mut world = clear();
    let (a, b) = two(&mut world);
    world.vip(VIP, v4(2));
    let first = world.send(a, VIP, 100);
    world.run_for(Duration::from_millis(50));
    assert!(world.model().is_delivered(first));
    world.capture();
    let second = world.send(a, VIP, 100);
    world.run_for(Duration::from_millis(50));
    assert!(world.model().is_delivered(second));
    assert!(world.captured().iter().all(|(_, to, _)| to.ip() != VIP), "records still go to the VIP");
    assert_eq!(world.model().violations(), []);
    let _ = b;
}

#[test]
fn an_authentic_packet_from_an_address_of_somebody_else_is_dropped() {
    let mut world = clear();
    let tenant = world.tenant();
    let b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
    // A member that claims an address at which it does not receive.
    let liar = world.pod(&tenant, PodOptions::new(&[v4(3), v4(7)]));
    world.lose(|_, to, _| to.ip() == v4(7));
    world.send(liar, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    let before = world.tunnel_of(b).stats().decrypted;
    assert_eq!(before, 1);
    // Nobody has proven to be there, and then somebody else has.
    world.send_from(liar, v4(7), v4(2), 100);
    world.run_for(Duration::from_millis(150));
    world.lose(|_, _, _| false);
    let honest = world.pod(&tenant, PodOptions::new(&[v4(7)]));
    world.send(honest, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    world.send_from(liar, v4(7), v4(2), 100);
    world.run_for(Duration::from_millis(50));
    let stats = world.tunnel_of(b).stats();
    assert_eq!(stats.decrypted, before + 1, "only the honest one's packet");
    assert_eq!(stats.dropped(DropReason::InnerSource), 2);
}

#[test]
fn an_authentic_packet_from_outside_the_protected_ranges_is_dropped() {
    let mut world = clear();
    let tenant = world.tenant();
    let outside = IpAddr::from([192, 0, 2, 1]);
    let a = world.pod(&tenant, PodOptions::new(&[v4(1), outside]));
    let b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
    world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    world.send_from(a, outside, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.tunnel_of(b).stats().dropped(DropReason::InnerSource), 1);
}

#[test]
fn two_that_start_at_once_are_heard_at_once() {
    for &suite in CipherSuite::ALL {
        let mut world = clear();
        let (a, b) = two_of(&mut world, suite);
        let (there, back) = (world.send(a, v4(2), 100), world.send(b, v4(1), 100));
        world.run_for(Duration::from_millis(50));
        assert!(world.model().is_delivered(there) && world.model().is_delivered(back));
        // One of the two INITs was not answered: one handshake, not two.
        assert_eq!(world.tunnel_of(a).stats().handshakes, 1);
        assert_eq!(world.tunnel_of(b).stats().handshakes, 1);
    }
}

#[test]
fn an_idle_pair_falls_silent() {
    let mut world = clear();
    let (a, _) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(seconds(30));
    world.capture();
    world.run_for(seconds(600));
    assert!(world.captured().is_empty(), "idle peers keep talking");
}

#[test]
fn a_session_is_replaced_in_time_without_losing_a_packet() {
    for &suite in CipherSuite::ALL {
        let mut world = clear();
        let (a, b) = two_of(&mut world, suite);
        let mut numbers = Vec::new();
        for second in 0..400 {
            numbers.push(world.send(
                if second % 2 == 0 { a } else { b },
                v4(if second % 2 == 0 { 2 } else { 1 }),
                100,
            ));
            world.run_for(seconds(1));
        }
        assert!(numbers.iter().all(|number| world.model().is_delivered(*number)));
        let handshakes = world.tunnel_of(a).stats().handshakes;
        assert!((3..=5).contains(&handshakes), "{handshakes} handshakes in 400 s");
        assert_eq!(world.tunnel_of(a).stats().dropped_total(), 0);
        assert_eq!(world.tunnel_of(b).stats().dropped_total(), 0);
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn keys_are_erased_after_three_minutes_and_the_peer_is_reported_down() {
    let mut world = clear();
    let (a, _) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(seconds(179));
    assert_eq!(world.tunnel_of(a).peers(world.now()).count(), 1);
    world.run_for(seconds(2));
    assert_eq!(world.tunnel_of(a).peers(world.now()).count(), 0);
    assert!(world.events_of(a).iter().any(|event| matches!(event, Event::PeerDown { .. })));
    let late = world.send(a, v4(2), 100);
    world.run_for(Duration::from_millis(50));
    assert!(world.model().is_delivered(late));
}

#[test]
fn a_restarted_peer_is_found_again() {
    let mut world = clear();
    let (a, b) = two(&mut world);
    world.send(a, v4(2), 100);
    world.run_for(seconds(1));
    world.restart(b);
    let mut lost = 0;
    while !{
        let number = world.send(a, v4(2), 100);
        world.run_for(seconds(1));
        world.model().is_delivered(number)
    } {
        lost += 1;
        assert!(lost < 18, "the restarted peer is not found");
    }
    // It speaks first: found at once.
    world.restart(b);
    let number = world.send(b, v4(1), 100);
    world.run_for(seconds(1));
    assert!(world.model().is_delivered(number));
    let number = world.send(a, v4(2), 100);
    world.run_for(seconds(1));
    assert!(world.model().is_delivered(number));
    assert_eq!(world.model().violations(), []);
}

#[test]
fn dns_may_call_an_address_external_and_an_answer_makes_it_internal() {
    let mut world = clear();
    let tenant = world.tenant();
    let mut options = PodOptions::new(&[v4(1)]);
    options.facts = vec![Fact::new(v4(2), Class::External, FactSource::Dns("other.test".into()), None)];
    let a = world.pod(&tenant, options);
    let _b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
    let first = world.send(a, v4(2), 100);
    world.run_for(seconds(1));
    assert!(world.model().is_delivered(first));
    assert!(world.events_of(a).contains(&Event::Internal { destination: v4(2) }));
    let number = world.send(a, v4(2), 100);
    world.run_for(seconds(1));
    assert!(world.model().is_delivered(number));
    assert!(world.bypassed_of(a).is_empty(), "it was asked before a packet left");
}
