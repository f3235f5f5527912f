//! Connections that nobody spoke on for a while: their packets go to the pod that they were with, by a way that leads there.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use super::pair::{Pair, address};
use crate::{
    CipherSuite, Seed,
    offload::VnetHdr,
    packet::samples::Sample,
    tunnel::{HeldPacket, Outbound, TunPacket, peer_key::PeerKey},
};

const SERVICE: &str = "10.0.0.9";
const INIT: u8 = 1;
const DATA: u8 = 4;
/// More than the life of a session.
const REST: Duration = Duration::from_secs(240);
/// A translation on the way may be over after 25 s.
const KEPT: Duration = Duration::from_secs(25);
const MOMENT: Duration = Duration::from_millis(1);

fn service() -> IpAddr {
    SERVICE.parse().expect("an address")
}

fn request() -> Vec<u8> {
    Sample::udp("10.0.0.1", SERVICE, (1, 2))
}

/// Two of which the first has asked a service that the second is behind. Their sessions are over.
fn rested() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    assert_eq!(pair.offer_packet(0, request()), Outbound::Held);
    assert_eq!(pair.delivered, [0, 1]);
    pair.run(REST);
    assert!(pair.tunnels.iter().all(|tunnel| tunnel.peers.keys().is_empty()));
    pair
}

/// A service whose pod sends an INIT of its own that crosses the one which names it, and goes before it, is told at once after it,
/// and not first asked itself, where another pod may answer.
#[test]
fn a_pod_that_speaks_at_the_same_moment_is_told_of_the_service_before_that_is_asked() {
    let mut second_went_first = 0;
    for number in 1..20 {
        let mut pair = rested();
        // Of two that cross, the larger goes first.
        pair.tunnels[0].reseed(Seed::from_bytes([number; 32]));
        pair.connected = false;
        let sent = [0, 1].map(|side| pair.sent[side].len());
        assert_eq!(pair.offer_packet(0, request()), Outbound::Held);
        assert_eq!(pair.offer_packet(1, Sample::udp("10.0.0.2", "10.0.0.1", (2, 1))), Outbound::Held);
        pair.connected = true;
        let crossing = [0, 1].map(|side| pair.sent[side][sent[side]..].to_vec());
        assert_eq!(crossing.each_ref().map(Vec::len), [1, 1]);
        let before = pair.tunnels[1].stats().handshakes;
        for (side, datagrams) in crossing.into_iter().enumerate() {
            datagrams.into_iter().for_each(|datagram| pair.receive(1 - side, datagram));
        }
        second_went_first += u32::from(pair.tunnels[1].stats().handshakes - before == 2);
        assert_eq!(pair.delivered, [1, 2], "{number}");
        assert!(!pair.tunnels[0].exchanges.is_asked(service()), "{number}");
    }
    assert!((1..19).contains(&second_went_first), "{second_went_first} of 19");
}

/// The pod is about to be told of the service, and another one answers there before.
#[test]
fn what_waited_for_a_service_goes_to_the_pod_that_it_leads_to_whoever_else_answers() {
    let mut pair = rested();
    pair.send(1);
    let tunnel = &mut pair.tunnels[0];
    let (pod, member) = (tunnel.peers.keys()[0], pair.tunnels[1].peer_id());
    let tunnel = &mut pair.tunnels[0];
    assert_eq!(tunnel.peer_for(member, service(), pair.now), None, "its session says nothing of services");
    let held = HeldPacket::new(&TunPacket::new(VnetHdr::default(), &mut request()));
    let other = PeerKey { slot: pod.slot + 1, generation: 99 };
    tunnel.release(service(), other, VecDeque::from([held]), pair.now);
    pair.settle();
    assert_eq!(pair.delivered, [1, 2]);
    assert_eq!(pair.tunnels[0].stats().dropped_total(), 0);
}

/// Two of which the first is behind a translation, by which the second has answered it.
fn translated() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.port = 20_000;
    pair.send(0);
    pair.send(1);
    assert_eq!(pair.delivered, [1, 1]);
    pair.port = 8_362;
    pair.run(Duration::from_secs(2));
    let [handshakes, _] = pair.tunnels.each_ref().map(|tunnel| tunnel.stats().handshakes);
    assert_eq!(handshakes, 1);
    pair
}

#[test]
fn a_packet_waits_for_its_peers_own_address_where_the_translation_that_it_goes_to_may_be_over() {
    let mut pair = translated();
    pair.run(KEPT - Duration::from_secs(3));
    assert_eq!(pair.offer(1), Outbound::Sent { records: 1 });
    assert_eq!(pair.tunnels[1].stats().handshakes, 1);
    // The decision is remembered for longer than the translation.
    pair.run(KEPT + Duration::from_secs(1));
    assert_eq!(pair.offer(1), Outbound::Held);
    assert_eq!((pair.delivered, pair.tunnels[1].stats().handshakes), ([3, 1], 2));
    pair.run(KEPT + Duration::from_secs(1));
    assert_eq!(pair.offer(1), Outbound::Sent { records: 1 }, "its own address is no translation's");
}

#[test]
fn where_nobody_answers_at_the_peers_own_address_packets_go_the_old_way_after_a_fifth_of_a_second() {
    let mut pair = translated();
    pair.run(KEPT + MOMENT);
    pair.lost = Some(INIT);
    let sent = pair.sent[1].len();
    let records = |pair: &Pair| pair.sent[1][sent..].iter().filter(|datagram| datagram[0] == DATA).count();
    assert_eq!((pair.offer(1), pair.offer(1)), (Outbound::Held, Outbound::Held));
    pair.run(Duration::from_millis(200) - MOMENT);
    assert_eq!(records(&pair), 0);
    pair.run(MOMENT);
    assert_eq!((records(&pair), pair.delivered), (2, [3, 1]));
    assert_eq!(pair.offer(1), Outbound::Sent { records: 1 }, "and so do those behind them");
    pair.run(KEPT + Duration::from_secs(2));
    assert!(pair.tunnels[1].exchanges.is_silent(address(0), pair.now));
    assert_eq!(pair.offer(1), Outbound::Sent { records: 1 }, "it is not waited for so soon again");
    assert_eq!((pair.delivered, pair.tunnels[1].stats().dropped_total()), ([5, 1], 0));
}
