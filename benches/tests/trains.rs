//! Trains on their way: whatever happens to one record of a train, the others arrive as they were.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::Ipv4Addr,
    time::Instant,
};

use tencrypt::{
    CipherSuite, DropReason, Outbound, Output, PacketSink, RecvMeta, SinkFull, TunPacket, Tunnel,
    offload::{Coalescer, GsoType, Opened, VnetHdr},
};
use tencrypt_benches::{
    TRAIN,
    packets::{SEGMENT, tcp_packet},
    pair::{HERE, Pair, THERE, Tenant},
    sinks::Slab,
};

/// Bytes of a record that fills a path of 1,500.
const STRIDE: usize = 1_472;

/// The super-packet that is sent: 44 segments, the last one shorter.
fn super_packet() -> (VnetHdr, Vec<u8>) {
    let (vnet, mut bytes) = tcp_packet(HERE, THERE, TRAIN * SEGMENT - 100, SEGMENT);
    for (at, byte) in bytes[52..].iter_mut().enumerate() {
        *byte = (at / 251 + at) as u8;
    }
    (vnet, bytes)
}

/// A packet as far as a message about it goes: its TCP sequence number, and a hash of all of it.
type Print = (u32, u64);

/// Cuts `vnet` and `bytes` into packets of their own, checksums finished.
fn segments(vnet: VnetHdr, bytes: &[u8]) -> Vec<Print> {
    let mut bytes = bytes.to_vec();
    let mut all = Vec::new();
    TunPacket::new(vnet, &mut bytes).finish_segments(|segment| {
        let mut hash = DefaultHasher::new();
        segment.hash(&mut hash);
        all.push((u32::from_be_bytes(segment[24..28].try_into().unwrap()), hash.finish()));
    });
    all
}

/// Packets that came out at a device: each write cut again, as the kernel would.
#[derive(Default)]
struct Arrived {
    packets: Vec<Print>,
    writes: usize,
}

impl Arrived {
    fn write(&mut self, coalescer: &mut Coalescer<'_>) {
        coalescer.drain(|pieces, _| {
            let vnet = VnetHdr::decode(&pieces[0]).unwrap();
            let bytes: Vec<u8> = pieces[1..].iter().flat_map(|piece| piece.iter().copied()).collect();
            self.packets.extend(segments(vnet, &bytes));
            self.writes += 1;
        });
    }
}

struct Joining<'a, 'b> {
    coalescer: Coalescer<'b>,
    arrived: &'a mut Arrived,
}

impl<'b> PacketSink<'b> for Joining<'_, 'b> {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        let Err(packet) = self.coalescer.push(packet) else { return Ok(()) };
        self.arrived.write(&mut self.coalescer);
        self.coalescer.push(packet).map_err(|_| SinkFull)
    }
}

/// Hands `to` a datagram of records of `stride` bytes.
fn receive(to: &mut Tunnel, from: Ipv4Addr, stride: usize, records: &mut [u8], now: Instant) -> Arrived {
    let meta = RecvMeta::new(Pair::endpoint(from), stride as u16);
    let mut arrived = Arrived::default();
    let coalescer = Coalescer::new(&GsoType::ALL);
    let mut joining = Joining { coalescer, arrived: &mut arrived };
    to.handle_datagrams(&meta, records, now, &mut joining);
    let mut coalescer = joining.coalescer;
    arrived.write(&mut coalescer);
    arrived
}

/// Seals the super-packet and hands its records, changed by `fate`, to the other end.
fn through(pair: &mut Pair, fate: impl FnOnce(&mut Vec<Vec<u8>>)) -> (Vec<Print>, Arrived) {
    let (vnet, mut bytes) = super_packet();
    let sent = segments(vnet, &bytes);
    let mut slab = Slab::new(TRAIN * STRIDE);
    let outbound = pair.here.handle_packet(&mut TunPacket::new(vnet, &mut bytes), pair.now, &mut slab);
    assert_eq!(outbound, Outbound::Sent { records: TRAIN as u16 });
    assert_eq!(slab.trains().len(), 1, "one message");
    let mut records: Vec<Vec<u8>> = slab.records().chunks(STRIDE).map(<[u8]>::to_vec).collect();
    fate(&mut records);
    let arrived = receive(&mut pair.there, HERE, STRIDE, &mut records.concat(), pair.now);
    (sent, arrived)
}

fn sorted(mut packets: Vec<Print>) -> Vec<Print> {
    packets.sort();
    packets
}

fn dropped(pair: &Pair, reason: DropReason) -> u64 {
    pair.there.stats().dropped(reason)
}

#[test]
fn a_train_is_one_message_and_one_write() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    let (sent, arrived) = through(&mut pair, |_| {});
    assert_eq!((arrived.writes, arrived.packets), (1, sent));
}

#[test]
fn a_lost_record_is_all_that_is_lost() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    for lost in 0..TRAIN {
        let (mut sent, arrived) = through(&mut pair, |records| drop(records.remove(lost)));
        sent.remove(lost);
        assert_eq!(arrived.packets, sent, "record {lost}");
        assert!(arrived.writes <= 2, "record {lost}");
    }
}

#[test]
fn a_train_that_is_cut_off_keeps_what_came_whole() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    for at in 0..TRAIN {
        let before = dropped(&pair, DropReason::Auth) + dropped(&pair, DropReason::Malformed);
        let (mut sent, arrived) = through(&mut pair, |records| {
            records.truncate(at + 1);
            let keep = at * 30 % (STRIDE - 101) + 1;
            records[at].truncate(keep);
        });
        sent.truncate(at);
        assert_eq!(arrived.packets, sent, "record {at}");
        let after = dropped(&pair, DropReason::Auth) + dropped(&pair, DropReason::Malformed);
        assert_eq!(after, before + 1, "record {at}");
    }
}

#[test]
fn records_out_of_order_all_arrive() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    for at in 0..TRAIN - 2 {
        let (sent, arrived) = through(&mut pair, |records| records.swap(at, at + 1));
        assert_eq!(sorted(arrived.packets), sorted(sent), "record {at}");
    }
    // The last one is shorter, and so it can only be the last of its message.
    let (sent, arrived) = through(&mut pair, |records| records[..TRAIN - 1].reverse());
    assert_eq!(sorted(arrived.packets), sorted(sent));
}

#[test]
fn a_doubled_record_arrives_once() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    for at in 0..TRAIN - 1 {
        let before = dropped(&pair, DropReason::Replay);
        let (sent, arrived) = through(&mut pair, |records| records.insert(at, records[at].clone()));
        assert_eq!(arrived.packets, sent, "record {at}");
        assert_eq!(dropped(&pair, DropReason::Replay), before + 1);
    }
}

#[test]
fn a_forged_record_is_all_that_is_dropped() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    for at in 0..TRAIN {
        let before = dropped(&pair, DropReason::Auth);
        let (mut sent, arrived) = through(&mut pair, |records| records[at][20 + at] ^= 1);
        sent.remove(at);
        assert_eq!(arrived.packets, sent, "record {at}");
        assert_eq!(dropped(&pair, DropReason::Auth), before + 1);
    }
}

/// Held whole while its destination is asked, cut when it leaves.
#[test]
fn a_held_super_packet_arrives_whole() {
    let mut pair = Pair::strangers(&mut Tenant::new(CipherSuite::Aes256Gcm));
    let (vnet, mut bytes) = super_packet();
    let sent = segments(vnet, &bytes);
    let mut nothing = Slab::new(0);
    let outbound = pair.here.handle_packet(&mut TunPacket::new(vnet, &mut bytes), pair.now, &mut nothing);
    assert_eq!(outbound, Outbound::Held);
    let mut arrived = Vec::new();
    let mut buffer = [0; 2_048];
    for _ in 0..4 {
        while let Some(len) = next_transmit(&mut pair.here, &mut buffer, pair.now) {
            let datagram = &mut buffer[..len];
            arrived.extend(receive(&mut pair.there, HERE, len, datagram, pair.now).packets);
            pair.there.handle_timeout(pair.now);
        }
        while let Some(len) = next_transmit(&mut pair.there, &mut buffer, pair.now) {
            receive(&mut pair.here, THERE, len, &mut buffer[..len], pair.now);
            pair.here.handle_timeout(pair.now);
        }
    }
    assert_eq!(arrived, sent);
}

/// Polls until there is a datagram, and returns its bytes; `None`: there is nothing more.
fn next_transmit(tunnel: &mut Tunnel, buffer: &mut [u8], now: Instant) -> Option<usize> {
    loop {
        match tunnel.poll_output(buffer, now) {
            Output::Transmit(transmit) => return Some(transmit.len),
            Output::Timeout(_) => return None,
            _ => {}
        }
    }
}

/// A transport that has room for fewer records than the train has gets it in several.
#[test]
fn a_sink_without_room_costs_what_did_not_fit() {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    let (vnet, mut bytes) = super_packet();
    let mut small = Slab::new(10 * STRIDE);
    let outbound = pair.here.handle_packet(&mut TunPacket::new(vnet, &mut bytes), pair.now, &mut small);
    assert_eq!(outbound, Outbound::Dropped(DropReason::SinkFull));
    assert_eq!(pair.here.stats().dropped(DropReason::SinkFull), TRAIN as u64);
}
