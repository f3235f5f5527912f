//! A member that is many: it makes session after session, each with another static key.

use std::{net::IpAddr, time::Duration};

use tencrypt::CipherSuite;
use tencrypt_sim::{LiarHost, PodOptions, Random, Weather, World};

use crate::checks::MAX_PEERS;

/// Keys that it has, more than there may be peers.
const KEYS: usize = MAX_PEERS + 300;
/// Addresses that it has: one source may not ask often.
const ADDRESSES: usize = 20;
/// Questions at a time. A hundred handshakes a second are no load that would ask for a cookie.
const AT_ONCE: usize = 5;

#[test]
fn a_member_of_many_keys_fills_no_table_and_pushes_nobody_out_who_speaks() {
    let (mut world, mut random) = (World::new(1, Weather::CLEAR), Random::new(1));
    let tenant = world.tenant();
    let addresses = [1, 2].map(|last| IpAddr::from([10, 1, 0, last]));
    let pods = addresses.map(|address| world.pod(&tenant, PodOptions::new(&[address])));
    let mut liars: Vec<LiarHost> = (0..ADDRESSES as u8)
        .map(|last| {
            let address = IpAddr::from([10, 7, 0, last]);
            world.stranger(address);
            LiarHost::new(&tenant, CipherSuite::Aes256Gcm, address, random.bits())
        })
        .collect();
    let mut sessions = 0;
    for round in 0..KEYS / AT_ONCE {
        for number in 0..AT_ONCE {
            let liar = &mut liars[(round * AT_ONCE + number) % ADDRESSES];
            liar.change_key();
            let own = liar.address();
            let (from, to, init) = liar.ask(own, addresses[1], addresses[1], &[own]);
            world.forge(from, to, init);
        }
        let sent = [world.send(pods[0], addresses[1], 40), world.send(pods[1], addresses[0], 40)];
        world.run_for(Duration::from_millis(25));
        for liar in &mut liars {
            for datagram in world.received(liar.address()) {
                if let Some((from, to, bytes)) = liar.receive(datagram, &[], liar.address()) {
                    sessions += 1;
                    world.forge(from, to, bytes);
                }
            }
        }
        world.run_for(Duration::from_millis(25));
        assert!(sent.iter().all(|number| world.model().is_delivered(*number)), "round {round}");
        let peers = world.tunnel_of(pods[1]).peers(world.now()).count();
        assert!(peers <= MAX_PEERS, "round {round}: {peers} peers");
    }
    assert!(sessions > MAX_PEERS, "{sessions} sessions were made: nothing was tried");
}
