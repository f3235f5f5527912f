//! A thousand seeds: pods of two tenants in bad weather. Whatever the network does, a packet comes out at most once,
//! unaltered, at its own destination, and traffic recovers when the weather clears.

use std::{net::IpAddr, time::Duration};

use tencrypt::{
    CipherSuite,
    directory::{Class, Fact, FactSource},
};
use tencrypt_sim::{PodId, PodOptions, Weather, World, seeds};

const SEEDS: u64 = 1_000;

fn address(tenant: u8, pod: u8) -> IpAddr {
    IpAddr::from([10, tenant, 0, pod])
}

fn address_v6(tenant: u8, pod: u8) -> IpAddr {
    IpAddr::from([0xfd00, u16::from(tenant), 0, 0, 0, 0, 0, u16::from(pod)])
}

/// Pods of one tenant that know each other to be internal, as DNS would tell them.
fn pods(world: &mut World, tenant: u8, count: u8) -> Vec<PodId> {
    let keys = world.tenant();
    // The suites take turns: two of four are hybrid, and their INIT and RESP five times as long.
    let suite = CipherSuite::ALL[world.random().below(CipherSuite::ALL.len() as u64) as usize];
    (1..=count)
        .map(|pod| {
            let mut options = PodOptions::new(&[address(tenant, pod), address_v6(tenant, pod)]);
            options.facts = (1..=count)
                .filter(|other| *other != pod)
                .map(|other| Fact::new(address(tenant, other), Class::Internal, FactSource::Static, None))
                .collect();
            options.suite = suite;
            world.pod(&keys, options)
        })
        .collect()
}

/// Random sends for a while, then clear weather; returns after every pair has been heard.
fn storm(world: &mut World, tenants: &[(u8, Vec<PodId>)], restarts: bool, seed: u64) {
    for round in 0..20 {
        for (tenant, pods) in tenants {
            for (at, from) in pods.iter().enumerate() {
                let to = world.random().below(pods.len() as u64) as usize;
                if to == at {
                    continue;
                }
                let target = if world.random().chance(30) {
                    address_v6(*tenant, to as u8 + 1)
                } else {
                    address(*tenant, to as u8 + 1)
                };
                let size = 28 + world.random().below(1_200) as usize;
                world.send(*from, target, size);
            }
        }
        if restarts && round % 7 == 6 {
            let (_, pods) = &tenants[world.random().below(tenants.len() as u64) as usize];
            let victim = pods[world.random().below(pods.len() as u64) as usize];
            world.restart(victim);
        }
        let pause = world.random().duration(Duration::from_millis(700));
        world.run_for(pause);
    }
    world.weather(Weather::CLEAR);
    // The longest thing to wait for: a dead peer is noticed 15 s after data went unanswered, a silent destination is
    // asked again, and its packets are held a second.
    for (tenant, pods) in tenants {
        for (at, from) in pods.iter().enumerate() {
            for to in (0..pods.len()).filter(|to| *to != at) {
                let destination = address(*tenant, to as u8 + 1);
                let heard = (0..60).any(|_| {
                    let number = world.send(*from, destination, 64);
                    world.run_for(Duration::from_millis(1_000));
                    world.model().is_delivered(number)
                });
                assert!(heard, "seed {seed}: {from:?} does not reach {destination} again");
            }
        }
    }
    let violations = world.model().violations();
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
}

fn weather(world: &mut World) -> Weather {
    Weather {
        loss: world.random().below(40) as u8,
        duplicate: world.random().below(20) as u8,
        delay: Duration::from_micros(100),
        jitter: world.random().duration(Duration::from_millis(30)),
    }
}

#[test]
fn two_pods_recover_from_loss_duplication_and_reordering() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let bad = weather(&mut world);
        world.weather(bad);
        let tenants = [(1, pods(&mut world, 1, 2))];
        storm(&mut world, &tenants, false, seed);
    }
}

#[test]
fn two_pods_that_start_at_once_agree_on_a_session() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let bad = weather(&mut world);
        world.weather(bad);
        let two = pods(&mut world, 1, 2);
        world.send(two[0], address(1, 2), 64);
        world.send(two[1], address(1, 1), 64);
        storm(&mut world, &[(1, two.clone())], false, seed);
        for pod in two {
            let tunnel = world.tunnel_of(pod);
            assert_eq!(tunnel.peers(world.now()).count(), 1, "seed {seed}");
        }
    }
}

#[test]
fn five_pods_of_two_tenants_recover_from_restarts_and_stay_apart() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let bad = weather(&mut world);
        world.weather(bad);
        let tenants = [(1, pods(&mut world, 1, 3)), (2, pods(&mut world, 2, 2))];
        storm(&mut world, &tenants, true, seed);
    }
}

#[test]
fn two_pods_recover_from_restarts() {
    for seed in seeds(SEEDS) {
        let mut world = World::new(seed, Weather::CLEAR);
        let bad = weather(&mut world);
        world.weather(bad);
        let tenants = [(1, pods(&mut world, 1, 2))];
        storm(&mut world, &tenants, true, seed);
    }
}
