//! Packets that pass in plain although a member may be there: after how long a wait, and until when.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::pair::{ADDRESSES, Pair, address, ring};
use crate::{
    CipherSuite, DropReason, Event, Identity, Output, Seed, TunnelConfig,
    config::UnansweredPolicy,
    crypto::Rng,
    directory::{Class, Fact, FactChange, FactSource},
    nat::DnsHairpin,
    offload::VnetHdr,
    packet::samples::Sample,
    sink::bytes::DatagramQueue,
    testing::start,
    tunnel::{
        LaneId, Outbound, TunPacket, Tunnel, Verdict,
        limits::{CLAIMED_WAIT, MAX_CLAIMED_ASKED, SILENCE_KEPT},
    },
};

const INIT: u8 = 1;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn lone(unknown: UnansweredPolicy) -> Tunnel {
    let mut config = TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
    config.unknown = unknown;
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
    Tunnel::builder(config, ring(9), identity).build(Seed::from_bytes([2; 32]), start()).unwrap()
}

#[test]
fn a_nameserver_of_this_link_is_one_like_others_and_its_neighbours_are_not() {
    let nameservers = ["169.254.20.10", "169.254.169.253", "10.96.0.10"].map(|text| text.parse().unwrap());
    let mut config = TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
    config.dns = Some(DnsHairpin::new(nameservers.to_vec(), 5_300));
    let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
    let built = Tunnel::builder(config, ring(9), identity).build(Seed::from_bytes([2; 32]), start());
    let (mut tunnel, now) = (built.unwrap(), start());
    let mut offer = |to: &str, port| {
        let mut packet = Sample::udp(ADDRESSES[0], to, (5_000, port));
        let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
        tunnel.handle_packet(&mut packet, now, &mut DatagramQueue::new(0))
    };
    for nameserver in nameservers {
        assert!(matches!(offer(&nameserver.to_string(), 53), Outbound::Hairpin), "{nameserver}");
    }
    // Its other ports are outside of the protected ranges.
    assert!(matches!(offer("169.254.20.10", 9_253), Outbound::Bypass));
    for to in ["169.254.20.11", "224.0.0.251"] {
        for port in [53, 9_253] {
            assert!(matches!(offer(to, port), Outbound::Dropped(DropReason::Policy)), "{to}");
        }
    }
    let verdict = |to: &str| tunnel.explain(ADDRESSES[0].parse().unwrap(), to.parse().unwrap(), now).verdict;
    assert_eq!(verdict("169.254.20.10"), Verdict::Bypass);
    assert_eq!(verdict("169.254.20.11"), Verdict::Drop(DropReason::Policy));
}

fn offer(tunnel: &mut Tunnel, to: IpAddr, now: Instant) -> Outbound {
    let mut packet = Sample::udp(ADDRESSES[0], &to.to_string(), (1, 2));
    let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
    tunnel.handle_packet(&mut packet, now, &mut DatagramQueue::new(0))
}

/// Results of a while: INITs and packets that left, each with its time, and events.
#[derive(Default)]
struct Came {
    inits: Vec<Instant>,
    released: Vec<Instant>,
    /// Those of them that left before their bypass was announced.
    unannounced: usize,
    events: Vec<Event>,
}

/// Does all that is due until `now`.
fn run_to(tunnel: &mut Tunnel, now: Instant, came: &mut Came) {
    let mut at = None;
    loop {
        let due = at.unwrap_or(now);
        let mut buf = [0; 2_048];
        loop {
            match tunnel.poll_output(&mut buf, due) {
                Output::Transmit(_) => came.inits.extend((buf[0] == INIT).then_some(due)),
                Output::Released(_) => {
                    came.released.push(due);
                    let is_announced = |event: &Event| matches!(event, Event::External { .. });
                    came.unannounced += usize::from(!came.events.iter().any(is_announced));
                }
                Output::Event(event) => came.events.push(event),
                Output::LaneUpdate(_) | Output::Opened(_) => {}
                Output::Timeout(_) => break,
            }
        }
        at = tunnel.next_timeout().filter(|due| *due <= now);
        let Some(due) = at else { return };
        tunnel.handle_timeout(due);
    }
}

fn claim(to: IpAddr, expires: Option<Instant>) -> FactChange {
    FactChange::Learn(Fact::new(to, Class::External, FactSource::Dns("other.test".into()), expires))
}

#[test]
fn what_dns_calls_external_waits_a_tenth_of_a_second_once_a_minute_and_then_passes() {
    let (mut tunnel, start, to) = (lone(UnansweredPolicy::Drop), start(), address(1));
    let mut came = Came::default();
    tunnel.apply_facts(&[claim(to, None)], start);
    run_to(&mut tunnel, start, &mut came);
    assert_eq!(came.inits, [start], "asked before there is a packet");
    // The first packets wait for what is left of the time.
    let first = start + ms(30);
    assert_eq!(tunnel.classify(to, first), Verdict::Hold);
    assert_eq!(tunnel.explain(address(0), to, first).verdict, Verdict::Hold);
    for _ in 0..3 {
        assert_eq!(offer(&mut tunnel, to, first), Outbound::Held);
    }
    assert!(!came.events.contains(&Event::External { destination: to, until: None }));
    run_to(&mut tunnel, start + CLAIMED_WAIT, &mut came);
    assert_eq!((came.released.as_slice(), came.unannounced), (&[start + CLAIMED_WAIT; 3][..], 0));
    assert!(came.events.contains(&Event::External { destination: to, until: None }));
    // And no other for a minute, during which it is asked no more.
    for at in (100..60_900).step_by(100) {
        let now = start + ms(at);
        run_to(&mut tunnel, now, &mut came);
        assert_eq!(offer(&mut tunnel, to, now), Outbound::Bypass, "after {at} ms");
    }
    assert!(came.inits.iter().all(|at| *at < start + ms(1_000)));
    let asked = came.inits.len();
    let later = start + ms(1_000) + SILENCE_KEPT;
    run_to(&mut tunnel, later, &mut came);
    assert_eq!(offer(&mut tunnel, to, later), Outbound::Held);
    run_to(&mut tunnel, later + CLAIMED_WAIT, &mut came);
    assert_eq!((came.inits.len(), came.released.len()), (asked + 1, 4));
    let stats = tunnel.stats();
    assert_eq!((stats.opportunistic, stats.dropped_total()), (0, 0));
}

#[test]
fn a_fact_that_is_renewed_asks_nobody_anew_for_a_minute() {
    let (mut tunnel, start, to) = (lone(UnansweredPolicy::Drop), start(), address(1));
    let mut came = Came::default();
    for at in (0..60).step_by(5) {
        let now = start + Duration::from_secs(at);
        run_to(&mut tunnel, now, &mut came);
        tunnel.apply_facts(&[claim(to, Some(now + ms(5_500)))], now);
        run_to(&mut tunnel, now, &mut came);
    }
    assert!(came.inits.iter().all(|at| *at < start + ms(1_000)), "{:?}", came.inits.len());
}

#[test]
fn a_member_that_dns_calls_external_is_found_before_anything_passes() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[claim(address(1), None)], now);
    for number in 1..=20 {
        pair.send(0);
        pair.run(ms(5));
        assert_eq!(pair.delivered[1], number);
    }
    assert_eq!(pair.tunnels[0].stats().bypassed, 0);
    // The other way round, the first packet starts it.
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[claim(address(1), None)], now);
    pair.run(ms(2_000));
    pair.connected = true;
    pair.run(SILENCE_KEPT);
    pair.send(0);
    pair.run(ms(5));
    assert_eq!((pair.delivered[1], pair.tunnels[0].stats().bypassed), (1, 0));
}

#[test]
fn facts_have_sixteen_addresses_asked_at_once_and_no_range_and_by_one_lane() {
    let (mut tunnel, now) = (lone(UnansweredPolicy::Drop), start());
    let mut facts: Vec<FactChange> = (1..100).map(|host| claim([10, 3, 0, host].into(), None)).collect();
    let range =
        Fact::new("10.4.0.0/24".parse::<ipnet::IpNet>().unwrap(), Class::External, FactSource::Static, None);
    facts.insert(0, FactChange::Learn(range));
    facts.insert(1, claim([192, 0, 2, 1].into(), None));
    let mut other = tunnel.sibling(LaneId::new(1).unwrap(), Seed::from_bytes([9; 32]), now);
    let mut came = Came::default();
    tunnel.apply_facts(&facts, now);
    run_to(&mut tunnel, now, &mut came);
    assert_eq!(came.inits.len(), MAX_CLAIMED_ASKED);
    // Another is asked with its first packet.
    assert_eq!(offer(&mut tunnel, [10, 3, 0, 99].into(), now), Outbound::Held);
    let mut of_other = Came::default();
    other.apply_facts(&facts, now);
    run_to(&mut other, now, &mut of_other);
    assert!(of_other.inits.is_empty());
    assert_eq!(offer(&mut other, [10, 3, 0, 1].into(), now), Outbound::Held);
}

/// The owner of a bypass renews it each 10 s, and asks each time.
#[test]
fn a_bypass_that_is_renewed_is_asked_about_and_ends_when_a_member_comes_up() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[claim(address(1), None)], now);
    assert_eq!(pair.offer(0), Outbound::Held);
    for _ in 0..20 {
        pair.run(Duration::from_secs(10));
        let (before, now) = (pair.sent[0].len(), pair.now);
        for _ in 0..3 {
            pair.tunnels[0].ask_external(address(1), now);
            pair.settle();
        }
        assert_eq!(pair.sent[0].len(), before + 1, "asked once");
        assert_eq!(pair.offer(0), Outbound::Bypass, "nothing is held for it");
    }
    pair.run(Duration::from_secs(10));
    pair.connected = true;
    let now = pair.now;
    pair.tunnels[0].ask_external(address(1), now);
    pair.settle();
    assert!(matches!(pair.offer(0), Outbound::Sent { .. }));
    // Of others nobody is asked.
    let (before, now) = (pair.sent[0].len(), pair.now);
    for to in [address(1), [192, 0, 2, 1].into(), [127, 0, 0, 1].into(), address(0)] {
        pair.tunnels[0].ask_external(to, now);
        pair.settle();
    }
    assert_eq!(pair.sent[0].len(), before);
}

#[test]
fn under_plain_an_unknown_address_waits_a_second_once_and_is_asked_in_the_background() {
    let (mut tunnel, start, to) = (lone(UnansweredPolicy::Plain), start(), address(1));
    let mut came = Came::default();
    for at in (0..600_000).step_by(50) {
        let now = start + ms(at);
        run_to(&mut tunnel, now, &mut came);
        let expected = if at < 1_000 { Outbound::Held } else { Outbound::Bypass };
        assert_eq!(offer(&mut tunnel, to, now), expected, "after {at} ms");
    }
    assert_eq!(came.released.len(), 20);
    let pause = came.inits.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(pause.is_some_and(|pause| pause <= ms(5_100)), "{pause:?}");
    assert_eq!(tunnel.stats().opportunistic, 600 * 20);
    let failed = came.events.iter().filter(|event| matches!(event, Event::HandshakeFailed { .. })).count();
    assert_eq!(failed, 1, "what is asked in the background fails without a word");
    // The same where packets are dropped.
    let (mut tunnel, mut came) = (lone(UnansweredPolicy::Drop), Came::default());
    for at in (0..60_000).step_by(50) {
        run_to(&mut tunnel, start + ms(at), &mut came);
        let _ = offer(&mut tunnel, to, start + ms(at));
    }
    assert_eq!((came.events.len(), came.released.len()), (1, 0));
    // Once it answers nothing passes any more.
    let mut pair = Pair::with_config(|config| config.unknown = UnansweredPolicy::Plain);
    pair.connected = false;
    for _ in 0..1_200 {
        let _ = pair.offer(0);
        pair.run(ms(50));
    }
    pair.connected = true;
    let passed = (0..200).filter(|_| {
        let is_plain = pair.offer(0) == Outbound::Bypass;
        pair.run(ms(50));
        is_plain
    });
    assert!(passed.count() <= 102, "it is found within 5 s");
    assert!(pair.delivered[1] > 0);
}

/// ICMP comes from anybody.
#[test]
fn a_report_that_nobody_listens_ends_no_wait_and_is_counted() {
    for unknown in UnansweredPolicy::ALL {
        let (mut tunnel, start, to) = (lone(unknown), start(), address(1));
        let mut came = Came::default();
        assert_eq!(offer(&mut tunnel, to, start), Outbound::Held);
        for at in (0..1_000).step_by(10) {
            let now = start + ms(at);
            run_to(&mut tunnel, now, &mut came);
            tunnel.handle_unreachable(SocketAddr::new(to, 8_362), now);
        }
        run_to(&mut tunnel, start + ms(999), &mut came);
        assert!(came.released.is_empty() && tunnel.exchanges.is_asked(to));
        run_to(&mut tunnel, start + ms(1_000), &mut came);
        assert_eq!(came.released.len(), usize::from(unknown == UnansweredPolicy::Plain));
        assert_eq!((tunnel.stats().unreachable, tunnel.stats().dropped(DropReason::RateLimited)), (100, 0));
    }
}

/// Each packet of a random half hour ends in one of four ways, and only where policy lets it in plain.
#[test]
fn every_packet_that_was_held_is_sent_released_or_counted() {
    for seed in 0..20 {
        let mut random = Rng::new(Seed::from_bytes([seed; 32]));
        let unknown = UnansweredPolicy::ALL[usize::from(seed % 2)];
        let mut one = lone(unknown);
        let (mut held, mut refused, mut sent, mut passed) = (0, 0, 0, 0);
        let (mut now, mut came) = (start(), Came::default());
        for _ in 0..3_000 {
            now += ms(u64::from(random.u32() % 200));
            run_to(&mut one, now, &mut came);
            let to = IpAddr::from([10, 0, (random.u32() % 2) as u8, (random.u32() % 40) as u8 + 3]);
            match random.u32() % 20 {
                0 => one.apply_facts(&[claim(to, Some(now + ms(5_000)))], now),
                1 => {
                    let class = [Class::Internal, Class::External][(random.u32() % 2) as usize];
                    one.apply_facts(
                        &[FactChange::Learn(Fact::new(to, class, FactSource::Static, Some(now + ms(900))))],
                        now,
                    );
                }
                2 => one.handle_unreachable(SocketAddr::new(to, 8_362), now),
                3 => one.ask_external(to, now),
                _ => {
                    let count = random.u32() % 60;
                    for _ in 0..count {
                        match offer(&mut one, to, now) {
                            Outbound::Held => held += 1,
                            Outbound::Dropped(_) => refused += 1,
                            Outbound::Sent { .. } => sent += 1,
                            Outbound::Bypass | Outbound::Hairpin => passed += 1,
                        }
                    }
                }
            }
        }
        run_to(&mut one, now + Duration::from_secs(10), &mut came);
        let stats = *one.stats();
        assert!(held > 1_000 && passed > 100, "seed {seed}: {held} held, {passed} passed");
        assert_eq!(sent, 0);
        assert_eq!(stats.held, held);
        assert_eq!(held, came.released.len() as u64 + stats.dropped_total() - refused, "seed {seed}");
        assert_eq!(stats.bypassed, passed + came.released.len() as u64);
    }
}
