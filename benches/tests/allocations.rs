//! The data path allocates nothing: 10,000 packets each way, counted.

use std::net::Ipv4Addr;

use tencrypt_benches::{
    TRAIN,
    alloc::{Allocated, CountingAllocator},
    packets::{SEGMENT, tcp_packet, udp_packet},
    pair::{HERE, Pair, THERE},
    sinks::{Count, Slab},
};
use tencrypt_core::{CipherSuite, Outbound, TunPacket, offload::VnetHdr};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PACKETS: usize = 10_000;

/// Sends `vnet` and `packet` from one end to the other and back, [`PACKETS`] times each.
fn both_ways(suite: CipherSuite, make: impl Fn(Ipv4Addr, Ipv4Addr) -> (VnetHdr, Vec<u8>)) {
    let mut pair = Pair::connected(suite);
    let (there, here) = (make(HERE, THERE), make(THERE, HERE));
    let mut slab = Slab::new(TRAIN * 1_472);
    let mut count = Count::default();
    let mut send = |times: usize| {
        for _ in 0..times {
            for (way, (vnet, packet)) in [&there, &here].into_iter().enumerate() {
                // Cutting and translating write into the packet: each time a fresh one, in a buffer made before.
                let mut room = [0; 2_048];
                let bytes = &mut room[..packet.len()];
                bytes.copy_from_slice(packet);
                let (from, to) = match way {
                    0 => ((HERE, &mut pair.here), &mut pair.there),
                    _ => ((THERE, &mut pair.there), &mut pair.here),
                };
                let sent = from.1.handle_outbound(&mut TunPacket::new(*vnet, bytes), pair.now, &mut slab);
                assert_eq!(sent, Outbound::Sent { records: 1 });
                let inbound = slab.deliver(Pair::endpoint(from.0), to, pair.now, &mut count);
                assert_eq!((inbound.opened, inbound.dropped), (1, 0));
            }
        }
        count.packets
    };
    // The first packets each way arm timers and note where records come from.
    let before = send(10);
    let (after, cost) = Allocated::by(|| send(PACKETS));
    assert_eq!(after - before, 2 * PACKETS as u64);
    assert_eq!(cost, Allocated { times: 0, bytes: 0 }, "{suite} {:?}", there.0);
}

#[test]
fn packets_cost_no_allocation() {
    for suite in CipherSuite::ALL {
        for len in [64, 576, 1_400] {
            both_ways(suite, |from, to| (VnetHdr::default(), udp_packet(from.into(), to.into(), len)));
        }
        both_ways(suite, |from, to| tcp_packet(from, to, 1, SEGMENT));
    }
}

#[test]
fn the_counter_sees_what_rust_allocates() {
    let (kept, cost) = Allocated::by(|| {
        let mut grown = Vec::with_capacity(100);
        grown.push(1_u8);
        grown.reserve_exact(1_000);
        grown
    });
    assert_eq!(cost.times, 2);
    assert!(cost.bytes >= kept.capacity() as i64);
    let ((), cost) = Allocated::by(|| drop(kept));
    assert_eq!(cost.times, 0);
    assert!(cost.bytes <= -1_000);
}

#[test]
fn the_counter_sees_what_aws_lc_allocates() {
    use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
    let (key, cost) = Allocated::by(|| {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).expect("a key has 32 bytes"))
    });
    // Its context holds the key schedule: hundreds of bytes, none of them Rust's.
    assert!(cost.times >= 1 && cost.bytes >= 256, "{cost:?}");
    let ((), back) = Allocated::by(|| drop(key));
    assert_eq!(back.bytes, -cost.bytes);
}
