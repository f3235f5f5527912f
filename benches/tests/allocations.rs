//! The data path allocates nothing: 10,000 packets each way, counted.

use std::{net::Ipv4Addr, time::Instant};

use tencrypt::{
    CipherSuite, Outbound, Output, PacketSink, SinkFull, TunPacket, Tunnel,
    offload::{Coalescer, GsoType, Opened, VnetHdr},
    sink::bytes::{DatagramQueue, PacketQueue},
};
use tencrypt_benches::{
    TRAIN,
    alloc::{Allocated, CountingAllocator},
    packets::{SEGMENT, tcp_packet, udp_packet},
    pair::{HERE, Pair, THERE},
    sinks::Slab,
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const PACKETS: usize = 10_000;

/// Packets as a device hands them over: `records` each time.
struct Device {
    vnet: VnetHdr,
    bytes: Vec<u8>,
    /// The bytes that are handed over; cutting and translating write into it.
    spent: Vec<u8>,
    records: usize,
}

impl Device {
    fn new((vnet, bytes): (VnetHdr, Vec<u8>), records: usize) -> Self {
        Self { vnet, spent: bytes.clone(), bytes, records }
    }

    /// Sends once, from one end to the other, as far as the pieces of the receiving device's writes.
    fn send(&mut self, from: (Ipv4Addr, &mut Tunnel), to: &mut Tunnel, now: Instant, slab: &mut Slab) {
        self.spent.copy_from_slice(&self.bytes);
        slab.clear();
        let sent = from.1.handle_packet(&mut TunPacket::new(self.vnet, &mut self.spent), now, slab);
        assert_eq!(sent, Outbound::Sent { records: self.records as u16 });
        let mut joining = Joining(Coalescer::new(&GsoType::ALL));
        let inbound = slab.deliver(Pair::endpoint(from.0), to, now, &mut joining);
        assert_eq!((usize::from(inbound.opened), inbound.dropped), (self.records, 0));
        let mut packets = 0;
        joining.0.drain(|_, count| packets += usize::from(count));
        assert_eq!(packets, self.records);
        for tunnel in [from.1, to] {
            let output = tunnel.poll_output(&mut [0; 64], now);
            assert!(matches!(output, Output::Timeout(Some(_))), "{output:?}");
        }
    }
}

/// Joins what was opened.
struct Joining<'b>(Coalescer<'b>);

impl<'b> PacketSink<'b> for Joining<'b> {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.0.push(packet).map_err(|_| SinkFull)
    }
}

/// Sends [`PACKETS`] each way. `make` makes what a device hands over at a time, which becomes `records`.
fn both_ways(suite: CipherSuite, records: usize, make: impl Fn(Ipv4Addr, Ipv4Addr) -> (VnetHdr, Vec<u8>)) {
    let mut pair = Pair::connected(suite);
    let mut here = Device::new(make(HERE, THERE), records);
    let mut there = Device::new(make(THERE, HERE), records);
    let mut slab = Slab::new(TRAIN * 1_472);
    let mut send = |times: usize| {
        for _ in 0..times {
            here.send((HERE, &mut pair.here), &mut pair.there, pair.now, &mut slab);
            there.send((THERE, &mut pair.there), &mut pair.here, pair.now, &mut slab);
        }
    };
    // The first packets each way arm timers and note where records come from.
    send(10);
    let ((), cost) = Allocated::by(|| send(PACKETS.div_ceil(records)));
    assert_eq!(cost, Allocated { times: 0, bytes: 0 }, "{suite}, {records} records of {:?}", here.vnet);
}

#[test]
fn packets_cost_no_allocation() {
    for &suite in CipherSuite::ALL {
        for len in [64, 576, 1_400] {
            both_ways(suite, 1, |from, to| (VnetHdr::default(), udp_packet(from.into(), to.into(), len)));
        }
        both_ways(suite, 1, |from, to| tcp_packet(from, to, SEGMENT, SEGMENT));
    }
}

#[test]
fn super_packets_cost_no_allocation() {
    for &suite in CipherSuite::ALL {
        both_ways(suite, TRAIN, |from, to| tcp_packet(from, to, TRAIN * SEGMENT, SEGMENT));
    }
}

/// The ready sinks, once they have met the largest burst: here several super-packets and packets.
#[test]
fn queues_in_use_cost_no_allocation() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    let (vnet, large) = tcp_packet(HERE, THERE, TRAIN * SEGMENT, SEGMENT);
    let small = udp_packet(HERE.into(), THERE.into(), 576);
    let (mut datagrams, mut packets) = (DatagramQueue::new(8 * TRAIN), PacketQueue::new(8 * TRAIN));
    let mut spent = Vec::new();
    let mut burst = || {
        for (vnet, bytes) in [(vnet, &large), (VnetHdr::default(), &small)].into_iter().cycle().take(6) {
            spent.clone_from(bytes);
            let mut packet = TunPacket::new(vnet, &mut spent);
            let sent = pair.here.handle_packet(&mut packet, pair.now, &mut datagrams);
            assert!(matches!(sent, Outbound::Sent { .. }));
        }
        for mut train in datagrams.drain() {
            let meta = train.received_from(Pair::endpoint(HERE));
            pair.there.handle_datagrams(&meta, &mut train.bytes, pair.now, &mut packets);
        }
        assert_eq!(packets.len(), 3 * (TRAIN + 1));
        for packet in packets.drain() {
            assert!(packet.bytes.freeze().len() >= 576);
        }
    };
    (0..10).for_each(|_| burst());
    let ((), cost) = Allocated::by(|| (0..100).for_each(|_| burst()));
    assert_eq!(cost, Allocated { times: 0, bytes: 0 });
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
