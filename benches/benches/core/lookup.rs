//! What a destination costs when there are many: 100,000 known pods against 10.
//!
//! Sessions come of handshakes only, half a millisecond each, so by default 2,000 peers share the 100,000 addresses;
//! `TENCRYPT_BENCH_PEERS=100000` makes one for each, once, in about a minute.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use criterion::Criterion;
use tencrypt_benches::{
    packets::udp_packet,
    pair::{HERE, Hub},
    sinks::Slab,
};
use tencrypt_core::{Outbound, TunPacket, Verdict, offload::VnetHdr};
use tencrypt_sim::Random;

use crate::measure::{Load, Stage};

const MANY: usize = 100_000;
const FEW: usize = 10;
const PEERS: usize = 2_000;

/// Destinations in the order they are asked for, over and over.
struct Visits {
    order: Vec<Ipv4Addr>,
    at: usize,
}

impl Visits {
    /// The same ten, as a pod that talks to a few others.
    fn hot(hub: &Hub) -> Self {
        Self { order: hub.destinations[..FEW].to_vec(), at: 0 }
    }

    /// All, in no order.
    fn random(hub: &Hub) -> Self {
        let mut order = hub.destinations.clone();
        let mut random = Random::new(3);
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at as u64 + 1) as usize);
        }
        Self { order, at: 0 }
    }

    #[inline]
    fn next(&mut self) -> Ipv4Addr {
        self.at = if self.at + 1 == self.order.len() { 0 } else { self.at + 1 };
        self.order[self.at]
    }
}

pub(crate) fn lookup(criterion: &mut Criterion) {
    let peers =
        std::env::var("TENCRYPT_BENCH_PEERS").ok().and_then(|text| text.parse().ok()).unwrap_or(PEERS);
    let mut stage = Stage::new(criterion, "lookup");
    let mut few = Hub::new(FEW, FEW);
    measure(&mut stage, &mut few, "10 of 10", Visits::hot);
    let mut many = Hub::new(peers, MANY);
    println!("lookup: {} addresses of {peers} peers", many.destinations.len());
    measure(&mut stage, &mut many, "10 of 100,000", Visits::hot);
    measure(&mut stage, &mut many, "100,000 at random", Visits::random);

    let map: HashMap<IpAddr, u32> = many.destinations.iter().map(|at| IpAddr::V4(*at)).zip(0..).collect();
    let mut visits = Visits::random(&many);
    stage.repeat("floor: HashMap, 100,000 at random", Load::LOOKUP, || {
        map.get(&IpAddr::V4(visits.next())).copied()
    });
}

fn measure(stage: &mut Stage<'_>, hub: &mut Hub, name: &str, visits: fn(&Hub) -> Visits) {
    let mut order = visits(hub);
    stage.repeat(&format!("classify, {name}"), Load::LOOKUP, || {
        let verdict = hub.tunnel.classify(order.next().into(), hub.now);
        assert!(matches!(verdict, Verdict::Encrypt(_)));
    });
    let mut order = visits(hub);
    let mut packet = udp_packet(HERE.into(), Ipv4Addr::new(10, 0, 0, 1).into(), 64);
    let mut slab = Slab::new(96);
    stage.repeat(&format!("encapsulate, {name}"), Load::LOOKUP, || {
        slab.clear();
        // The header's checksum is the kernel's affair: wrong here, and nobody looks.
        packet[16..20].copy_from_slice(&order.next().octets());
        let outbound = hub.tunnel.handle_outbound(
            &mut TunPacket::new(VnetHdr::default(), &mut packet),
            hub.now,
            &mut slab,
        );
        assert_eq!(outbound, Outbound::Sent { records: 1 });
        black_box(slab.records());
    });
}
