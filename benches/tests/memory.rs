//! The heap that a peer costs, with a session and without.

use std::{net::IpAddr, time::Instant};

use tencrypt::{CipherSuite, Verdict};
use tencrypt_benches::{
    alloc::{Allocated, CountingAllocator},
    pair::{HERE, Hub, Tenant, pod_fact},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Enough that what a tunnel takes by itself, and where the tables stand in their doubling, vanishes.
const PEERS: usize = 1_000;
/// Bytes of heap of a peer without a session: what is known of it.
const IDLE: i64 = 2 << 10;
/// Bytes of heap of a peer with a session.
const CONNECTED: i64 = 8 << 10;

#[test]
fn a_peer_without_a_session_costs_less_than_two_kibibytes() {
    let now = Instant::now();
    let mut tenant = Tenant::new(CipherSuite::Aes256Gcm);
    let pods: Vec<_> = (0..PEERS as u32)
        .map(|at| {
            let address = (0x0a00_0001 + at).into();
            (address, tenant.identity(address).peer_id())
        })
        .collect();
    let identity = tenant.identity(HERE);
    let (tunnel, all) = Allocated::by(|| {
        let facts = pods.iter().map(|(address, owner)| pod_fact(*address, *owner)).collect();
        tenant.tunnel(identity, facts, now)
    });
    assert!(pods.iter().all(|(address, _)| tunnel.classify(IpAddr::V4(*address), now) == Verdict::Hold));
    let each = all.bytes / PEERS as i64;
    println!("a peer without a session: {each} bytes");
    assert!((1..=IDLE).contains(&each), "{each} bytes");
}

#[test]
fn a_peer_with_a_session_costs_less_than_eight_kibibytes() {
    let (hub, all) = Allocated::by(|| Hub::new(PEERS, PEERS));
    assert_eq!(hub.tunnel.peers(hub.now).count(), PEERS);
    let each = all.bytes / PEERS as i64;
    println!("a peer with a session: {each} bytes");
    assert!((1..=CONNECTED).contains(&each), "{each} bytes");
}
