//! Cost of datagrams in public-key operations: nothing, unless a member of the tenant made them and they are new.

use super::pair::{Pair, address, ring};
use crate::{
    crypto::{CipherSuite, Identity, KeyRing, Rng, Seed, public_key_operations},
    handshake::{Initiator, Local},
    packet::parses,
    record::SessionIndex,
    stats::{DropReason, Stats},
};

const PEER: usize = 0;
const POD: usize = 1;

/// Cost of a datagram to the pod, and what it is counted as.
fn cost(pair: &mut Pair, datagram: Vec<u8>) -> (u64, Stats) {
    let before = public_key_operations();
    pair.receive(POD, datagram);
    (public_key_operations() - before, *pair.tunnels[POD].stats())
}

fn pair(suite: CipherSuite) -> Pair {
    let mut pair = Pair::new(suite);
    pair.send(PEER);
    pair.connected = false;
    pair
}

fn init(keys: &KeyRing, suite: CipherSuite, number: u32) -> Vec<u8> {
    let identity = Identity::generate(Seed::from_bytes([7; 32]), &[]);
    let local = Local::new(keys, suite, &identity, &[], true);
    let index = SessionIndex::from_u32(number).expect("not 0");
    Initiator::start(&local, index, address(POD), &mut Rng::new(Seed::from_bytes([8; 32]))).1.to_vec()
}

/// INIT: ephemeral key, ee, es, and the encapsulation. CONF: se.
const INIT_COST: u64 = 3;

#[test]
fn no_bit_of_init_that_an_outsider_changes_costs_public_key_work() {
    for suite in [CipherSuite::Aes256Gcm, CipherSuite::MlKem768ChaCha20Poly1305] {
        let mut pair = pair(suite);
        // No flipped bit of this index is no index.
        let init = init(&ring(9), suite, 6);
        let mac2 = init.len() - 16;
        for bit in 0..mac2 * 8 {
            let mut flipped = init.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let before = *pair.tunnels[POD].stats();
            let answers = pair.sent[POD].len();
            let (operations, after) = cost(&mut pair, flipped);
            let reasons = match bit / 8 {
                0 => &[DropReason::Malformed, DropReason::Unsupported][..],
                1 => &[DropReason::Unsupported],
                2 => &[DropReason::Malformed, DropReason::Unsupported, DropReason::Mac1],
                3 => &[DropReason::OtherEpoch],
                8..12 => &[DropReason::Malformed],
                _ => &[DropReason::Mac1],
            };
            let counted = reasons.iter().any(|reason| {
                let mut expected = before;
                expected.drop_many(*reason, 1);
                after == expected
            });
            assert!(counted, "{suite}, bit {bit}: {reasons:?}");
            assert_eq!((operations, pair.sent[POD].len()), (0, answers), "{suite}, bit {bit}");
        }
        // The measure measures: the genuine one costs, and a bit of mac2 makes no new one of it.
        let expected = INIT_COST + u64::from(suite.is_hybrid());
        assert_eq!(cost(&mut pair, init.clone()).0, expected, "{suite}");
        for bit in mac2 * 8..init.len() * 8 {
            let mut flipped = init.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (operations, stats) = cost(&mut pair, flipped);
            assert_eq!(
                (operations, stats.dropped(DropReason::Replay)),
                (0, bit as u64 - mac2 as u64 * 8 + 1)
            );
        }
        pair.connected = true;
        let delivered = pair.delivered;
        pair.send(PEER);
        pair.send(POD);
        assert_eq!(pair.delivered, [delivered[PEER] + 1, delivered[POD] + 1], "{suite}");
    }
}

#[test]
fn another_tenant_costs_no_more_than_its_mac1() {
    for &suite in CipherSuite::ALL {
        let mut pair = pair(suite);
        for number in 1..100 {
            let (operations, stats) = cost(&mut pair, init(&ring(8), suite, number));
            assert_eq!((operations, stats.dropped(DropReason::Mac1)), (0, u64::from(number)));
            assert_eq!(stats.dropped_total(), u64::from(number));
        }
    }
}

#[test]
fn what_was_said_before_costs_nothing_again() {
    let mut pair = pair(CipherSuite::Aes256Gcm);
    // INIT and CONF of the peer, RESP of the pod itself, records of both.
    let said = [pair.sent[PEER].clone(), pair.sent[POD].clone()].concat();
    let kinds: Vec<u8> = said.iter().map(|datagram| datagram[0]).collect();
    for kind in [2, 3, 4] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    let new = init(&ring(9), CipherSuite::Aes256Gcm, 1);
    assert_eq!(cost(&mut pair, new.clone()).0, INIT_COST);
    let (before, made) = (pair.tunnels[POD].stats().dropped_total(), pair.tunnels[POD].stats().handshakes);
    let again: Vec<Vec<u8>> = said.into_iter().filter(|datagram| datagram[0] != 1).chain([new]).collect();
    for round in 1..=50 {
        for datagram in &again {
            assert_eq!(cost(&mut pair, datagram.clone()).0, 0, "type {}", datagram[0]);
        }
        let stats = pair.tunnels[POD].stats();
        assert_eq!(stats.dropped_total() - before, round * again.len() as u64);
    }
    assert_eq!(pair.tunnels[POD].stats().handshakes, made);
}

/// At each end once, whether it is looked up, remembered or held; a checksum that has to be finished included.
#[test]
fn a_packet_is_parsed_once_on_its_way() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    for (turn, what) in ["held", "looked up", "remembered", "remembered"].into_iter().enumerate() {
        let before = parses();
        pair.send(PEER);
        assert_eq!(parses() - before, 2, "{what}");
        assert_eq!(pair.delivered[POD], turn + 1);
    }
    let before = parses();
    pair.send(POD);
    assert_eq!((parses() - before, pair.delivered[PEER]), (2, 1));
}
