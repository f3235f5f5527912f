//! Pods with several lanes, alike and not: every lane of one reaches the other, both ways, through rekeys, restarts and
//! bad weather.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tencrypt::{
    DropReason, Tunnel,
    directory::{Class, Fact, FactSource},
    record::SessionIndex,
};
use tencrypt_sim::{PodId, PodOptions, Weather, World, seeds};

const SEEDS: u64 = 200;
const PORT: u16 = 8362;
const LANES: [u8; 3] = [1, 2, 3];
/// More flows than lanes, so that every lane has one.
const FLOWS: u16 = 6;
const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

fn v6(pod: u8) -> IpAddr {
    IpAddr::from([0xfd00, 1, 0, 0, 0, 0, 0, u16::from(pod)])
}

fn pairs() -> impl Iterator<Item = (u8, u8)> {
    LANES.into_iter().flat_map(|a| LANES.into_iter().map(move |b| (a, b)))
}

fn two(world: &mut World, lanes: (u8, u8)) -> (PodId, PodId) {
    let tenant = world.tenant();
    let mut pod = |pod: u8, other: u8, lanes: u8| {
        let mut options = PodOptions::new(&[v4(pod), v6(pod)]);
        options.lanes = lanes;
        options.facts = [v4(other), v6(other)]
            .map(|address| Fact::new(address, Class::Internal, FactSource::Static, None))
            .to_vec();
        world.pod(&tenant, options)
    };
    (pod(1, 2, lanes.0), pod(2, 1, lanes.1))
}

fn all(world: &World, pod: PodId, what: impl Fn(&Tunnel) -> u64) -> u64 {
    world.lanes_of(pod).iter().map(what).sum()
}

/// A packet of every flow, there and back: from, the numbers of the packets.
fn talk(world: &mut World, (a, b): (PodId, PodId)) -> Vec<u64> {
    (0..FLOWS)
        .flat_map(|flow| {
            [
                world.send_flow(a, (v4(1), 40_000 + flow), (v4(2), 7), 64),
                world.send_flow(b, (v4(2), 7), (v4(1), 40_000 + flow), 64),
                world.send_flow(a, (v6(1), 40_000 + flow), (v6(2), 7), 64),
            ]
        })
        .collect()
}

#[test]
fn every_lane_talks_from_and_to_a_port_of_its_own() {
    for (lanes_a, lanes_b) in pairs() {
        let mut world = World::new(1, Weather::CLEAR);
        let (a, b) = two(&mut world, (lanes_a, lanes_b));
        world.capture();
        for _ in 0..2 {
            let numbers = talk(&mut world, (a, b));
            world.run_for(Duration::from_secs(1));
            let missing = numbers.iter().filter(|number| !world.model().is_delivered(**number)).count();
            assert_eq!(missing, 0, "{lanes_a} lanes and {lanes_b}");
        }
        let captured = world.captured();
        let ports = |from: IpAddr, data: bool| -> BTreeSet<u16> {
            let of =
                captured.iter().filter(|(source, _, bytes)| source.ip() == from && (bytes[0] == 4) == data);
            of.map(|(source, _, _)| source.port()).collect()
        };
        for (address, lanes) in [(v4(1), lanes_a), (v4(2), lanes_b)] {
            let expected: BTreeSet<u16> = (0..u16::from(lanes)).map(|lane| PORT + lane).collect();
            assert_eq!(ports(address, true), expected, "{lanes_a} lanes and {lanes_b}");
        }
        for (from, to, bytes) in &captured {
            match (bytes[0], SessionIndex::lane_of_init(bytes)) {
                (1, Some(lane)) => assert_eq!((from.port(), to.port()), (PORT + u16::from(lane), PORT)),
                // What was translated on the way would not come back from anywhere else.
                (2, _) => assert_eq!(from.port(), PORT),
                // The index says whose it is.
                (3, _) => assert_eq!(to.port() - PORT, u16::from(bytes[11] >> 4)),
                (4, _) => assert_eq!(to.port() - PORT, u16::from(bytes[7] >> 4)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(world.model().violations(), []);
        // No lane has more than one handshake with another of either side, and no more of them than lanes meet.
        let handshakes = all(&world, a, |tunnel| tunnel.stats().handshakes);
        assert!(handshakes <= 2 * u64::from(lanes_a.max(lanes_b)), "{handshakes} of {lanes_a} and {lanes_b}");
    }
}

#[test]
fn sessions_of_all_lanes_are_replaced_in_time_without_losing_a_packet() {
    for (lanes_a, lanes_b) in pairs() {
        let mut world = World::new(2, Weather::CLEAR);
        let (a, b) = two(&mut world, (lanes_a, lanes_b));
        let mut numbers = Vec::new();
        for _ in 0..200 {
            numbers.extend(talk(&mut world, (a, b)));
            world.run_for(Duration::from_secs(2));
        }
        let missing = numbers.iter().filter(|number| !world.model().is_delivered(**number)).count();
        assert_eq!(missing, 0, "{lanes_a} lanes and {lanes_b}");
        for pod in [a, b] {
            assert_eq!(all(&world, pod, |tunnel| tunnel.stats().dropped_total()), 0, "{lanes_a}, {lanes_b}");
        }
        let handshakes = all(&world, a, |tunnel| tunnel.stats().handshakes);
        let meetings = u64::from(lanes_a.max(lanes_b));
        // As many in 400 s as a single lane has, of each of two families at the start.
        assert!(handshakes <= 6 * meetings, "{handshakes} handshakes of {lanes_a} lanes and {lanes_b}");
        assert_eq!(world.model().violations(), []);
    }
}

#[test]
fn a_lane_that_only_hears_from_another_keeps_it_satisfied() {
    // One lane here answers on one session; the lane there that gets no answers must not take it for dead.
    let mut world = World::new(3, Weather::CLEAR);
    let (a, b) = two(&mut world, (2, 1));
    for _ in 0..2 {
        talk(&mut world, (a, b));
        world.run_for(Duration::from_secs(1));
    }
    let before = all(&world, b, |tunnel| tunnel.stats().handshakes);
    for _ in 0..50 {
        for flow in 0..FLOWS {
            world.send_flow(a, (v4(1), 40_000 + flow), (v4(2), 7), 64);
        }
        world.run_for(Duration::from_secs(2));
    }
    assert_eq!(all(&world, b, |tunnel| tunnel.stats().handshakes), before, "handshakes within 100 s");
}

#[test]
fn answers_of_a_service_find_their_translation_whichever_lane_they_take() {
    for (lanes_a, lanes_b) in pairs() {
        let mut world = World::new(4, Weather::CLEAR);
        let (a, b) = two(&mut world, (lanes_a, lanes_b));
        world.vip(VIP, v4(2));
        for _ in 0..2 {
            for flow in 0..FLOWS {
                let question = world.send_flow(a, (v4(1), 41_000 + flow), (VIP, 7), 64);
                world.run_for(Duration::from_millis(50));
                assert!(world.model().is_delivered(question), "{lanes_a} lanes and {lanes_b}: flow {flow}");
                let answer = world.send_flow(b, (v4(2), 7), (v4(1), 41_000 + flow), 64);
                world.run_for(Duration::from_millis(50));
                assert_eq!(
                    world.model().source_of(answer),
                    Some(VIP),
                    "{lanes_a} and {lanes_b}: flow {flow}"
                );
            }
            // Long enough for every session to have ended.
            world.run_for(Duration::from_secs(200));
        }
        assert_eq!(world.model().violations(), []);
        assert_eq!(all(&world, b, |tunnel| tunnel.stats().dropped(DropReason::InnerDestination)), 0);
    }
}

/// Both know of the service; `a` chooses the pod behind it.
fn calling(world: &mut World, lanes: (u8, u8)) -> (PodId, PodId) {
    let tenant = world.tenant();
    let mut pod = |own: u8, other: u8, lanes: u8| {
        let mut options = PodOptions::new(&[v4(own)]);
        options.lanes = lanes;
        options.facts = vec![Fact::new(v4(other), Class::Internal, FactSource::Static, None)];
        if own == 1 {
            let mut service = Fact::new(VIP, Class::Internal, FactSource::Static, None);
            service.endpoints = [v4(2)].into();
            options.facts.push(service);
        }
        world.pod(&tenant, options)
    };
    (pod(1, 2, lanes.0), pod(2, 1, lanes.1))
}

/// A flow to the service whose answers come to another lane of `pod` than its questions, which are a one-lane pod's and
/// so come to the first.
fn crossing(world: &World, pod: PodId) -> u16 {
    let crosses = |port: &u16| world.lane_of(pod, (v4(2), 7), (v4(1), *port)) != 0;
    (41_000..41_100).find(crosses).expect("the hash tells the two apart")
}

#[test]
fn a_lane_that_only_meets_answers_translates_them() {
    for (lanes_a, lanes_b) in pairs() {
        let mut world = World::new(5, Weather::CLEAR);
        let (a, b) = calling(&mut world, (lanes_a, lanes_b));
        for flow in 0..FLOWS {
            let client = (v4(1), 42_000 + flow);
            world.send_flow(a, client, (VIP, 7), 64);
            world.run_for(Duration::from_millis(50));
            for _ in 0..3 {
                let answer = world.send_flow(b, (v4(2), 7), client, 64);
                world.run_for(Duration::from_millis(50));
                assert_eq!(world.model().source_of(answer), Some(VIP), "{lanes_a}, {lanes_b}: flow {flow}");
            }
        }
    }
}

#[test]
fn a_flow_in_one_direction_does_not_end_in_the_lane_that_will_see_its_answer() {
    let mut world = World::new(6, Weather::CLEAR);
    let (a, b) = two(&mut world, (1, 2));
    world.vip(VIP, v4(2));
    let client = (v4(1), crossing(&world, b));
    // Five times as long as a datagram's flow may be idle.
    for _ in 0..60 {
        world.send_flow(a, client, (VIP, 7), 64);
        world.run_for(Duration::from_secs(10));
    }
    let answer = world.send_flow(b, (v4(2), 7), client, 64);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.model().source_of(answer), Some(VIP));
    assert_eq!(world.model().violations(), []);
}

#[test]
fn news_that_were_lost_are_told_again_while_the_flow_lives() {
    let mut world = World::new(7, Weather::CLEAR);
    let (a, b) = two(&mut world, (1, 2));
    world.vip(VIP, v4(2));
    let client = (v4(1), crossing(&world, b));
    // Sessions first: what is lost below is updates of the flow.
    talk(&mut world, (a, b));
    world.run_for(Duration::from_secs(1));
    world.lose_lane_updates(true);
    let first = world.send_flow(a, client, (VIP, 7), 64);
    world.run_for(Duration::from_secs(1));
    assert!(world.model().is_delivered(first));
    let answer = world.send_flow(b, (v4(2), 7), client, 64);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.model().source_of(answer), Some(v4(2)), "the loss is not seen");
    world.lose_lane_updates(false);
    // Half of the time that a datagram's flow may be idle.
    for _ in 0..7 {
        world.send_flow(a, client, (VIP, 7), 64);
        world.run_for(Duration::from_secs(10));
    }
    let answer = world.send_flow(b, (v4(2), 7), client, 64);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.model().source_of(answer), Some(VIP));
    assert_eq!(world.model().violations(), [], "nothing came out twice or elsewhere");
}

#[test]
fn pods_with_any_number_of_lanes_recover_from_bad_weather_and_restarts() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let mut pick = || LANES[world.random().below(3) as usize];
        let lanes = (pick(), pick());
        let (a, b) = two(&mut world, lanes);
        let weather = Weather {
            loss: world.random().below(40) as u8,
            duplicate: world.random().below(20) as u8,
            delay: Duration::from_micros(100),
            jitter: world.random().duration(Duration::from_millis(30)),
        };
        world.weather(weather);
        for round in 0..20 {
            talk(&mut world, (a, b));
            if round % 7 == 6 {
                // The program comes back with another configuration.
                let victim = if world.random().chance(50) { a } else { b };
                let lanes = LANES[world.random().below(3) as usize];
                world.restart_with(victim, lanes);
            }
            // Now and then long enough for a rekey, or for everything to end.
            let pause = if world.random().chance(20) { 190_000 } else { 700 };
            let pause = world.random().duration(Duration::from_millis(pause));
            world.run_for(pause);
        }
        world.weather(Weather::CLEAR);
        let mut unheard = 0;
        // A dead peer is noticed after 15 s, a silent destination asked again within one more, by each lane for itself.
        while {
            let numbers = talk(&mut world, (a, b));
            world.run_for(Duration::from_secs(1));
            !numbers.iter().all(|number| world.model().is_delivered(*number))
        } {
            unheard += 1;
            assert!(unheard < 60, "seed {seed}: not every flow is heard again");
        }
        let violations = world.model().violations();
        assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    }
}

/// Lanes share neither sessions nor replay windows: of two threads that are given the same record, one has its key.
#[test]
fn a_record_that_every_lane_is_given_is_delivered_once() {
    let mut world = World::new(1, Weather::CLEAR);
    let (a, b) = two(&mut world, (3, 3));
    talk(&mut world, (a, b));
    world.run_for(Duration::from_secs(1));
    world.weather(Weather { loss: 100, ..Weather::CLEAR });
    for flow in 0..6 {
        world.capture();
        let number = world.send_flow(a, (v4(1), 40_000 + flow), (v4(2), 7), 64);
        let (from, to, record) = world.captured().pop().expect("a record");
        let unknown =
            |world: &World| all(world, b, |tunnel| tunnel.stats().dropped(DropReason::UnknownIndex));
        let replays = |world: &World| all(world, b, |tunnel| tunnel.stats().dropped(DropReason::Replay));
        let before = (all(&world, b, |tunnel| tunnel.stats().decrypted), unknown(&world), replays(&world));
        for round in 0..4 {
            (0..3).for_each(|lane| world.inject_at(b, lane, from, record.clone()));
            assert!(world.model().is_delivered(number));
            let after = (all(&world, b, |tunnel| tunnel.stats().decrypted), unknown(&world), replays(&world));
            assert_eq!(after, (before.0 + 1, before.1 + 2 * (round + 1), before.2 + round), "to {to}");
        }
        // Of a session of another lane nothing is disclaimed.
        assert!(world.captured().is_empty());
    }
    assert_eq!(world.model().violations(), []);
}
