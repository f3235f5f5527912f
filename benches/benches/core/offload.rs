//! Super-packets: cut before they are sealed, joined after they were opened.

use std::hint::black_box;

use criterion::Criterion;
use tencrypt::{
    CipherSuite, Outbound, TunPacket,
    offload::{Coalescer, GsoType, Segments},
    packet::IpPacket,
    session::Sealer,
};
use tencrypt_benches::{
    packets::{TCP_HEADERS, tcp_packet},
    pair::{HERE, Pair, THERE},
    sinks::{Kept, Slab},
};

use crate::{
    floor::Copying,
    measure::{Load, Stage, clocked},
};

/// Trains joined between two looks at the clock, whose own 50 ns would show in one.
const TRAINS: usize = 4;

pub(crate) fn segment(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "segment");
    for load in Load::SUPER {
        let size = load.len - TCP_HEADERS;
        let (vnet, mut packet) = tcp_packet(HERE, THERE, load.packets * size, size);
        let fresh = packet[..TCP_HEADERS].to_vec();
        for (name, finish) in [("unfinished checksums", false), ("finished checksums", true)] {
            stage.repeat(name, load, || {
                packet[..TCP_HEADERS].copy_from_slice(&fresh);
                let parsed = IpPacket::parse(&packet[..]).expect("a good packet");
                let mut segments = Segments::plan(&vnet, &parsed, finish).expect("a good super-packet");
                let mut count = 0;
                while let Some(segment) = segments.cut_next(&mut packet) {
                    count += 1;
                    black_box(segment);
                }
                assert_eq!(count, load.packets);
            });
        }
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
    }
}

pub(crate) fn coalesce(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "coalesce");
    for load in Load::SUPER {
        let size = load.len - TCP_HEADERS;
        let (vnet, packet) = tcp_packet(HERE, THERE, load.packets * size, size);
        let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
        let mut slabs: Vec<Slab> =
            (0..TRAINS).map(|_| Slab::new(load.packets * (load.len + Sealer::OVERHEAD))).collect();
        let mut spent = packet.clone();
        stage.timed("tencrypt", load, || {
            let mut trains: [Kept<'_>; TRAINS] = Default::default();
            for (slab, train) in slabs.iter_mut().zip(&mut trains) {
                slab.clear();
                spent.copy_from_slice(&packet);
                let sent = pair.here.handle_packet(&mut TunPacket::new(vnet, &mut spent), pair.now, slab);
                assert_eq!(sent, Outbound::Sent { records: load.packets as u16 });
                slab.deliver(Pair::endpoint(HERE), &mut pair.there, pair.now, train);
            }
            let (time, allocations) = clocked(|| {
                for train in &mut trains {
                    // One for each receive, as an adapter does: its lifetime is the buffers'.
                    let mut coalescer = Coalescer::new(&GsoType::ALL);
                    for packet in train.0.drain(..) {
                        coalescer.push(packet).expect("there is room for a train");
                    }
                    coalescer.drain(|pieces, count| {
                        assert_eq!(usize::from(count), load.packets);
                        black_box(pieces);
                    });
                }
            });
            (time / TRAINS as u32, allocations)
        });
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
    }
}
