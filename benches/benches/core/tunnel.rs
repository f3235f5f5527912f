//! The whole way: from the device's packet to the record, and back.

use std::hint::black_box;

use criterion::Criterion;
use tencrypt::{CipherSuite, Outbound, Output, TunPacket, offload::VnetHdr, session::Sealer};
use tencrypt_benches::{
    packets::{TCP_HEADERS, tcp_packet, udp_packet},
    pair::{HERE, Pair, THERE},
    sinks::{Count, Slab},
};

use crate::{
    floor::{AwsLc, Ciphering, Copying},
    measure::{BATCH, Load, Stage},
};

/// Two tunnels with a session, and the buffers of a load.
struct Tunnels {
    pair: Pair,
    load: Load,
    vnet: VnetHdr,
    /// The packet or super-packet that the device hands over.
    packet: Vec<u8>,
    /// Its headers, which cutting writes over.
    fresh: [u8; TCP_HEADERS],
    slabs: Vec<Slab>,
    count: Count,
}

impl Tunnels {
    fn new(suite: CipherSuite, load: Load) -> Self {
        let (vnet, packet) = if load.is_train() {
            let segment = load.len - TCP_HEADERS;
            tcp_packet(HERE, THERE, load.packets * segment, segment)
        } else {
            (VnetHdr::default(), udp_packet(HERE.into(), THERE.into(), load.len))
        };
        let mut fresh = [0; TCP_HEADERS];
        fresh.copy_from_slice(&packet[..TCP_HEADERS]);
        Self {
            pair: Pair::connected(suite),
            load,
            vnet,
            packet,
            fresh,
            // No larger than what they hold, so that those of a batch lie side by side in the cache.
            slabs: (0..BATCH).map(|_| Slab::new(load.packets * (load.len + Sealer::OVERHEAD))).collect(),
            count: Count::default(),
        }
    }

    #[inline]
    fn encapsulate(&mut self, at: usize) {
        let slab = &mut self.slabs[at];
        slab.clear();
        self.packet[..TCP_HEADERS].copy_from_slice(&self.fresh);
        let mut packet = TunPacket::new(self.vnet, &mut self.packet);
        let outbound = self.pair.here.handle_packet(&mut packet, self.pair.now, slab);
        assert_eq!(outbound, Outbound::Sent { records: self.load.packets as u16 });
        black_box(slab.records());
    }

    #[inline]
    fn decapsulate(&mut self, at: usize) {
        let pair = &mut self.pair;
        let inbound =
            self.slabs[at].deliver(Pair::endpoint(HERE), &mut pair.there, pair.now, &mut self.count);
        assert_eq!(inbound.dropped, 0);
    }
}

pub(crate) fn encapsulate(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "encapsulate");
    for load in Load::ALL {
        let mut tunnels = Tunnels::new(CipherSuite::Aes256Gcm, load);
        stage.repeat("tencrypt", load, || tunnels.encapsulate(0));
        let mut raw = Ciphering::new(AwsLc::aes(), load);
        stage.repeat("floor: aws-lc-rs AES", load, || raw.seal(0));
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
        #[cfg(feature = "peers")]
        {
            let mut peer = boring::Boring::new(load);
            stage.repeat("peer: boringtun", load, || peer.encapsulate(0));
        }
    }
}

pub(crate) fn decapsulate(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "decapsulate");
    for load in Load::ALL {
        let tunnels = Tunnels::new(CipherSuite::Aes256Gcm, load);
        stage.batched("tencrypt", load, tunnels, Tunnels::encapsulate, Tunnels::decapsulate);
        let raw = Ciphering::new(AwsLc::aes(), load);
        stage.batched("floor: aws-lc-rs AES", load, raw, Ciphering::seal, Ciphering::open);
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
        #[cfg(feature = "peers")]
        {
            let peer = boring::Boring::new(load);
            stage.batched(
                "peer: boringtun",
                load,
                peer,
                boring::Boring::encapsulate,
                boring::Boring::decapsulate,
            );
        }
    }
}

pub(crate) fn round_trip(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "round_trip");
    for load in Load::ALL {
        for (name, suite) in
            [("tencrypt", CipherSuite::Aes256Gcm), ("tencrypt ChaCha", CipherSuite::ChaCha20Poly1305)]
        {
            let mut tunnels = Tunnels::new(suite, load);
            stage.repeat(name, load, || {
                tunnels.encapsulate(0);
                tunnels.decapsulate(0);
            });
        }
        for (name, cipher) in [("raw aws-lc-rs", AwsLc::aes()), ("raw aws-lc-rs ChaCha", AwsLc::chacha())] {
            let mut raw = Ciphering::new(cipher, load);
            stage.repeat(name, load, || {
                raw.seal(0);
                raw.open(0);
            });
        }
        #[cfg(feature = "peers")]
        {
            let mut peer = boring::Boring::new(load);
            stage.repeat("boringtun", load, || {
                peer.encapsulate(0);
                peer.decapsulate(0);
            });
        }
    }
}

#[cfg(feature = "peers")]
mod boring {
    use tencrypt_benches::{
        packets::udp_packet,
        pair::{HERE, THERE},
        wireguard::BoringPair,
    };

    use crate::measure::{BATCH, Load};

    /// boringtun's tunnels with the buffers of a load. It copies on both ways, into buffers of its caller.
    pub(super) struct Boring {
        pair: BoringPair,
        load: Load,
        packet: Vec<u8>,
        records: Vec<(Vec<u8>, usize)>,
        out: Vec<u8>,
    }

    impl Boring {
        pub(super) fn new(load: Load) -> Self {
            Self {
                pair: BoringPair::connected(),
                load,
                packet: udp_packet(HERE.into(), THERE.into(), load.len),
                // It wants no less than 148 bytes, whatever it writes.
                records: vec![(vec![0; load.len + 148], 0); BATCH.max(load.packets)],
                out: vec![0; load.len + 148],
            }
        }

        #[inline]
        pub(super) fn encapsulate(&mut self, at: usize) {
            for (record, len) in &mut self.records[at..at + self.load.packets] {
                *len = self.pair.encapsulate(&self.packet, record);
                assert_eq!(*len, self.load.len + 32);
            }
        }

        #[inline]
        pub(super) fn decapsulate(&mut self, at: usize) {
            for (record, len) in &self.records[at..at + self.load.packets] {
                assert_eq!(self.pair.decapsulate(&record[..*len], &mut self.out), self.load.len);
            }
        }
    }
}

/// The call after each packet, with nothing to say: the price of asking.
pub(crate) fn poll_output(criterion: &mut Criterion) {
    let mut pair = Pair::connected(CipherSuite::Aes256Gcm);
    let mut buffer = [0; 64];
    assert!(matches!(pair.here.poll_output(&mut buffer, pair.now), Output::Timeout(Some(_))));
    criterion.bench_function("poll_output/nothing to do", |bencher| {
        bencher.iter(|| black_box(pair.here.poll_output(&mut buffer, pair.now)));
    });
}
