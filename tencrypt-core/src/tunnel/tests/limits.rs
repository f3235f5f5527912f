//! Behaviour of a tunnel when a key has sealed as much as it may, or met as many forgeries.

use std::{collections::BTreeSet, time::Duration};

use super::pair::Pair;
use crate::{
    crypto::CipherSuite,
    stats::DropReason,
    tunnel::{Outbound, Tunnel, peers::Session},
};

const DATA: u8 = 4;
const INIT: u8 = 1;

/// The session that a side sends on.
fn sending(tunnel: &mut Tunnel) -> &mut Session {
    let now = tunnel.now;
    let key = tunnel.peers.keys().pop().expect("a peer");
    tunnel.peers.toward(key, true, now).expect("a session").session
}

/// Two with a session that has carried packets both ways.
fn pair() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    pair.send(1);
    assert_eq!(pair.delivered, [1, 1]);
    pair
}

fn of_type(datagrams: &[Vec<u8>], kind: u8) -> impl Iterator<Item = &Vec<u8>> {
    datagrams.iter().filter(move |datagram| datagram[0] == kind)
}

/// Receiver index and counter of each record.
fn nonces(datagrams: &[Vec<u8>]) -> Vec<&[u8]> {
    of_type(datagrams, DATA).map(|record| &record[4..16]).collect()
}

#[test]
fn at_half_of_its_records_a_session_is_replaced_and_nothing_is_lost() {
    let mut pair = pair();
    sending(&mut pair.tunnels[0]).sealer.lower_limits([10, 6, 4]);
    let used = nonces(&pair.sent[0]).len();
    for number in used..40 {
        assert_eq!(pair.offer(0), Outbound::Sent { records: 1 }, "{number}");
        if number == 4 {
            // This was the fifth.
            assert_eq!(pair.tunnels[0].stats().handshakes, 2);
        }
        assert_eq!(pair.tunnels[0].stats().handshakes, if number < 4 { 1 } else { 2 }, "{number}");
    }
    assert_eq!(pair.tunnels[0].stats().dropped_total(), 0);
    assert_eq!(pair.delivered[1], 40 - used + 1);
    let nonces = nonces(&pair.sent[0]);
    assert_eq!(nonces.iter().collect::<BTreeSet<_>>().len(), nonces.len(), "a counter was used twice");
}

#[test]
fn the_last_record_of_a_key_is_sealed_and_the_next_packet_dropped_until_there_is_another_key() {
    let mut pair = pair();
    sending(&mut pair.tunnels[0]).sealer.lower_limits([10, 6, 4]);
    pair.connected = false;
    let before = nonces(&pair.sent[0]).len();
    let outcomes: Vec<Outbound> = (0..20).map(|_| pair.offer(0)).collect();
    let (sealed, refused) = outcomes.split_at(10 - before);
    assert!(sealed.iter().all(|outcome| *outcome == Outbound::Sent { records: 1 }));
    assert!(refused.iter().all(|outcome| *outcome == Outbound::Dropped(DropReason::Limit)));
    assert_eq!(pair.tunnels[0].stats().dropped(DropReason::Limit), refused.len() as u64);
    assert!(of_type(&pair.sent[0], INIT).count() >= 2, "another key is asked for");
    let used = nonces(&pair.sent[0]);
    assert_eq!((used.len(), used.iter().collect::<BTreeSet<_>>().len()), (10, 10));
    // With the next repeat of INIT it goes on.
    pair.connected = true;
    pair.run(Duration::from_secs(1));
    let delivered = pair.delivered[1];
    assert_eq!(pair.offer(0), Outbound::Sent { records: 1 });
    assert_eq!(pair.delivered[1], delivered + 1);
    let all = nonces(&pair.sent[0]);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "a counter was used twice");
}

/// An opener that has met too many forgeries opens nothing. Its peer finds its data unanswered, and the old key stays dead.
#[test]
fn a_session_that_met_too_many_forgeries_is_replaced_within_fifteen_seconds() {
    let mut pair = pair();
    sending(&mut pair.tunnels[1]).opener.lower_failed_tags(3);
    let genuine = {
        pair.connected = false;
        pair.send(0);
        pair.connected = true;
        pair.sent[0].last().expect("a record").clone()
    };
    let mut forged = genuine.clone();
    forged[20] ^= 1;
    for number in 1..=3 {
        pair.receive(1, forged.clone());
        assert_eq!(pair.tunnels[1].stats().dropped(DropReason::Auth), number);
    }
    pair.receive(1, genuine.clone());
    assert_eq!((pair.tunnels[1].stats().dropped(DropReason::Limit), pair.delivered[1]), (1, 1));
    assert_eq!(pair.tunnels[0].stats().handshakes, 1);
    for _ in 0..15 {
        pair.send(0);
        pair.run(Duration::from_secs(1));
    }
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.tunnels[0].stats().handshakes, 2);
    let delivered = pair.delivered;
    pair.send(0);
    pair.send(1);
    assert_eq!(pair.delivered, [delivered[0] + 1, delivered[1] + 1]);
    let limit = pair.tunnels[1].stats().dropped(DropReason::Limit);
    pair.receive(1, genuine);
    assert_eq!(pair.tunnels[1].stats().dropped(DropReason::Limit), limit + 1, "the old key is dead");
}
