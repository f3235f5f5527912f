//! Datagrams at a running pod, whatever they hold, whenever they come and wherever from: what is due becomes of them, and
//! the pod's sessions go on.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt::{
    CipherSuite, DropReason, Identity, PeerInfo, Seed, Stats, UnansweredPolicy,
    internal::{self, Initiator, Local, Message, Rng, write_reset},
    record::SessionIndex,
    session::Sealer,
};
use tencrypt_sim::{PodId, PodOptions, Random, Tenant, Weather, World, udp};

const PORT: u16 = 8_362;
const INIT: u8 = 1;
const RESP: u8 = 2;
const CONF: u8 = 3;
const DATA: u8 = 4;

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

/// The end that a pod of this number sends from.
fn at(pod: u8) -> SocketAddr {
    SocketAddr::new(v4(pod), PORT)
}

/// An attacker outside of the protected ranges, whom nothing may be said to.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), PORT);
const STORM: Weather = Weather { loss: 100, ..Weather::CLEAR };

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn pod(world: &mut World, tenant: &Tenant, number: u8, suite: CipherSuite) -> PodId {
    let mut options = PodOptions::new(&[v4(number)]);
    options.suite = suite;
    world.pod(tenant, options)
}

/// Pods 1 and 2, and what they sent to each other is captured from now on.
struct Two {
    world: World,
    tenant: Tenant,
    a: PodId,
    b: PodId,
}

impl Two {
    /// Without a session.
    fn strangers() -> Self {
        let mut world = World::new(1, Weather::CLEAR);
        let tenant = world.tenant();
        let [a, b] = [1, 2].map(|number| pod(&mut world, &tenant, number, CipherSuite::Aes256Gcm));
        world.capture();
        Self { world, tenant, a, b }
    }

    /// With one that has carried packets both ways.
    fn new() -> Self {
        let mut two = Self::strangers();
        two.talk("at the beginning");
        two
    }

    /// Both are heard.
    fn talk(&mut self, what: &str) {
        let numbers = [self.world.send(self.a, v4(2), 64), self.world.send(self.b, v4(1), 64)];
        self.world.run_for(ms(50));
        let heard = numbers.map(|number| self.world.model().is_delivered(number));
        assert_eq!(heard, [true; 2], "{what}");
        assert_eq!(self.world.model().violations(), [], "{what}");
        self.world.captured();
    }

    fn stats(&self, pod: PodId) -> Stats {
        *self.world.tunnel_of(pod).stats()
    }

    /// Its peers, without what they have carried.
    fn peers(&self, pod: PodId) -> Vec<PeerInfo> {
        let peers = self.world.tunnel_of(pod).peers(self.world.now());
        let uncounted = |mut peer: PeerInfo| {
            (peer.rx_bytes, peer.tx_bytes) = (0, 0);
            peer
        };
        peers.map(uncounted).collect()
    }

    /// `b` drops a datagram, counts it once as one of `reasons`, says nothing and is as it was.
    fn drops(&mut self, what: &str, from: SocketAddr, bytes: Vec<u8>, reasons: &[DropReason]) {
        let (before, peers) = (self.stats(self.b), self.peers(self.b));
        self.world.inject(self.b, from, bytes);
        let after = self.stats(self.b);
        let fits = reasons.iter().any(|reason| {
            let mut expected = before;
            expected.drop_many(*reason, 1);
            after == expected
        });
        let all = DropReason::ALL.iter().copied();
        let counted: Vec<_> = all.filter(|reason| after.dropped(*reason) > before.dropped(*reason)).collect();
        assert!(fits, "{what}: {reasons:?} expected, {counted:?} found");
        assert!(self.world.captured().is_empty(), "{what}: it was answered");
        assert_eq!(self.peers(self.b), peers, "{what}");
    }

    /// The handshake messages of a handshake from `a` to `b`, none of which has arrived, with the packet that waits.
    fn init(&mut self) -> (Vec<u8>, u64) {
        self.world.weather(STORM);
        let number = self.world.send(self.a, v4(2), 64);
        let (.., init) = self.world.captured().pop().expect("INIT");
        assert_eq!(init[0], INIT);
        (init, number)
    }

    /// A pod's answers to a datagram of the other's.
    fn says(&mut self, to: PodId, bytes: &[u8]) -> Vec<Vec<u8>> {
        let from = if to == self.a { at(2) } else { at(1) };
        self.world.inject(to, from, bytes.to_vec());
        self.world.captured().into_iter().map(|(.., bytes)| bytes).collect()
    }
}

#[test]
fn of_every_length_of_every_type_only_the_exact_ones_pass_the_first_gate() {
    let mut two = Two::new();
    let mut random = Random::new(7);
    two.drops("nothing", OUTSIDE, Vec::new(), &[DropReason::Malformed]);
    for kind in 0..=8_u8 {
        for len in 1..=2_048_usize {
            let mut bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
            // What a datagram of the type begins with, so that its length alone decides.
            let first: &[u8] = match kind {
                1 => &[1, 1, 2, 1, 1, 2, 3, 4, 0, 0, 0, 0],
                2 | 3 => &[kind, 1, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8],
                4 => &[4, 0, 0, 0, 1, 2, 3, 4],
                5 => &[5, 1, 0, 0, 1, 2, 3, 4],
                6 => &[6, 1, 0, 1, 1, 2, 3, 4],
                other => &[other],
            };
            let known = first.len().min(len);
            bytes[..known].copy_from_slice(&first[..known]);
            let exact = match kind {
                1 | 2 => len == 284,
                3 => len == 252,
                4 => len >= 32,
                5 => len == 64,
                6 => len == 32,
                _ => false,
            };
            let expected = match kind {
                1..=6 if !exact => DropReason::Malformed,
                1..=3 | 6 => DropReason::Mac1,
                4 | 5 => DropReason::UnknownIndex,
                _ => DropReason::Unsupported,
            };
            two.drops(&format!("type {kind}, {len} bytes"), OUTSIDE, bytes, &[expected]);
        }
        two.talk(&format!("type {kind}"));
    }
}

#[test]
fn a_resp_counts_once_and_for_its_own_init() {
    let mut two = Two::strangers();
    let (init, number) = two.init();
    let resp = two.says(two.b, &init).remove(0);
    assert_eq!(resp[0], RESP);
    let conf = two.says(two.a, &resp).remove(0);
    assert_eq!(conf[0], CONF);
    let made = two.stats(two.a).handshakes;
    // Again and again, from wherever: its index is a session's now.
    for from in [at(2), at(9), OUTSIDE] {
        let before = two.stats(two.a).dropped(DropReason::UnknownIndex);
        two.world.inject(two.a, from, resp.clone());
        assert_eq!(two.stats(two.a).dropped(DropReason::UnknownIndex), before + 1);
        assert!(two.world.captured().is_empty());
    }
    assert_eq!(two.stats(two.a).handshakes, made);
    two.says(two.b, &conf);
    two.world.weather(Weather::CLEAR);
    two.world.run_for(ms(1_000));
    two.talk("after it");
    assert!(!two.world.model().is_delivered(number), "it was lost behind CONF");
    two.drops("to its own sender", at(1), resp, &[DropReason::UnknownIndex]);
}

/// CONF before RESP was asked for, DATA before CONF, CONF lost, twice, and after the DATA that it made possible.
#[test]
fn whatever_order_conf_and_data_come_in_the_session_ends_up_working() {
    let mut two = Two::strangers();
    let (init, _) = two.init();
    let resp = two.says(two.b, &init).remove(0);
    let said = two.says(two.a, &resp);
    let [conf, data] = said.as_slice() else { panic!("CONF, and the packet that waited: {}", said.len()) };
    assert_eq!((conf[0], data[0]), (CONF, DATA));
    // A CONF that nobody waits for yet.
    let mut other = Two::strangers();
    other.drops("before INIT", at(1), conf.clone(), &[DropReason::UnknownIndex]);
    // The record overtakes CONF, as often as it likes.
    for _ in 0..10 {
        two.drops("DATA before CONF", at(1), data.clone(), &[DropReason::BeforeConfirm]);
    }
    let answer = two.says(two.b, conf);
    assert_eq!(answer.iter().map(|bytes| (bytes[0], bytes.len())).collect::<Vec<_>>(), [(DATA, 32)]);
    // It was not held: its sender has to send it again, and the copy of the attacker opens once.
    let before = two.stats(two.b).decrypted;
    two.says(two.b, data);
    assert_eq!(two.stats(two.b).decrypted, before + 1);
    two.drops("DATA again", at(1), data.clone(), &[DropReason::Replay]);
    // CONF twice: another answer, five times a second at most, and no other session.
    let made = two.stats(two.b).handshakes;
    two.drops("CONF at once again", at(1), conf.clone(), &[DropReason::RateLimited]);
    two.world.run_for(ms(150));
    two.world.captured();
    assert_eq!(two.says(two.b, conf).len(), 1);
    assert_eq!(two.stats(two.b).handshakes, made);
    // Its answer was lost every time: CONF is repeated until one arrives.
    two.world.weather(Weather::CLEAR);
    two.world.run_for(ms(1_000));
    two.talk("after all");
    assert_eq!((two.stats(two.a).handshakes, two.stats(two.b).handshakes), (1, 1));
}

#[test]
fn a_conf_that_is_lost_is_repeated_until_it_arrives() {
    for lost in 1..=8_u64 {
        let mut two = Two::strangers();
        two.world.lose(|_, _, bytes| bytes[0] == CONF);
        two.world.send(two.a, v4(2), 64);
        // After 200 ms, doubling to 5 s, and a third of jitter.
        let (mut repeated, mut waited) = (0, 0);
        while repeated < lost {
            two.world.run_for(ms(10));
            waited += 1;
            assert!(waited < 6_000, "CONF is not repeated");
            repeated += two.world.captured().iter().filter(|(.., bytes)| bytes[0] == CONF).count() as u64;
        }
        assert!(two.stats(two.b).handshakes == 0);
        two.world.lose_nothing();
        two.world.run_for(ms(7_000));
        if lost > 4 {
            // The answer to INIT is not kept longer than 10 s. The next record is told so by RESET.
            two.world.send(two.a, v4(2), 64);
            two.world.run_for(ms(1_000));
        }
        two.talk(&format!("{lost} CONFs were lost"));
        // Data that goes unanswered for 2 s has the peer asked if it lives: before the fourth CONF.
        let most = if lost > 3 { 2 } else { 1 };
        for pod in [two.a, two.b] {
            assert!((1..=most).contains(&two.stats(pod).handshakes), "{lost} CONFs were lost");
        }
    }
}

#[test]
fn a_conf_that_is_overtaken_by_a_later_handshake_does_not_take_its_place() {
    let mut two = Two::strangers();
    let (init, _) = two.init();
    let resp = two.says(two.b, &init).remove(0);
    let late = two.says(two.a, &resp).remove(0);
    assert_eq!(late[0], CONF);
    // Its session is disclaimed, so another one is made in its place.
    two.world.run_for(ms(20));
    two.world.captured();
    let first = SessionIndex::from_u32(u32::from_le_bytes(resp[4..8].try_into().expect("4 bytes")));
    let reset = write_reset(two.tenant.keys(), first.expect("an index"), 1);
    let init = two.says(two.a, &reset).remove(0);
    assert_eq!(init[0], INIT);
    let resp = two.says(two.b, &init).remove(0);
    let conf = two.says(two.a, &resp).remove(0);
    let answer = two.says(two.b, &conf).remove(0);
    two.says(two.a, &answer);
    two.world.run_for(ms(20));
    two.world.captured();
    let answer = two.says(two.b, &late).remove(0);
    two.says(two.a, &answer);
    assert_eq!((two.stats(two.a).handshakes, two.stats(two.b).handshakes), (2, 2));
    two.world.captured();
    two.world.send(two.a, v4(2), 64);
    two.world.send(two.b, v4(1), 64);
    let sent: Vec<Vec<u8>> =
        two.world.captured().into_iter().map(|(.., bytes)| bytes[4..8].to_vec()).collect();
    assert_eq!(sent, [&resp[4..8], &init[4..8]], "both send on the second one");
    two.world.weather(Weather::CLEAR);
    two.talk("after all");
}

#[test]
fn a_record_from_another_address_opens_once_and_moves_nothing() {
    let mut two = Two::new();
    two.world.weather(STORM);
    let number = two.world.send(two.a, v4(2), 64);
    let record = two.world.captured().pop().expect("a record").2;
    let before = two.stats(two.b);
    // Pod 9 is nobody; the attacker may be anywhere.
    two.world.inject(two.b, SocketAddr::new(v4(9), 4_000), record.clone());
    assert!(two.world.model().is_delivered(number));
    for from in [at(1), at(9), OUTSIDE] {
        two.drops("again", from, record.clone(), &[DropReason::Replay]);
    }
    assert_eq!(two.stats(two.b).decrypted, before.decrypted + 1);
    assert_eq!(two.peers(two.b)[0].endpoint, at(1));
    two.world.send(two.b, v4(1), 64);
    let sent = two.world.captured();
    assert!(!sent.is_empty() && sent.iter().all(|(_, to, _)| *to == at(1)), "the endpoint moved");
    two.world.weather(Weather::CLEAR);
    two.talk("after it");
}

#[test]
fn pods_of_different_suites_have_no_session_and_count_it_and_send_nothing_in_plain() {
    for &ours in CipherSuite::ALL {
        for theirs in CipherSuite::ALL.iter().copied().filter(|theirs| *theirs != ours) {
            let mut world = World::new(1, Weather::CLEAR);
            let tenant = world.tenant();
            let a = pod(&mut world, &tenant, 1, ours);
            let b = pod(&mut world, &tenant, 2, theirs);
            let c = pod(&mut world, &tenant, 3, theirs);
            world.capture();
            let lost = world.send(a, v4(2), 64);
            world.run_for(ms(3_000));
            let captured = world.captured();
            assert!(captured.iter().all(|(from, ..)| *from == at(1)), "{ours} and {theirs}: it was answered");
            let sent = captured.iter().filter(|(.., bytes)| bytes[0] == INIT).count() as u64;
            assert_eq!((sent, captured.len() as u64), (sent, sent), "INITs alone");
            let stats = world.tunnel_of(b).stats();
            assert_eq!((stats.dropped(DropReason::Unsupported), stats.dropped_total()), (sent, sent));
            assert!(!world.model().is_delivered(lost) && world.bypassed_of(a).is_empty());
            for pod in [a, b] {
                assert_eq!(world.tunnel_of(pod).peers(world.now()).count(), 0);
            }
            let heard = world.send(c, v4(2), 64);
            world.run_for(ms(50));
            assert!(world.model().is_delivered(heard), "{theirs}");
            assert_eq!(world.model().violations(), []);
        }
    }
}

/// A member whose program seals what it likes, and `b`'s session with it.
fn sealing_member(two: &mut Two) -> impl FnMut(u8, &[u8]) -> Vec<u8> + use<> {
    let identity = Identity::generate(Seed::from_bytes([7; 32]), &[]);
    let own = [v4(7)];
    let mut rng = Rng::new(Seed::from_bytes([6; 32]));
    let local = Local::new(two.tenant.keys(), CipherSuite::Aes256Gcm, &identity, &own, true);
    let index = SessionIndex::random(0, &mut rng);
    let (mut initiator, init) = Initiator::start(&local, index, v4(2), &mut rng);
    two.world.inject(two.b, at(7), init.to_vec());
    let (.., resp) = two.world.captured().pop().expect("RESP");
    let Ok(Message::Resp(resp)) = internal::parse(&resp) else { panic!("RESP") };
    let mut confirmed = initiator.handle_resp(&resp).expect("it is for this INIT");
    two.world.inject(two.b, at(7), confirmed.conf.to_vec());
    two.world.captured();
    move |flags, packet| {
        let sealer = &mut confirmed.established.sealer;
        let counter = sealer.counters(1).ok().and_then(|mut counters| counters.take());
        let mut bytes = vec![0; packet.len() + Sealer::OVERHEAD];
        sealer.seal(counter.expect("there are enough"), flags, packet, &mut bytes);
        bytes
    }
}

#[test]
fn an_authentic_record_that_holds_no_whole_packet_is_dropped() {
    let mut two = Two::new();
    let mut seal = sealing_member(&mut two);
    let good = udp((v4(7), 40_000), (v4(2), 7), &[0x5a; 40]);
    let drop = |two: &mut Two, what: &str, record: Vec<u8>, reason| two.drops(what, at(7), record, &[reason]);
    for len in 1..good.len() {
        let record = seal(0, &good[..len]);
        drop(&mut two, &format!("{len} bytes"), record, DropReason::InnerMalformed);
    }
    // There is no padding: what is longer than its IP header says is no packet, zeros or not.
    for more in [&[0][..], &[1], &[0; 16], &[0xff; 200]] {
        let record = seal(0, &[&good, more].concat());
        drop(&mut two, &format!("{} bytes more", more.len()), record, DropReason::InnerMalformed);
    }
    for (what, at, value) in [
        ("version 0", 0, 0x05),
        ("version 5", 0, 0x55),
        ("version 15", 0, 0xf5),
        ("header length 4", 0, 0x44),
        ("header length 15", 0, 0x4f),
        ("total length", 2, 0xff),
        ("total length, shorter", 3, 20),
    ] {
        let mut bytes = good.clone();
        bytes[at] = value;
        let record = seal(0, &bytes);
        drop(&mut two, what, record, DropReason::InnerMalformed);
    }
    // An unfinished checksum of what has none there.
    let mut opaque = good.clone();
    opaque[9] = 132;
    let record = seal(1, &opaque);
    drop(&mut two, "unfinished SCTP", record, DropReason::InnerMalformed);
    let elsewhere = udp((v4(7), 40_000), (v4(9), 7), &[0x5a; 40]);
    let record = seal(0, &elsewhere);
    drop(&mut two, "to somebody else", record, DropReason::InnerDestination);
    let stolen = udp((v4(1), 40_000), (v4(2), 7), &[0x5a; 40]);
    let record = seal(0, &stolen);
    drop(&mut two, "from somebody else", record, DropReason::InnerSource);
    // Nothing at all is a keepalive: neither a drop nor a packet.
    let before = two.stats(two.b);
    let keepalive = seal(0, &[]);
    two.world.inject(two.b, at(7), keepalive);
    assert_eq!(two.stats(two.b), before);
    two.talk("after all");
}

/// Datagrams of the program carry its mark and never come back to it; what an application sends to the port is a packet
/// like any other, sealed once, and what it holds is judged as from the network.
#[test]
fn a_datagram_within_a_packet_is_sealed_once_and_its_copy_is_a_replay() {
    let mut two = Two::new();
    two.world.send(two.a, v4(2), 64);
    let record = two.world.captured().pop().expect("a record").2;
    two.world.run_for(ms(50));
    two.world.captured();
    // As the receiver's kernel hands it to the program: the inner packet was for its port.
    let nested = two.world.send_flow(two.a, (v4(1), PORT), (v4(2), PORT), 200);
    two.world.run_for(ms(50));
    assert!(two.world.model().is_delivered(nested));
    let on_the_wire = two.world.captured();
    assert_eq!(
        on_the_wire.iter().filter(|(.., bytes)| bytes[0] == DATA).count(),
        1,
        "one packet, one record"
    );
    two.drops("the record in it", at(1), record, &[DropReason::Replay]);
    two.talk("after it");
}

#[test]
fn what_a_network_does_to_datagrams_passes() {
    let mut two = Two::new();
    // A live session does not mind how long it takes.
    let slow = Weather { delay: ms(1_000), ..Weather::CLEAR };
    for (what, weather) in [
        ("5 % loss", Weather { loss: 5, ..Weather::CLEAR }),
        ("30 % loss", Weather { loss: 30, ..Weather::CLEAR }),
        ("all twice", Weather { duplicate: 100, jitter: ms(20), ..Weather::CLEAR }),
        ("a second under way", slow),
        ("all lost", STORM),
    ] {
        two.world.weather(weather);
        let lossless = weather.loss == 0;
        let mut numbers = Vec::new();
        // Past two replacements of the session.
        for _ in 0..300 {
            numbers.push(two.world.send(two.a, v4(2), 64));
            numbers.push(two.world.send(two.b, v4(1), 64));
            two.world.run_for(ms(1_000));
        }
        two.world.run_for(ms(1_100));
        let arrived = numbers.iter().filter(|number| two.world.model().is_delivered(**number)).count();
        let least = numbers.len() * (95 - usize::from(weather.loss).min(95)) / 100;
        assert!(arrived >= least && (!lossless || arrived == numbers.len()), "{what}: {arrived}");
        two.world.weather(Weather::CLEAR);
        two.world.run_for(ms(3_000));
        two.talk(what);
    }
    // To begin with it must be below half a second each way: after a second a destination counts as silent.
    for (delay, heard) in [(450, true), (550, false)] {
        let mut two = Two::strangers();
        two.world.weather(Weather { delay: ms(delay), ..Weather::CLEAR });
        let number = two.world.send(two.a, v4(2), 64);
        two.world.run_for(ms(5_000));
        assert_eq!(two.world.model().is_delivered(number), heard, "{delay} ms");
        assert!(two.world.bypassed_of(two.a).is_empty());
    }
}

/// The network says nothing of it: what is too long is lost, everything else passes, and nothing leaves in plain.
#[test]
fn a_path_that_loses_long_datagrams_loses_those_alone() {
    for &suite in CipherSuite::ALL {
        let mut world = World::new(1, Weather::CLEAR);
        let tenant = world.tenant();
        let mut options = PodOptions::new(&[v4(1)]);
        (options.suite, options.unknown) = (suite, UnansweredPolicy::Plain);
        let a = world.pod(&tenant, options);
        let b = pod(&mut world, &tenant, 2, suite);
        let first = world.send(b, v4(1), 64);
        world.run_for(ms(50));
        assert!(world.model().is_delivered(first));
        world.lose(|_, _, bytes| bytes.len() > 1_300);
        let (mut long, mut short) = (Vec::new(), Vec::new());
        for _ in 0..170 {
            long.push(world.send(a, v4(2), 1_300));
            short.push(world.send(a, v4(2), 64));
            short.push(world.send(b, v4(1), 64));
            world.run_for(ms(1_000));
        }
        let missing = |world: &World, numbers: &[u64]| {
            numbers.iter().filter(|number| !world.model().is_delivered(**number)).count()
        };
        assert_eq!((missing(&world, &long), missing(&world, &short)), (long.len(), 0), "{suite}");
        // Hybrid INIT and RESP are too long themselves: no session follows this one, and that is all.
        for _ in 0..60 {
            world.send(a, v4(2), 64);
            world.run_for(ms(1_000));
        }
        let last = world.send(a, v4(2), 64);
        world.run_for(ms(3_000));
        assert_eq!(world.model().is_delivered(last), !suite.is_hybrid(), "{suite}");
        assert!(world.bypassed_of(a).is_empty(), "{suite}");
        world.lose_nothing();
        world.run_for(ms(3_000));
        let back = world.send(a, v4(2), 1_300);
        world.run_for(ms(2_000));
        assert!(world.model().is_delivered(back), "{suite}");
        assert_eq!(world.model().violations(), []);
    }
}
