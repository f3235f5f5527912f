//! Work on headers alone: parse, classify, translate.

use std::{
    collections::HashMap,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use criterion::Criterion;
use tencrypt::{
    CipherSuite, Verdict, internal,
    nat::{Nat, NatOutcome, Service, ServicePort},
    packet::IpPacket,
    session::Sealer,
};
use tencrypt_benches::{
    packets::udp_packet,
    pair::{HERE, Pair, THERE},
};

use crate::{
    floor::Copying,
    measure::{Load, Stage},
};

/// Bytes of IPv4 and UDP header: all that translation changes.
const HEADERS: usize = 28;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

pub(crate) fn parse(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "parse");
    for load in Load::ALL {
        let packets = vec![udp_packet(HERE.into(), THERE.into(), load.len); load.packets];
        stage.repeat("packet", load, || {
            for packet in &packets {
                black_box(IpPacket::parse(black_box(packet)).expect("a good packet"));
            }
        });
        let mut record = vec![0; load.len + Sealer::OVERHEAD];
        // DATA, and an index that is not zero.
        (record[0], record[4]) = (4, 1);
        stage.repeat("record", load, || {
            for _ in 0..load.packets {
                black_box(internal::parse(black_box(&record)).expect("a DATA record"));
            }
        });
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
    }
}

pub(crate) fn classify(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "classify");
    let load = Load::LOOKUP;
    let pair = Pair::connected(CipherSuite::Aes256Gcm);
    for (name, destination) in [("peer", THERE), ("external", Ipv4Addr::new(192, 0, 2, 1))] {
        let verdict = pair.here.classify(destination.into(), pair.now);
        assert_eq!(matches!(verdict, Verdict::Encrypt(_)), name == "peer", "{verdict:?}");
        stage.repeat(name, load, || pair.here.classify(black_box(destination.into()), pair.now));
    }
    let map = HashMap::from([(IpAddr::V4(THERE), 1_u32)]);
    stage.repeat("floor: HashMap", load, || map.get(black_box(&IpAddr::V4(THERE))).copied());
}

pub(crate) fn nat(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "nat");
    let now = Instant::now();
    let service = Service {
        endpoints: &[IpAddr::V4(THERE)],
        ports: &[ServicePort::new(7, 8_007)],
        ..Service::new(VIP)
    };
    for load in Load::ALL {
        // Every packet that no service has a part in is looked at like this, both ways.
        let mut nat = Nat::new(1);
        let mut packets = vec![udp_packet(HERE.into(), THERE.into(), load.len); load.packets];
        stage.repeat("direct", load, || {
            for packet in &mut packets {
                let mut packet = IpPacket::parse(&mut packet[..]).expect("a good packet");
                assert_eq!(nat.loop_reply(&mut packet, false, now), NatOutcome::Untouched);
                assert_eq!(nat.reply(&mut packet, false, now), NatOutcome::Untouched);
                nat.note_direct(&packet, now);
            }
        });
        let mut packets = vec![udp_packet(HERE.into(), VIP, load.len); load.packets];
        let fresh = packets[0][..HEADERS].to_vec();
        stage.repeat("to a service", load, || {
            for packet in &mut packets {
                packet[..HEADERS].copy_from_slice(&fresh);
                let mut packet = IpPacket::parse(&mut packet[..]).expect("a good packet");
                assert_eq!(nat.balance(&mut packet, false, &service, now), Ok(THERE.into()));
            }
        });
        let mut answers = packets.clone();
        for (answer, asked) in answers.iter_mut().zip(&packets) {
            answer[12..16].copy_from_slice(&asked[16..20]);
            answer[16..20].copy_from_slice(&asked[12..16]);
            answer[20..22].copy_from_slice(&asked[22..24]);
            answer[22..24].copy_from_slice(&asked[20..22]);
        }
        let fresh = answers[0][..HEADERS].to_vec();
        stage.repeat("from a service", load, || {
            for packet in &mut answers {
                packet[..HEADERS].copy_from_slice(&fresh);
                let mut packet = IpPacket::parse(&mut packet[..]).expect("a good packet");
                assert_eq!(nat.unbalance(&mut packet, false, now), NatOutcome::Rewritten);
            }
        });
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
    }
}
