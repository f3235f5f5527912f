//! The cost of a destination when there are many: 100,000 known pods against 10.
//!
//! Sessions come of handshakes only, half a millisecond each, so by default 2,000 peers share the 100,000 addresses;
//! `TENCRYPT_BENCH_PEERS=100000` makes one for each, once, in about a minute.

use std::{
    cell::{LazyCell, RefCell},
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
};

use criterion::Criterion;
use tencrypt::{Outbound, TunPacket, Verdict, offload::VnetHdr};
use tencrypt_benches::{
    packets::udp_packet,
    pair::{HERE, Hub},
    sinks::Slab,
};
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
    fn hot() -> Self {
        Self { order: (0..FEW).map(Hub::address).collect(), at: 0 }
    }

    /// All, in no order.
    fn random() -> Self {
        let mut order: Vec<Ipv4Addr> = (0..MANY).map(Hub::address).collect();
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

/// Made when a benchmark first needs it: not for runs of other ones.
type Lazy<'a> = LazyCell<RefCell<Hub>, Box<dyn FnOnce() -> RefCell<Hub> + 'a>>;

fn hub<'a>(peers: usize, addresses: usize) -> Lazy<'a> {
    LazyCell::new(Box::new(move || {
        println!("lookup: {addresses} addresses of {peers} peers");
        RefCell::new(Hub::new(peers, addresses))
    }))
}

pub(crate) fn lookup(criterion: &mut Criterion) {
    let peers =
        std::env::var("TENCRYPT_BENCH_PEERS").ok().and_then(|text| text.parse().ok()).unwrap_or(PEERS);
    let mut stage = Stage::new(criterion, "lookup");
    measure(&mut stage, &hub(FEW, FEW), "10 of 10", Visits::hot);
    let many = hub(peers, MANY);
    measure(&mut stage, &many, "10 of 100,000", Visits::hot);
    measure(&mut stage, &many, "100,000 at random", Visits::random);

    let map: HashMap<IpAddr, u32> = (0..MANY).map(|at| IpAddr::V4(Hub::address(at))).zip(0..).collect();
    let mut visits = Visits::random();
    stage.repeat("floor: HashMap, 100,000 at random", Load::LOOKUP, || {
        map.get(&IpAddr::V4(visits.next())).copied()
    });
}

fn measure(stage: &mut Stage<'_>, hub: &Lazy<'_>, name: &str, visits: fn() -> Visits) {
    let mut order = visits();
    stage.repeat(&format!("classify, {name}"), Load::LOOKUP, || {
        let hub = hub.borrow();
        let verdict = hub.tunnel.classify(order.next().into(), hub.now);
        assert!(matches!(verdict, Verdict::Encrypt(_)));
    });
    let mut order = visits();
    let mut packet = udp_packet(HERE.into(), Hub::address(0).into(), 64);
    let mut slab = Slab::new(96);
    stage.repeat(&format!("encapsulate, {name}"), Load::LOOKUP, || {
        let mut hub = hub.borrow_mut();
        let now = hub.now;
        slab.clear();
        // The header's checksum is the kernel's affair: wrong here, and nobody looks.
        packet[16..20].copy_from_slice(&order.next().octets());
        let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
        assert_eq!(hub.tunnel.handle_packet(&mut packet, now, &mut slab), Outbound::Sent { records: 1 });
        black_box(slab.records());
    });
}
