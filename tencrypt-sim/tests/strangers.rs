//! Lessons about a pod for somebody without the key.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt_sim::{PodId, PodOptions, Weather, World};

const DATA: u8 = 4;
const RESET: u8 = 6;
/// Sessions live no longer, so nobody has one of before a start that is longer ago (docs/wire-format.md, section 5.5).
const SESSION_LIFE: Duration = Duration::from_secs(180);

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

/// Sends a pod a record of a session that it does not have, from this address. True: it says RESET.
fn is_told(world: &mut World, pod: PodId, from: IpAddr, number: u8) -> bool {
    let mut record = vec![DATA, 0, 0, 0, number, 0xee, 0, 0];
    record.resize(100, 0xee);
    world.capture();
    world.inject(pod, SocketAddr::new(from, 8362), record);
    world.run_for(Duration::from_secs(2));
    world.captured().iter().any(|(_, to, bytes)| to.ip() == from && bytes[0] == RESET)
}

#[test]
fn a_stranger_gets_no_reset_from_a_pod_that_runs_longer_than_a_session_and_a_peer_does() {
    let mut world = World::new(1, Weather::CLEAR);
    let tenant = world.tenant();
    let [a, _] = [1, 2].map(|number| world.pod(&tenant, PodOptions::new(&[v4(number)])));
    assert!(is_told(&mut world, a, v4(9), 1), "it may have a session of before the start");
    let begun = world.now();
    while world.now() < begun + SESSION_LIFE + Duration::from_secs(5) {
        world.send(a, v4(2), 100);
        world.run_for(Duration::from_secs(5));
    }
    assert!(!is_told(&mut world, a, v4(9), 2), "a stranger learns that tencrypt runs there");
    assert!(is_told(&mut world, a, v4(2), 3), "a peer that lost its sessions is helped");
    assert_eq!(world.model().violations(), []);
}
