//! Messages that come late or from elsewhere: what they prove is what was sent, when and where.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::pair::{Pair, address, ring};
use crate::{
    CipherSuite, Identity, Output, Seed, TunnelConfig,
    crypto::PeerId,
    directory::Standing,
    sink::{RecvMeta, bytes::PacketQueue},
    testing::start,
    tunnel::{Tunnel, membership::Claimant, proofs::ProvenBy::Answer},
};

const INIT: u8 = 1;
/// A second address of the other pod.
const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

fn stranger() -> PeerId {
    PeerId::from_bytes([9; 32])
}

/// Somebody else answers at an address that he names, to what was sent at that time.
fn moved(tunnel: &mut Tunnel, address: IpAddr, now: Instant) {
    let claimant = Claimant { member: stranger(), addresses: &[address], certificate: None };
    tunnel.proven(claimant, address, Answer, now, now);
    assert!(is_led_to(tunnel, address, stranger(), now));
}

fn is_led_to(tunnel: &Tunnel, address: IpAddr, member: PeerId, now: Instant) -> bool {
    tunnel.routes.route(address, now).is_some_and(|route| route.member == member)
}

/// Two of which the second has two addresses, and that do not hear each other.
fn apart() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.tunnels[1].set_addresses(&[address(1), SECOND], start());
    pair.connected = false;
    pair
}

/// The datagrams that a tunnel has to send.
fn sent(tunnel: &mut Tunnel, now: Instant) -> Vec<Vec<u8>> {
    tunnel.handle_timeout(now);
    let (mut sent, mut buf) = (Vec::new(), [0; 2_048]);
    loop {
        match tunnel.poll_output(&mut buf, now) {
            Output::Transmit(transmit) => sent.push(buf[..transmit.len].to_vec()),
            Output::Timeout(_) => return sent,
            _ => {}
        }
    }
}

/// Hands datagrams to a tunnel, from there, and returns what it answers.
fn exchange(tunnel: &mut Tunnel, from: IpAddr, datagrams: Vec<Vec<u8>>, now: Instant) -> Vec<Vec<u8>> {
    for mut datagram in datagrams {
        let meta = RecvMeta::new(SocketAddr::new(from, 8_362), datagram.len() as u16);
        let _ = tunnel.handle_datagrams(&meta, &mut datagram, now, &mut PacketQueue::new(1));
    }
    sent(tunnel, now)
}

#[test]
fn an_answer_is_as_old_as_its_question_however_late_it_comes() {
    let mut pair = apart();
    assert_eq!(pair.offer(0), crate::Outbound::Held);
    let (asked, later) = (pair.now, pair.now + Duration::from_millis(500));
    let init = pair.sent[0].pop().expect("INIT");
    moved(&mut pair.tunnels[0], address(1), later);
    let resp = exchange(&mut pair.tunnels[1], address(0), vec![init], later);
    exchange(&mut pair.tunnels[0], address(1), resp, later);
    assert_eq!(pair.tunnels[0].stats().handshakes, 1, "there is a session, asked for at {asked:?}");
    assert!(is_led_to(&pair.tunnels[0], address(1), stranger(), later));
}

#[test]
fn so_is_an_answer_that_proves_a_second_address() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    pair.connected = false;
    let now = pair.now;
    pair.tunnels[1].set_addresses(&[address(1), SECOND], now);
    let (exchanges, mut cx) = pair.tunnels[0].exchanging(now);
    assert!(exchanges.ask_proof(SECOND, address(1), false, &mut cx));
    let init = sent(&mut pair.tunnels[0], now);
    let later = now + Duration::from_millis(500);
    moved(&mut pair.tunnels[0], SECOND, later);
    let resp = exchange(&mut pair.tunnels[1], address(0), init, later);
    let answered: Vec<Vec<u8>> = resp.into_iter().filter(|datagram| datagram[0] == INIT + 1).collect();
    assert_eq!(answered.len(), 1);
    exchange(&mut pair.tunnels[0], SECOND, answered, later);
    assert!(!pair.tunnels[0].exchanges.is_asked(SECOND), "it is answered");
    assert!(is_led_to(&pair.tunnels[0], SECOND, stranger(), later));
}

/// The other side's INIT, and the answer to it.
fn asked_by_other(pair: &mut Pair, from: IpAddr) -> Vec<Vec<u8>> {
    assert_eq!(pair.offer(1), crate::Outbound::Held);
    let (init, now) = (pair.sent[1].pop().expect("INIT"), pair.now);
    exchange(&mut pair.tunnels[0], from, vec![init], now)
}

#[test]
fn a_confirmation_proves_the_address_that_its_answer_went_to_and_not_the_one_it_comes_from() {
    let mut pair = apart();
    let (now, other) = (pair.now, pair.tunnels[1].peer_id());
    let resp = asked_by_other(&mut pair, address(1));
    let conf = exchange(&mut pair.tunnels[1], address(0), resp, now);
    exchange(&mut pair.tunnels[0], SECOND, conf, now);
    assert_eq!(pair.tunnels[0].stats().handshakes, 1);
    assert!(is_led_to(&pair.tunnels[0], address(1), other, now));
    assert!(!is_led_to(&pair.tunnels[0], SECOND, other, now), "a source can be made up");
}

#[test]
fn a_confirmation_is_as_old_as_the_answer_however_late_it_comes() {
    let mut pair = apart();
    let later = pair.now + Duration::from_secs(5);
    let resp = asked_by_other(&mut pair, address(1));
    moved(&mut pair.tunnels[0], address(1), later);
    let conf = exchange(&mut pair.tunnels[1], address(0), resp, later);
    exchange(&mut pair.tunnels[0], address(1), conf, later);
    assert_eq!(pair.tunnels[0].stats().handshakes, 1);
    assert!(is_led_to(&pair.tunnels[0], address(1), stranger(), later));
}

/// The one who confirms received it in one of two places: who copied the INIT has the other.
#[test]
fn a_confirmation_of_an_answer_that_went_to_two_places_proves_neither() {
    let mut pair = apart();
    assert_eq!(pair.offer(1), crate::Outbound::Held);
    let (init, now) = (pair.sent[1].pop().expect("INIT"), pair.now);
    let other = pair.tunnels[1].peer_id();
    // A copy of it is there first, and says that it comes from the second address.
    let first = exchange(&mut pair.tunnels[0], SECOND, vec![init.clone()], now);
    let second = exchange(&mut pair.tunnels[0], address(1), vec![init], now);
    assert_eq!((first.len(), second.len()), (1, 1));
    let conf = exchange(&mut pair.tunnels[1], address(0), second, now);
    exchange(&mut pair.tunnels[0], address(1), conf, now);
    assert_eq!(pair.tunnels[0].stats().handshakes, 1);
    assert!(!is_led_to(&pair.tunnels[0], SECOND, other, now));
}

#[test]
fn whose_word_was_refuted_by_who_answered_is_asked_about_no_more_for_a_while() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    let now = pair.now;
    let identity = Identity::generate(Seed::from_bytes([3; 32]), &[SECOND]);
    let mut config = TunnelConfig::new(["10.0.0.0/8".parse().expect("a range")]);
    config.suite = CipherSuite::Aes256Gcm;
    let mut honest = Tunnel::builder(config, ring(9), identity)
        .build(Seed::from_bytes([4; 32]), now)
        .expect("any suite fits");
    let tunnel = &mut pair.tunnels[0];
    let liar = IpAddr::from([10, 0, 0, 66]);
    let ask = |tunnel: &mut Tunnel, address: IpAddr| {
        let (exchanges, mut cx) = tunnel.exchanging(now);
        exchanges.ask_proof(address, liar, false, &mut cx)
    };
    assert!(ask(tunnel, SECOND));
    let init = sent(tunnel, now);
    let resp = exchange(&mut honest, address(0), init, now);
    exchange(tunnel, SECOND, resp, now);
    assert!(is_led_to(tunnel, SECOND, honest.peer_id(), now));
    assert!(!ask(tunnel, IpAddr::from([10, 0, 0, 8])));
}

/// A session goes on being replaced, and with it everything that hangs on it.
#[test]
fn what_a_peer_names_stays_its_own_as_long_as_it_is_spoken_to() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.tunnels[1].set_addresses(&[address(1), SECOND], start());
    pair.send(0);
    let other = pair.tunnels[1].peer_id();
    assert!(is_led_to(&pair.tunnels[0], SECOND, other, pair.now), "asked and answered");
    for _ in 0..100 {
        pair.run(Duration::from_secs(10));
        pair.send(0);
        let tunnel = &pair.tunnels[0];
        assert!(is_led_to(tunnel, SECOND, other, pair.now));
        assert_eq!(tunnel.policy.classify(SECOND, pair.now).standing, Standing::Internal);
    }
}

/// A session that is confirmed behind its successor says what was so when it was begun.
#[test]
fn a_confirmation_that_was_overtaken_says_nothing_of_its_senders_addresses() {
    let mut pair = apart();
    let now = pair.now;
    let resp = asked_by_other(&mut pair, address(1));
    let late = exchange(&mut pair.tunnels[1], address(0), resp, now);
    pair.tunnels[1].set_addresses(&[address(1)], now);
    let key = pair.tunnels[1].peers.keys()[0];
    let now = now + Duration::from_secs(1);
    pair.tunnels[1].rekey(key, now);
    let init: Vec<Vec<u8>> =
        sent(&mut pair.tunnels[1], now).into_iter().filter(|datagram| datagram[0] == INIT).collect();
    assert_eq!(init.len(), 1);
    let resp = exchange(&mut pair.tunnels[0], address(1), init, now);
    let conf = exchange(&mut pair.tunnels[1], address(0), resp, now);
    exchange(&mut pair.tunnels[0], address(1), conf, now);
    exchange(&mut pair.tunnels[0], address(1), late, now);
    let tunnel = &pair.tunnels[0];
    assert_eq!(tunnel.stats().handshakes, 2);
    let peer = tunnel.peers.find(tunnel.peers.keys()[0]).expect("a peer");
    assert!(!peer.asserts(SECOND) && !tunnel.exchanges.is_asked(SECOND));
}

#[test]
fn an_init_is_made_anew_after_half_a_minute_for_as_long_as_a_session_is_to_be_replaced() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.send(0);
    pair.connected = false;
    let (now, before) = (pair.now, pair.sent[0].len());
    let key = pair.tunnels[0].peers.keys()[0];
    pair.tunnels[0].rekey(key, now);
    pair.run(Duration::from_secs(70));
    let inits = pair.sent[0][before..].iter().filter(|datagram| datagram[0] == INIT);
    assert_eq!(inits.collect::<std::collections::BTreeSet<_>>().len(), 3);
}

/// Its addresses are in a message of the handshake that was made before it had the second one.
#[test]
fn who_got_an_address_while_a_handshake_was_under_way_tells_it_afterwards() {
    for (asking, changing) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut pair = Pair::new(CipherSuite::Aes256Gcm);
        pair.connected = false;
        assert_eq!(pair.offer(asking), crate::Outbound::Held);
        let (init, begun) = (pair.sent[asking].pop().expect("INIT"), pair.now);
        let later = begun + Duration::from_millis(5);
        let resp = exchange(&mut pair.tunnels[1 - asking], address(asking), vec![init], later);
        // Both have said theirs by now, or not.
        let changed = later + Duration::from_millis(5);
        let named = [address(changing), SECOND];
        pair.tunnels[changing].set_addresses(&named, changed);
        let conf = exchange(&mut pair.tunnels[asking], address(1 - asking), resp, changed);
        exchange(&mut pair.tunnels[1 - asking], address(asking), conf, changed);
        pair.now = changed;
        pair.connected = true;
        pair.run(Duration::from_secs(3));
        let other = &pair.tunnels[1 - changing];
        let peer = other.peers.find(other.peers.keys()[0]).expect("a peer");
        assert!(peer.asserts(SECOND), "{asking} asked, {changing} got it");
        let handshakes = other.stats().handshakes;
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.tunnels[1 - changing].stats().handshakes, handshakes, "once");
    }
}
