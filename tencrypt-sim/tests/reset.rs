//! A peer that lost its sessions is back at once, and RESET is good for nothing else.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt::{
    CipherSuite, DropReason, Verdict,
    directory::{Class, Fact, FactSource},
    internal::write_reset,
    record::SessionIndex,
};
use tencrypt_sim::{PodId, PodOptions, Tenant, Weather, World, seeds};

const SEEDS: u64 = 50;
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));
const INIT: u8 = 1;
const DATA: u8 = 4;
const RESET: u8 = 6;

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Two pods with a session that has carried packets both ways.
fn two(world: &mut World) -> (Tenant, PodId, PodId) {
    two_of(world, CipherSuite::Aes256Gcm)
}

fn two_of(world: &mut World, suite: CipherSuite) -> (Tenant, PodId, PodId) {
    let tenant = world.tenant();
    let [a, b] = [1, 2].map(|number| {
        let mut options = PodOptions::new(&[v4(number)]);
        options.suite = suite;
        world.pod(&tenant, options)
    });
    world.send(a, v4(2), 100);
    world.run_for(ms(50));
    world.send(b, v4(1), 100);
    world.run_for(ms(50));
    (tenant, a, b)
}

/// The suites take turns.
fn suite(seed: u64) -> CipherSuite {
    CipherSuite::ALL[seed as usize % CipherSuite::ALL.len()]
}

/// The number of captured datagrams of this type.
fn of_type(captured: &[(SocketAddr, SocketAddr, Vec<u8>)], kind: u8) -> usize {
    captured.iter().filter(|(.., bytes)| bytes[0] == kind).count()
}

/// The index that `from` seals records for, from a record that it sends now.
fn live_index(world: &mut World, from: PodId, to: IpAddr) -> SessionIndex {
    world.capture();
    world.send(from, to, 100);
    let captured = world.captured();
    let (.., record) = captured.iter().find(|(.., bytes)| bytes[0] == DATA).expect("a record");
    SessionIndex::from_u32(u32::from_le_bytes([record[4], record[5], record[6], record[7]]))
        .expect("an index")
}

/// A record that nobody sealed.
fn record(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![DATA, 0, 0, 0];
    // Lane 0, as the pods are.
    bytes.extend(((number & 0x0fff_ffff) | 1).to_le_bytes());
    bytes.resize(len, 0xee);
    bytes
}

/// Lets `from` send every 10 ms, for a second at most, until a packet gets through. True: one did.
fn is_heard_within_a_second(world: &mut World, from: PodId, to: IpAddr) -> bool {
    let mut numbers = Vec::new();
    (0..100).any(|_| {
        numbers.push(world.send(from, to, 100));
        world.run_for(ms(10));
        numbers.iter().any(|number| world.model().is_delivered(*number))
    })
}

#[test]
fn a_peer_that_restarts_under_load_is_back_within_a_second() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let (_, a, b) = two_of(&mut world, suite(seed));
        world.weather(Weather { loss: 5, duplicate: 5, delay: ms(1), jitter: ms(5) });
        let pause = world.random().duration(ms(3_000));
        world.run_for(pause);
        world.restart(b);
        assert!(is_heard_within_a_second(&mut world, a, v4(2)), "seed {seed}");
        // Longer away, so that INITs went unanswered and their repeats are seconds apart.
        world.weather(Weather { loss: 100, ..Weather::CLEAR });
        for _ in 0..30 {
            world.send(a, v4(2), 100);
            world.run_for(ms(1_000));
        }
        world.restart(b);
        world.weather(Weather { loss: 5, duplicate: 5, delay: ms(1), jitter: ms(5) });
        assert!(is_heard_within_a_second(&mut world, a, v4(2)), "seed {seed}, after 30 s");
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn without_resets_a_peer_that_restarts_is_back_within_six_seconds() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let (_, a, b) = two_of(&mut world, suite(seed));
        let pause = world.random().duration(ms(3_000));
        world.run_for(pause);
        world.lose(|_, _, bytes| bytes[0] == RESET);
        world.restart(b);
        let mut numbers = Vec::new();
        let heard = (0..600).position(|_| {
            numbers.push(world.send(a, v4(2), 100));
            world.run_for(ms(10));
            numbers.iter().any(|number| world.model().is_delivered(*number))
        });
        let after = heard.unwrap_or_else(|| panic!("seed {seed}: not heard within 6 s"));
        assert!(
            after > 100,
            "seed {seed}: after {after} hundredths, so not by the 2 s that data goes unanswered"
        );
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn both_that_restart_at_once_are_back_within_a_second() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let (_, a, b) = two_of(&mut world, suite(seed));
        world.restart(a);
        world.restart(b);
        assert!(is_heard_within_a_second(&mut world, a, v4(2)), "seed {seed}");
        assert!(is_heard_within_a_second(&mut world, b, v4(1)), "seed {seed}");
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn every_lane_of_a_peer_that_restarts_is_back_within_a_second() {
    for (lanes_a, lanes_b, lanes_after) in [(2, 2, 2), (1, 3, 3), (3, 1, 1), (3, 1, 2), (2, 3, 3)] {
        let mut world = World::new(1, Weather::CLEAR);
        let tenant = world.tenant();
        let mut options = PodOptions::new(&[v4(1)]);
        options.lanes = lanes_a;
        let a = world.pod(&tenant, options.clone());
        (options.addresses, options.lanes) = (vec![v4(2)], lanes_b);
        let b = world.pod(&tenant, options);
        let talk = |world: &mut World| -> Vec<u64> {
            let there = (0..8).map(|flow| world.send_flow(a, (v4(1), 40_000 + flow), (v4(2), 7), 64));
            there.collect()
        };
        for _ in 0..3 {
            talk(&mut world);
            world.run_for(ms(500));
        }
        world.restart_with(b, lanes_after);
        for _ in 0..100 {
            talk(&mut world);
            world.run_for(ms(10));
        }
        let numbers = talk(&mut world);
        world.run_for(ms(50));
        let heard = numbers.iter().filter(|number| world.model().is_delivered(**number)).count();
        assert_eq!(heard, numbers.len(), "lanes {lanes_a}, {lanes_b} and then {lanes_after}");
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn a_service_whose_pod_restarts_is_back_within_a_second_and_stays() {
    for restarted_speaks in [false, true] {
        let mut world = World::new(1, Weather::CLEAR);
        let tenant = world.tenant();
        let a = world.pod(&tenant, PodOptions::new(&[v4(1)]));
        let b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
        world.vip(VIP, v4(2));
        assert!(is_heard_within_a_second(&mut world, a, VIP));
        world.restart(b);
        if restarted_speaks {
            // Now its own address belongs to its new identity, and the service to the old one.
            world.send(b, v4(1), 100);
            world.run_for(ms(100));
        }
        assert!(is_heard_within_a_second(&mut world, a, VIP));
        let before = world.tunnel_of(a).stats().handshakes;
        let numbers: Vec<u64> = (0..1_000)
            .map(|_| {
                let number = world.send(a, VIP, 100);
                world.run_for(ms(10));
                number
            })
            .collect();
        let lost = numbers.iter().filter(|number| !world.model().is_delivered(**number)).count();
        assert_eq!(lost, 0);
        assert!(world.tunnel_of(a).stats().handshakes <= before + 1, "handshakes without end");
    }
}

#[test]
fn a_replayed_reset_does_not_move_a_service_to_another_pod() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let a = world.pod(&tenant, PodOptions::new(&[v4(1)]));
    let b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
    world.pod(&tenant, PodOptions::new(&[v4(3)]));
    world.vip(VIP, v4(2));
    assert!(is_heard_within_a_second(&mut world, a, VIP));
    let index = live_index(&mut world, a, VIP);
    // The next INIT to the service would find another pod.
    world.vip(VIP, v4(3));
    let before = world.tunnel_of(a).stats().handshakes;
    world.inject(a, SocketAddr::new(v4(2), 8362), write_reset(tenant.keys(), index, 1).to_vec());
    world.run_for(ms(2_000));
    assert_eq!(world.tunnel_of(a).stats().handshakes, before + 1, "the pod itself was asked");
    let held_by = world.tunnel_of(b).peer_id();
    assert_eq!(world.tunnel_of(a).classify(VIP, world.now()), Verdict::Encrypt(held_by));
}

#[test]
fn a_reset_that_no_member_made_does_nothing() {
    let mut world = World::new(1, Weather::CLEAR);
    let (tenant, a, _) = two(&mut world);
    let other = world.tenant();
    let from = SocketAddr::new(v4(2), 8362);
    let index = live_index(&mut world, a, v4(2));
    let genuine = write_reset(tenant.keys(), index, 1);
    // Until both have said that they are there.
    world.run_for(ms(3_000));
    world.capture();
    let before = *world.tunnel_of(a).stats();
    for bit in 0..genuine.len() * 8 {
        let mut forged = genuine;
        forged[bit / 8] ^= 1 << (bit % 8);
        world.inject(a, from, forged.to_vec());
    }
    world.inject(a, from, write_reset(other.keys(), index, 1).to_vec());
    for len in 1..genuine.len() {
        world.inject(a, from, genuine[..len].to_vec());
    }
    // Under an epoch that the pod does not hold; and for a session that it does not send on.
    world.inject(a, from, write_reset(tenant.with(&[1, 2], 2).keys(), index, 1).to_vec());
    let unknown = SessionIndex::from_u32(index.as_u32() ^ 2).expect("not 0");
    world.inject(a, from, write_reset(tenant.keys(), unknown, 1).to_vec());
    world.run_for(ms(2_000));
    let stats = *world.tunnel_of(a).stats();
    assert!(world.captured().is_empty(), "something was answered");
    assert_eq!(stats.handshakes, before.handshakes);
    assert_eq!(stats.dropped_total() - before.dropped_total(), 32 * 8 + 1 + 31 + 2);
    assert_eq!(stats.dropped(DropReason::UnknownIndex) - before.dropped(DropReason::UnknownIndex), 1);
    // The genuine one does something, whatever address it comes from: the test would see it.
    world.inject(a, SocketAddr::new(v4(77), 1), genuine.to_vec());
    world.run_for(ms(50));
    assert_eq!(world.tunnel_of(a).stats().handshakes, before.handshakes + 1);
}

#[test]
fn a_replayed_reset_costs_a_handshake_a_second_at_most_and_kills_nothing() {
    let mut world = World::new(1, Weather::CLEAR);
    let (tenant, a, b) = two(&mut world);
    let from = SocketAddr::new(v4(2), 8362);
    let first = live_index(&mut world, a, v4(2));
    let replayed = write_reset(tenant.keys(), first, 1).to_vec();
    let before = world.tunnel_of(a).stats().handshakes;
    world.capture();
    let mut numbers = Vec::new();
    for _ in 0..1_000 {
        // The same one again and again, and fresh ones for whatever is live, as a member could make them.
        world.inject(a, from, replayed.clone());
        numbers.push(world.send(a, v4(2), 100));
        let captured = world.captured();
        let record = captured.iter().rfind(|(_, to, bytes)| to.ip() == v4(2) && bytes[0] == DATA);
        if let Some((.., record)) = record {
            let index = u32::from_le_bytes([record[4], record[5], record[6], record[7]]);
            let live = SessionIndex::from_u32(index).expect("an index");
            world.inject(a, from, write_reset(tenant.keys(), live, 7).to_vec());
        }
        numbers.push(world.send(b, v4(1), 100));
        world.run_for(ms(10));
    }
    assert!(numbers.iter().all(|number| world.model().is_delivered(*number)), "a packet was lost");
    let handshakes = world.tunnel_of(a).stats().handshakes - before;
    assert!((1..=11).contains(&handshakes), "{handshakes} handshakes in 10 s");
    assert!(world.tunnel_of(a).stats().dropped(DropReason::RateLimited) >= 900);
    assert_eq!(world.model().violations(), []);
}

#[test]
fn a_reset_for_a_peer_that_is_gone_leaves_the_old_session_open_and_asks_in_bounds() {
    let mut world = World::new(1, Weather::CLEAR);
    let (tenant, a, b) = two(&mut world);
    let index = live_index(&mut world, a, v4(2));
    // What the peer sent before the network broke, to be delivered afterwards.
    world.weather(Weather { loss: 100, ..Weather::CLEAR });
    world.capture();
    let late = world.send(b, v4(1), 100);
    let record = world.captured().pop().expect("a record").2;
    for number in 0..500 {
        world.inject(a, SocketAddr::new(v4(2), 8362), write_reset(tenant.keys(), index, number).to_vec());
        world.run_for(ms(10));
    }
    let inits = of_type(&world.captured(), INIT);
    assert!((1..=20).contains(&inits), "{inits} INITs in 5 s");
    world.inject(a, SocketAddr::new(v4(2), 8362), record);
    assert!(world.model().is_delivered(late), "the old session does not open any more");
}

#[test]
fn two_that_know_nothing_of_each_other_do_not_go_on_shouting() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let a = world.pod(&tenant, PodOptions::new(&[v4(1)]));
    let b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
    world.capture();
    // Forged both ways for a second: a record of nobody's, from the other's address.
    for number in 0..1_000 {
        world.inject(a, SocketAddr::new(v4(2), 8362), record(2 * number, 32));
        world.inject(b, SocketAddr::new(v4(1), 8362), record(2 * number, 32));
        world.run_for(ms(1));
    }
    let captured = world.captured();
    assert_eq!((captured.len(), of_type(&captured, RESET)), (20, 20), "10 a second each way");
    world.run_for(Duration::from_secs(60));
    assert!(world.captured().is_empty(), "they go on by themselves");
    for pod in [a, b] {
        let stats = world.tunnel_of(pod).stats();
        assert_eq!(stats.dropped(DropReason::UnknownIndex), 1_000 + 10);
        assert_eq!(stats.handshakes, 0);
    }
}

#[test]
fn a_storm_of_records_is_answered_in_bounds_and_only_to_addresses_that_may_be_of_the_tenant() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let mut options = PodOptions::new(&[v4(1)]);
    options.facts = vec![
        Fact::new(IpAddr::from([192, 0, 2, 7]), Class::Internal, FactSource::Static, None),
        Fact::new(IpAddr::from([10, 9, 0, 9]), Class::External, FactSource::Static, None),
    ];
    let a = world.pod(&tenant, options);
    world.capture();
    for number in 0..10_000_u32 {
        let [.., high, low] = number.to_be_bytes();
        world.inject(a, SocketAddr::new(IpAddr::from([10, 2, high, low]), 8362), record(number, 32));
    }
    let captured = world.captured();
    assert_eq!(captured.len(), 128);
    assert!(captured.iter().all(|(.., bytes)| bytes[0] == RESET && bytes.len() == 32));
    world.run_for(ms(1_000));
    let cases = [
        ([192, 0, 2, 7], true),
        ([192, 0, 2, 8], false),
        ([10, 9, 0, 9], false),
        ([10, 9, 0, 8], true),
        ([224, 0, 0, 1], false),
        ([127, 0, 0, 1], false),
    ];
    for (source, answered) in cases {
        world.captured();
        world.inject(a, SocketAddr::new(IpAddr::from(source), 8362), record(9, 1_000));
        assert_eq!(world.captured().len(), usize::from(answered), "{source:?}");
    }
    // Another lane knows its sessions itself.
    let mut other_lane = record(9, 32);
    other_lane[7] |= 0x10;
    world.run_for(ms(1_000));
    world.inject(a, SocketAddr::new(v4(2), 8362), other_lane);
    assert!(world.captured().is_empty());
}

/// After that only those get one that are known to be of the tenant, by a fact or since they have proven it.
#[test]
fn strangers_get_resets_only_as_long_as_sessions_of_before_a_start_may_live() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let mut options = PodOptions::new(&[v4(1)]);
    let (known, stranger, claimed) = (v4(7), v4(8), IpAddr::from([10, 9, 0, 9]));
    options.facts = vec![
        Fact::new(known, Class::Internal, FactSource::Static, None),
        Fact::new(claimed, Class::External, FactSource::Dns("other.test".into()), None),
    ];
    let a = world.pod(&tenant, options);
    world.pod(&tenant, PodOptions::new(&[v4(2)]));
    world.capture();
    let is_answered = |world: &mut World, source: IpAddr| {
        world.run_for(ms(200));
        world.captured();
        world.inject(a, SocketAddr::new(source, 8362), record(9, 1_000));
        of_type(&world.captured(), RESET) == 1
    };
    assert!(is_answered(&mut world, stranger) && is_answered(&mut world, known));
    assert!(!is_answered(&mut world, claimed));
    world.run_for(Duration::from_secs(180));
    world.send(a, v4(2), 100);
    world.run_for(ms(100));
    assert!(!is_answered(&mut world, stranger) && !is_answered(&mut world, claimed));
    assert!(is_answered(&mut world, known) && is_answered(&mut world, v4(2)));
    // It forgets its sessions: others may send on theirs.
    world.renew(a, 9);
    assert!(is_answered(&mut world, stranger));
}
