//! Under a flood of handshakes those who show where they are get through, and sessions do not notice.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tencrypt::{
    CipherSuite, DropReason, Identity, Seed,
    internal::{self, Initiator, Local, Message, Rng},
    record::SessionIndex,
};
use tencrypt_sim::{PodId, PodOptions, Tenant, Weather, World};

const INIT: u8 = 1;
const RESP: u8 = 2;
const CONF: u8 = 3;
const COOKIE: u8 = 5;
const PORT: u16 = 8362;

type Captured = Vec<(SocketAddr, SocketAddr, Vec<u8>)>;

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn clear() -> World {
    World::new(1, Weather::CLEAR)
}

/// Pods 1 and 2 of one tenant, which have not spoken yet.
fn two_pods() -> (World, Tenant, PodId, PodId) {
    let mut world = clear();
    let tenant = world.tenant();
    let [a, b] = [1, 2].map(|number| world.pod(&tenant, PodOptions::new(&[v4(number)])));
    (world, tenant, a, b)
}

/// Somebody who knows the tenant's key and floods: INITs with the right mac1, each another one.
struct Flood {
    tenant: Tenant,
    suite: CipherSuite,
    identity: Identity,
    rng: Rng,
    made: u32,
}

impl Flood {
    fn new(tenant: &Tenant) -> Self {
        Self::of_suite(tenant, CipherSuite::Aes256Gcm)
    }

    fn of_suite(tenant: &Tenant, suite: CipherSuite) -> Self {
        let identity = Identity::generate(Seed::from_bytes([9; 32]), &[]);
        let rng = Rng::new(Seed::from_bytes([8; 32]));
        Self { tenant: tenant.clone(), suite, identity, rng, made: 0 }
    }

    fn init(&mut self, asked: IpAddr) -> Vec<u8> {
        self.made += 1;
        let local = Local::new(self.tenant.keys(), self.suite, &self.identity, &[], true);
        let index = SessionIndex::from_u32(self.made).expect("not 0");
        Initiator::start(&local, index, asked, &mut self.rng).1.to_vec()
    }

    /// Makes a pod loaded, by INITs from as many addresses.
    fn overload(&mut self, world: &mut World, pod: PodId, to: IpAddr) {
        for number in 0..300_u32 {
            let [.., high, low] = number.to_be_bytes();
            let init = self.init(to);
            world.inject(pod, SocketAddr::new(IpAddr::from([10, 3, high, low]), PORT), init);
        }
    }
}

fn of_type(captured: &Captured, kind: u8) -> Captured {
    captured.iter().filter(|(.., bytes)| bytes[0] == kind).cloned().collect()
}

fn receiver(datagram: &[u8]) -> [u8; 4] {
    datagram[4..8].try_into().expect("4 bytes")
}

fn mac2(datagram: &[u8]) -> &[u8] {
    &datagram[datagram.len() - 16..]
}

/// A pod under load, another one, and the INIT that this one has sent with its cookie.
struct Asked {
    world: World,
    flood: Flood,
    a: PodId,
    b: PodId,
    init: Vec<u8>,
}

fn asked(suite: CipherSuite) -> Asked {
    let mut world = clear();
    let tenant = world.tenant();
    let [a, b] = [1, 2].map(|number| {
        let mut options = PodOptions::new(&[v4(number)]);
        options.suite = suite;
        world.pod(&tenant, options)
    });
    let mut flood = Flood::of_suite(&tenant, suite);
    flood.overload(&mut world, b, v4(2));
    world.capture();
    let number = world.send(a, v4(2), 100);
    world.run_for(ms(50));
    assert!(world.model().is_delivered(number));
    let captured = world.captured();
    let inits = of_type(&captured, INIT);
    let (cookies, confs) = (of_type(&captured, COOKIE), of_type(&captured, CONF));
    assert_eq!((inits.len(), cookies.len(), confs.len()), (2, 1, 1), "one round trip more, no second one");
    let len = if suite.is_hybrid() { 1_372 } else { 284 };
    assert_eq!((mac2(&inits[0].2), inits[0].2.len()), (&[0; 16][..], len));
    assert_eq!(inits[0].2[..len - 16], inits[1].2[..len - 16], "the repeat differs in mac2 alone");
    assert!(mac2(&inits[1].2) != [0; 16] && mac2(&confs[0].2) != [0; 16]);
    assert_eq!((cookies[0].1, cookies[0].2.len()), (SocketAddr::new(v4(1), PORT), 64));
    Asked { world, flood, a, b, init: inits[1].2.clone() }
}

/// The answer of `b` to an INIT with this mac2 and the mac1 of a new one: a type, or nothing.
fn answer(world: &mut World, b: PodId, from: SocketAddr, init: Vec<u8>) -> Option<u8> {
    world.captured();
    world.inject(b, from, init);
    world.captured().first().map(|(.., bytes)| bytes[0])
}

#[test]
fn under_load_a_pod_gets_a_cookie_and_then_its_session_one_round_trip_later() {
    CipherSuite::ALL.iter().copied().for_each(|suite| drop(asked(suite)));
}

#[test]
fn mac2_counts_for_its_message_address_port_and_two_minutes() {
    let Asked { mut world, mut flood, a, b, init } = asked(CipherSuite::Aes256Gcm);
    let home = SocketAddr::new(v4(1), PORT);
    // Its sender is gone, so that the INIT is a new one to the pod under load.
    let _ = a;
    world.restart(b);
    flood.overload(&mut world, b, v4(2));
    assert_eq!(answer(&mut world, b, home, init), Some(COOKIE), "of a secret that is gone");
    // A fresh INIT, its cookie, and mac2 as the pod itself would write it: a third pod does it for us.
    let third = world.pod(&flood.tenant, PodOptions::new(&[v4(3)]));
    let home = SocketAddr::new(v4(3), PORT);
    world.captured();
    world.send(third, v4(2), 100);
    world.run_for(ms(50));
    let inits = of_type(&world.captured(), INIT);
    let init = inits.last().expect("an INIT with mac2").2.clone();
    let mut fresh = flood.init(v4(2));
    fresh[268..].copy_from_slice(mac2(&init));
    assert_eq!(answer(&mut world, b, home, fresh), Some(COOKIE), "mac2 of another message");
    // The half-open handshake ended with CONF, so the same INIT is new again.
    assert_eq!(answer(&mut world, b, SocketAddr::new(v4(3), PORT + 1), init.clone()), Some(COOKIE), "port");
    assert_eq!(answer(&mut world, b, SocketAddr::new(v4(4), PORT), init.clone()), Some(COOKIE), "address");
    for bit in 0..128 {
        let mut wrong = init.clone();
        wrong[268 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(answer(&mut world, b, home, wrong), Some(COOKIE), "bit {bit}");
    }
    assert_eq!(answer(&mut world, b, home, init.clone()), Some(RESP));
    world.run_for(Duration::from_secs(121));
    flood.overload(&mut world, b, v4(2));
    assert_eq!(answer(&mut world, b, home, init), Some(COOKIE), "after two minutes");
}

#[test]
fn a_pod_that_starts_over_takes_no_cookie_that_it_handed_out_before() {
    let Asked { mut world, mut flood, b, init, .. } = asked(CipherSuite::Aes256Gcm);
    let home = SocketAddr::new(v4(1), PORT);
    // The half-open handshake ended with CONF, so the same INIT is new again.
    assert_eq!(answer(&mut world, b, home, init.clone()), Some(RESP));
    world.renew(b, 1);
    flood.overload(&mut world, b, v4(2));
    assert_eq!(answer(&mut world, b, home, init), Some(COOKIE));
}

#[test]
fn a_cookie_that_nobody_waits_for_changes_nothing() {
    let (mut world, tenant, a, b) = two_pods();
    let mut flood = Flood::new(&tenant);
    flood.overload(&mut world, b, v4(2));
    world.capture();
    // An INIT to nobody, in flight; and the cookie for another message, made out to it.
    world.send(a, v4(9), 100);
    let flight = of_type(&world.captured(), INIT)[0].2.clone();
    let other = flood.init(v4(2));
    world.inject(b, SocketAddr::new(v4(1), PORT), other.clone());
    let mut cookie = of_type(&world.captured(), COOKIE)[0].2.clone();
    assert_eq!(receiver(&cookie), receiver(&other));
    let from = SocketAddr::new(v4(2), PORT);
    let before = *world.tunnel_of(a).stats();
    world.inject(a, from, cookie.clone());
    cookie[4..8].copy_from_slice(&receiver(&flight));
    world.inject(a, from, cookie.clone());
    let stats = *world.tunnel_of(a).stats();
    assert_eq!(stats.dropped(DropReason::UnknownIndex) - before.dropped(DropReason::UnknownIndex), 1);
    assert_eq!(stats.dropped(DropReason::Auth) - before.dropped(DropReason::Auth), 1);
    assert!(world.captured().is_empty(), "it was answered");
    world.run_for(ms(400));
    let repeats = of_type(&world.captured(), INIT);
    assert!(!repeats.is_empty() && repeats.iter().all(|(.., bytes)| *bytes == flight), "mac2 was changed");
    // The genuine one for it counts, once in 200 ms however often it comes, and moves no endpoint.
    world.inject(b, SocketAddr::new(v4(1), PORT), flight);
    let genuine = of_type(&world.captured(), COOKIE)[0].2.clone();
    for _ in 0..100 {
        world.inject(a, SocketAddr::new(v4(66), 1), genuine.clone());
    }
    let captured = world.captured();
    assert_eq!(captured.len(), 1);
    assert_eq!(captured[0].1, SocketAddr::new(v4(9), PORT));
    assert!(mac2(&captured[0].2) != [0; 16]);
}

#[test]
fn a_flood_from_a_thousand_addresses_leaves_sessions_and_new_handshakes_working() {
    let (mut world, tenant, a, b) = two_pods();
    let c = world.pod(&tenant, PodOptions::new(&[v4(3)]));
    world.send(a, v4(2), 100);
    world.run_for(ms(50));
    let mut flood = Flood::new(&tenant);
    world.capture();
    let (mut numbers, mut late) = (Vec::new(), None);
    for round in 0..200_u32 {
        for number in 0..25 {
            let [.., high, low] = ((round * 25 + number) % 1_000).to_be_bytes();
            let init = flood.init(v4(2));
            world.inject(b, SocketAddr::new(IpAddr::from([10, 3, high, low]), PORT), init);
        }
        numbers.push(world.send(a, v4(2), 100));
        numbers.push(world.send(b, v4(1), 100));
        if round == 100 {
            late = Some(world.send(c, v4(2), 100));
        }
        world.run_for(ms(10));
    }
    world.run_for(ms(50));
    assert!(numbers.iter().all(|number| world.model().is_delivered(*number)), "a session suffered");
    assert!(world.model().is_delivered(late.expect("it was sent")), "a new handshake did not get through");
    let captured = world.captured();
    let from_b = |kind: u8| of_type(&captured, kind).iter().filter(|(from, ..)| from.ip() == v4(2)).count();
    // 5,000 INITs in 2 s: what costs work is bounded a second, the rest is told to come back.
    assert!(from_b(RESP) <= 3 * 256, "{} RESPs", from_b(RESP));
    assert!(from_b(COOKIE) >= 4_000, "{} COOKIEs", from_b(COOKIE));
    assert!(world.tunnel_of(b).stats().dropped(DropReason::RateLimited) >= 4_000);
    let to_c = of_type(&captured, COOKIE).iter().filter(|(_, to, _)| to.ip() == v4(3)).count();
    assert_eq!(to_c, 1);
    assert_eq!(world.model().violations(), []);
}

#[test]
fn a_source_that_asks_too_often_is_told_to_show_itself_and_others_do_not_notice() {
    let mut world = clear();
    let tenant = world.tenant();
    let b = world.pod(&tenant, PodOptions::new(&[v4(2)]));
    let mut flood = Flood::new(&tenant);
    world.capture();
    let one = SocketAddr::new(v4(1), PORT);
    let first = flood.init(v4(2));
    world.inject(b, one, first.clone());
    for _ in 0..99 {
        let init = flood.init(v4(2));
        world.inject(b, one, init);
    }
    let captured = world.captured();
    assert_eq!((of_type(&captured, RESP).len(), of_type(&captured, COOKIE).len()), (4, 96));
    // The answer that is kept does not count against it.
    world.run_for(ms(200));
    assert_eq!(answer(&mut world, b, one, first), Some(RESP));
    let other = flood.init(v4(2));
    assert_eq!(answer(&mut world, b, SocketAddr::new(v4(3), PORT), other), Some(RESP));
}

#[test]
fn half_open_handshakes_are_four_of_a_source_and_1024_in_all() {
    let (mut world, tenant, a, b) = two_pods();
    world.send(a, v4(2), 100);
    world.run_for(ms(50));
    let identity = Identity::generate(Seed::from_bytes([9; 32]), &[]);
    let local = Local::new(tenant.keys(), CipherSuite::Aes256Gcm, &identity, &[], true);
    let mut rng = Rng::new(Seed::from_bytes([8; 32]));
    world.capture();
    // Slowly enough to be no load; half-open handshakes live 10 s.
    let mut ask = |world: &mut World, source: IpAddr| {
        let index = SessionIndex::random(0, &mut rng);
        let (mut initiator, init) = Initiator::start(&local, index, v4(2), &mut rng);
        world.inject(b, SocketAddr::new(source, PORT), init.to_vec());
        world.run_for(ms(5));
        let (.., resp) = world.captured().into_iter().find(|(.., bytes)| bytes[0] == RESP)?;
        let Ok(Message::Resp(resp)) = internal::parse(&resp) else { return None };
        Some(initiator.handle_resp(&resp).expect("it is for this INIT").conf.to_vec())
    };
    let of_one: Vec<bool> = (0..6)
        .map(|_| {
            let answered = ask(&mut world, v4(7)).is_some();
            world.run_for(ms(50));
            answered
        })
        .collect();
    assert_eq!(of_one, [true, true, true, true, false, false]);
    assert_eq!(world.tunnel_of(b).stats().dropped(DropReason::RateLimited), 2);
    world.run_for(Duration::from_secs(11));
    let source = |number: u32| {
        let [.., high, low] = number.to_be_bytes();
        IpAddr::from([10, 3, high, low])
    };
    let confs: Vec<Vec<u8>> =
        (0..1_100).map(|number| ask(&mut world, source(number)).expect("there is no load")).collect();
    // The oldest made room.
    for number in [0, 75, 76, 1_099] {
        let before = *world.tunnel_of(b).stats();
        world.inject(b, SocketAddr::new(source(number), PORT), confs[number as usize].clone());
        let after = world.tunnel_of(b).stats();
        let gone = after.dropped(DropReason::UnknownIndex) - before.dropped(DropReason::UnknownIndex);
        assert_eq!((gone, after.handshakes - before.handshakes), if number < 76 { (1, 0) } else { (0, 1) });
    }
    let numbers = [world.send(a, v4(2), 100), world.send(b, v4(1), 100)];
    world.run_for(ms(50));
    assert!(numbers.iter().all(|number| world.model().is_delivered(*number)), "a session suffered");
}

#[test]
fn a_replayed_init_costs_nothing_and_fills_nothing() {
    let (mut world, tenant, a, b) = two_pods();
    world.send(a, v4(2), 100);
    world.run_for(ms(50));
    let before = *world.tunnel_of(b).stats();
    let mut flood = Flood::new(&tenant);
    let init = flood.init(v4(2));
    assert!(matches!(internal::parse(&init), Ok(Message::Init(_))));
    world.capture();
    // From one address, and from ten thousand.
    for number in 0..200_000_u32 {
        let [.., high, low] = if number < 100_000 { [0; 4] } else { (number % 10_000).to_be_bytes() };
        world.inject(b, SocketAddr::new(IpAddr::from([10, 3, high, low]), PORT), init.clone());
    }
    let captured = world.captured();
    // The one who made it may be any of them.
    let [(_, first, one), (_, second, other)] = &captured[..] else { panic!("{} answers", captured.len()) };
    assert!(
        first != second && one == other && one[0] == RESP,
        "the same answer, to the first and to one elsewhere"
    );
    let mut expected = before;
    expected.drop_many(DropReason::Replay, 199_998);
    assert_eq!(*world.tunnel_of(b).stats(), expected);
    // It was no load, and the sessions of others do not notice.
    let new = flood.init(v4(2));
    assert_eq!(answer(&mut world, b, SocketAddr::new(v4(9), PORT), new), Some(RESP));
    let numbers = [world.send(a, v4(2), 100), world.send(b, v4(1), 100)];
    world.run_for(ms(50));
    assert!(numbers.iter().all(|number| world.model().is_delivered(*number)), "a session suffered");
}

#[test]
fn whoever_replays_inits_with_a_pods_address_does_not_keep_it_from_a_handshake() {
    let (mut world, tenant, a, b) = two_pods();
    let mut flood = Flood::new(&tenant);
    let recorded: Vec<Vec<u8>> = (0..8).map(|_| flood.init(v4(2))).collect();
    let home = SocketAddr::new(v4(1), PORT);
    world.capture();
    let replay = |world: &mut World| {
        recorded.iter().for_each(|init| world.inject(b, home, init.clone()));
        // For its bucket, which it does not share with those who have shown themselves.
        world.run_for(ms(400));
    };
    replay(&mut world);
    replay(&mut world);
    let captured = world.captured();
    assert_eq!(of_type(&captured, RESP).len(), 4 + 4, "four are kept and answered again");
    assert!(of_type(&captured, COOKIE).len() >= 4);
    for round in 0..3 {
        let number = world.send(a, v4(2), 100);
        world.run_for(ms(50));
        assert!(world.model().is_delivered(number), "round {round}");
        let captured = world.captured();
        let of = |kind: u8| of_type(&captured, kind).len();
        assert_eq!((of(INIT), of(COOKIE), of(RESP)), (2, 1, 1), "round {round}");
        world.restart(a);
        replay(&mut world);
        world.captured();
    }
    assert_eq!(world.model().violations(), []);
}

/// Somebody sees an INIT that nobody has answered yet, and sends it again from elsewhere as soon as there is somebody.
#[test]
fn whoever_repeats_an_init_before_its_own_sender_does_not_keep_that_one_from_an_answer() {
    let (mut world, tenant, _, b) = two_pods();
    let mut flood = Flood::new(&tenant);
    let init = flood.init(v4(2));
    let [copier, own] = [SocketAddr::new(v4(77), PORT), SocketAddr::new(v4(9), PORT)];
    let first = answer(&mut world, b, copier, init.clone());
    assert_eq!((first, answer(&mut world, b, own, init)), (Some(RESP), Some(RESP)));
}
