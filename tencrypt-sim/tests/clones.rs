//! A machine that was restored twice, stood still, or whose clock went back: no key meets one nonce twice, and traffic
//! comes back by itself.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt::{
    DropReason, Event,
    directory::{Class, Fact, FactSource},
};
use tencrypt_sim::{PodId, PodOptions, Weather, World, seeds};

const SEEDS: u64 = 30;
const INIT: u8 = 1;
const RESP: u8 = 2;
const DATA: u8 = 4;
/// Header of a record, and of an inner packet over IPv4 and UDP.
const RECORD: usize = 16;
const INNER: usize = 28;
/// The place of the inner UDP checksum.
const CHECKSUM: std::ops::Range<usize> = 26..28;
/// The part of a payload that all packets have in common: its number, and the canary.
const COMMON: usize = 8 + 20;

type Captured = Vec<(SocketAddr, SocketAddr, Vec<u8>)>;

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Two pods with a session that has carried packets both ways: everything follows from the seed, so two calls are one
/// snapshot restored twice.
fn restored(seed: u64, lanes: u8) -> (World, PodId, PodId) {
    let mut world = World::new(seed, Weather::CLEAR);
    let tenant = world.tenant();
    let mut options = PodOptions::new(&[v4(1)]);
    options.lanes = lanes;
    let a = world.pod(&tenant, options.clone());
    options.addresses = vec![v4(2)];
    let b = world.pod(&tenant, options);
    for flow in 0..4 * u16::from(lanes) {
        world.send_flow(a, (v4(1), 40_000 + flow), (v4(2), 7), 100);
        world.run_for(ms(50));
        world.send_flow(b, (v4(2), 50_000 + flow), (v4(1), 7), 100);
        world.run_for(ms(50));
    }
    assert_eq!(world.model().violations(), []);
    world.capture();
    (world, a, b)
}

/// Lets both pods talk for a second, with payloads that `other` makes different ones. Returns what they sent.
fn talk(world: &mut World, a: PodId, b: PodId, other: bool) -> Captured {
    if other {
        world.random().bits();
    }
    for _ in 0..50 {
        world.send(a, v4(2), 200);
        world.send(b, v4(1), 200);
        world.run_for(ms(20));
    }
    world.captured()
}

/// Records by who is to open them, with which session and counter: what decides key and nonce, as far as an observer
/// sees.
fn records(captured: &Captured) -> BTreeMap<(SocketAddr, [u8; 12]), Vec<u8>> {
    let records = captured.iter().filter(|(.., bytes)| bytes[0] == DATA);
    records
        .map(|(_, to, bytes)| {
            let mut place = [0; 12];
            place.copy_from_slice(&bytes[4..RECORD]);
            ((*to, place), bytes.clone())
        })
        .collect()
}

/// Nonces that both copies used, for different records.
fn used_twice(one: &Captured, other: &Captured) -> Vec<(Vec<u8>, Vec<u8>)> {
    let other = records(other);
    let shared =
        records(one).into_iter().filter_map(|(place, bytes)| Some((bytes, other.get(&place)?.clone())));
    shared.filter(|(one, other)| one != other).collect()
}

/// The ephemeral keys of handshake messages, in the clear (docs/wire-format.md section 4).
fn ephemerals(captured: &Captured) -> Vec<&[u8]> {
    captured
        .iter()
        .filter(|(.., bytes)| [INIT, RESP].contains(&bytes[0]))
        .map(|(.., bytes)| &bytes[12..44])
        .collect()
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
fn copies_that_nobody_tells_use_one_key_and_nonce_for_two_packets() {
    // The positive control: this is what must not happen, and the tests below would see it.
    let [one, other] = [false, true].map(|other| {
        let (mut world, a, b) = restored(1, 1);
        talk(&mut world, a, b, other)
    });
    let twice = used_twice(&one, &other);
    assert!(twice.len() >= 50, "{} nonces were used twice", twice.len());
    for (one, other) in twice.iter().filter(|(one, other)| one.len() == 232 && other.len() == 232) {
        // The same key stream: ciphertexts agree where the packets do, and differ where those differ.
        let differs = |at: usize| one[RECORD + at] != other[RECORD + at];
        assert!((0..CHECKSUM.start).chain(INNER..INNER + COMMON).all(|at| !differs(at)));
        assert!((INNER + COMMON..200).filter(|at| differs(*at)).count() > 100);
    }
}

#[test]
fn copies_that_start_over_share_no_nonce_no_ephemeral_key_and_no_identity() {
    for seed in seeds(SEEDS) {
        let mut before = Vec::new();
        let [one, other] = [false, true].map(|other| {
            let (mut world, a, b) = restored(seed, 1);
            before = [a, b].map(|pod| world.tunnel_of(pod).peer_id()).to_vec();
            world.renew(a, 2 * seed + u64::from(other));
            world.renew(b, 9_000 + 2 * seed + u64::from(other));
            let captured = talk(&mut world, a, b, other);
            assert_eq!(world.model().violations(), [], "seed {seed}");
            let heard = is_heard_within_a_second(&mut world, a, v4(2))
                && is_heard_within_a_second(&mut world, b, v4(1));
            assert!(heard, "seed {seed}");
            (captured, [a, b].map(|pod| world.tunnel_of(pod).peer_id()))
        });
        assert!(records(&one.0).len() > 50 && records(&other.0).len() > 50, "seed {seed}: they talked");
        assert_eq!(used_twice(&one.0, &other.0), [], "seed {seed}");
        assert!(ephemerals(&one.0).len() >= 2);
        assert!(ephemerals(&one.0).iter().all(|key| !ephemerals(&other.0).contains(key)), "seed {seed}");
        for (pod, before) in before.iter().enumerate() {
            assert_ne!(one.1[pod], other.1[pod], "seed {seed}");
            assert!(![one.1[pod], other.1[pod]].contains(before), "seed {seed}");
        }
    }
    // It is the fresh seed that does it: with one and the same, copies go on as one.
    let [one, other] = [false, true].map(|other| {
        let (mut world, a, b) = restored(1, 1);
        world.renew(a, 7);
        world.renew(b, 8);
        talk(&mut world, a, b, other)
    });
    assert!(!used_twice(&one, &other).is_empty());
}

#[test]
fn a_pod_that_starts_over_seals_nothing_under_an_old_index_and_is_back_within_a_second() {
    for seed in seeds(SEEDS) {
        for (lanes, quiet) in [(1, false), (1, true), (3, false)] {
            let (mut world, a, b) = restored(seed, lanes);
            world.weather(Weather { loss: 5, duplicate: 5, delay: ms(1), jitter: ms(5) });
            talk(&mut world, a, b, false);
            let old: Vec<[u8; 4]> = records(&talk(&mut world, a, b, false))
                .into_keys()
                .filter(|(to, _)| to.ip() == v4(2))
                .map(|(_, place)| [place[0], place[1], place[2], place[3]])
                .collect();
            assert!(!old.is_empty());
            world.renew(a, seed);
            let identities: Vec<_> = world.lanes_of(a).iter().map(|lane| lane.peer_id()).collect();
            assert!(identities.iter().all(|identity| *identity == identities[0]), "lanes are one member");
            assert!(world.events_of(a).iter().any(|event| matches!(event, Event::PeerDown { .. })));
            world.captured();
            // The other side speaks first, on the session it still has; or it is spoken to.
            let heard = if quiet {
                is_heard_within_a_second(&mut world, a, v4(2))
            } else {
                is_heard_within_a_second(&mut world, b, v4(1))
            };
            assert!(heard, "seed {seed}, {lanes} lanes");
            world.weather(Weather::CLEAR);
            let sent = talk(&mut world, a, b, false);
            let from_a = sent.iter().filter(|(from, _, bytes)| from.ip() == v4(1) && bytes[0] == DATA);
            let again = from_a.filter(|(.., bytes)| old.iter().any(|index| bytes[4..8] == *index)).count();
            assert_eq!(again, 0, "seed {seed}, {lanes} lanes");
            assert_eq!(world.model().violations(), [], "seed {seed}, {lanes} lanes");
        }
    }
}

#[test]
fn packets_that_waited_for_a_handshake_are_dropped_and_counted_and_the_next_one_asks() {
    let mut world = World::new(1, Weather { loss: 100, ..Weather::CLEAR });
    let tenant = world.tenant();
    let a = world.pod(&tenant, PodOptions::new(&[v4(1)]));
    world.pod(&tenant, PodOptions::new(&[v4(2)]));
    for _ in 0..5 {
        world.send(a, v4(2), 100);
    }
    assert_eq!(world.tunnel_of(a).stats().held, 5);
    world.capture();
    world.renew(a, 1);
    assert_eq!(world.tunnel_of(a).stats().dropped(DropReason::HeldTimeout), 5);
    world.run_for(Duration::from_secs(10));
    assert!(world.captured().is_empty(), "nothing of the old identity leaves any more");
    world.weather(Weather::CLEAR);
    assert!(is_heard_within_a_second(&mut world, a, v4(2)));
    assert_eq!(world.model().violations(), []);
}

#[test]
fn flows_to_services_stay_and_end_in_their_time() {
    let vip = IpAddr::from([10, 96, 0, 10]);
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let mut service = Fact::new(vip, Class::Internal, FactSource::Static, None);
    service.endpoints = [v4(2)].into();
    let mut options = PodOptions::new(&[v4(1)]);
    options.facts = vec![service];
    let a = world.pod(&tenant, options);
    world.pod(&tenant, PodOptions::new(&[v4(2)]));
    world.vip(vip, v4(2));
    assert!(is_heard_within_a_second(&mut world, a, vip));
    world.renew(a, 1);
    assert!(world.tunnel_of(a).next_timeout().is_some(), "the flow's own end is waited for");
    assert!(is_heard_within_a_second(&mut world, a, vip));
    assert_eq!(world.model().violations(), []);
}

#[test]
fn after_a_pause_longer_than_a_sessions_life_there_is_a_fresh_handshake() {
    for pause in [1, 119, 121, 179, 181, 600, 36_000] {
        let (mut world, a, b) = restored(1, 1);
        let before = world.tunnel_of(a).stats().handshakes;
        let old = records(&talk(&mut world, a, b, false));
        // Nobody looks meanwhile: then all that is due is due at once.
        world.set_clock(world.now() + Duration::from_secs(pause));
        assert!(is_heard_within_a_second(&mut world, a, v4(2)), "{pause} s");
        assert!(is_heard_within_a_second(&mut world, b, v4(1)), "{pause} s");
        let new = records(&talk(&mut world, a, b, false));
        let goes_on = new.keys().any(|(_, place)| old.keys().any(|(_, before)| before[..4] == place[..4]));
        assert!(pause <= 180 || !goes_on, "{pause} s: keys outlived their time");
        assert!(pause >= 120 || world.tunnel_of(a).stats().handshakes == before, "{pause} s");
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn a_clock_that_goes_back_harms_nobody_and_traffic_goes_on() {
    for seed in seeds(SEEDS) {
        let (mut world, a, b) = restored(seed, 2);
        let start = world.now();
        for step in 0..40 {
            // Back and forth within a minute, in the middle of handshakes too.
            let at = start + world.random().duration(Duration::from_secs(60));
            world.set_clock(at);
            if step % 8 == 0 {
                world.renew(b, step);
            }
            world.send(a, v4(2), 100);
            world.send(b, v4(1), 100);
            world.run_for(ms(5));
        }
        // What was set at a later time than now is due then.
        world.run_for(Duration::from_secs(61));
        assert!(is_heard_within_a_second(&mut world, a, v4(2)), "seed {seed}");
        assert!(is_heard_within_a_second(&mut world, b, v4(1)), "seed {seed}");
        assert_eq!(world.model().violations(), [], "seed {seed}");
    }
}
