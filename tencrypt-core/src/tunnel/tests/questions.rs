//! Questions: what ends them, when they are asked again, and what an answer that comes late is worth.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::pair::{ADDRESSES, Pair, address, ring};
use crate::{
    CipherSuite, DropReason, Identity, Seed,
    crypto::{KeyRing, Rng},
    directory::{Class, Fact, FactChange, FactSource},
    handshake::{Initiator, Local},
    offload::VnetHdr,
    packet::samples::Sample,
    record::SessionIndex,
    sink::bytes::DatagramQueue,
    testing::start,
    tunnel::{
        Outbound, Output, TunPacket, Tunnel, Verdict,
        exchanges::{Purpose, Question},
        limits::{CONTACT_BURST, INIT_LIFE, MAX_ASKED, MAX_GIVEN_UP, SILENT_AT_FIRST},
    },
};

const INIT: u8 = 1;
const RESP: u8 = 2;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An INIT of somebody who has the tenant's key.
fn init_of_a_liar(number: u64) -> Vec<u8> {
    let mut seed = [0xab; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let (keys, mut rng) = (ring(9), Rng::new(Seed::from_bytes(seed)));
    let own = [IpAddr::from([10, 0, 0, 66])];
    let identity = Identity::generate(Seed::from_bytes([66; 32]), &own);
    let local = Local::new(&keys, CipherSuite::Aes256Gcm, &identity, &own, true);
    let index = SessionIndex::random(0, &mut rng);
    Initiator::start(&local, index, address(0), &mut rng).1.to_vec()
}

fn of_type(datagrams: &[Vec<u8>], kind: u8) -> impl Iterator<Item = &Vec<u8>> {
    datagrams.iter().filter(move |datagram| datagram[0] == kind)
}

fn last_of_type(datagrams: &[Vec<u8>], kind: u8) -> Vec<u8> {
    of_type(datagrams, kind).last().expect("one was sent").clone()
}

/// A pair whose first side has asked the second, which did not hear it.
fn asked_in_vain() -> Pair {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    assert_eq!(pair.offer(0), Outbound::Held);
    pair
}

/// Somebody who has the key sends INITs "from" the other side to both, in the time between INIT and RESP, so with a mac1
/// above and below that of the genuine one.
#[test]
fn forged_inits_in_the_window_of_a_first_contact_lose_nothing() {
    for run in 0..10 {
        let mut pair = asked_in_vain();
        let init = last_of_type(&pair.sent[0], INIT);
        for number in 0..5 {
            for side in 0..2 {
                pair.receive(side, init_of_a_liar(run * 100 + 10 * number + side as u64));
            }
        }
        pair.connected = true;
        pair.receive(1, init);
        pair.run(ms(3_000));
        let stats = pair.tunnels[0].stats();
        assert_eq!((pair.delivered[1], stats.dropped(DropReason::HeldTimeout)), (1, 0), "run {run}");
        // The answer to the very INIT that was under way.
        assert_eq!((stats.handshakes, stats.dropped(DropReason::UnknownIndex)), (1, 0), "run {run}");
    }
}

/// An INIT of somebody else, whose mac1 is smaller: of two that begin at once it would not be answered.
fn smaller_than(init: &[u8]) -> Vec<u8> {
    let mac1 = crate::record::mac1(init).expect("INIT has one");
    (0..).map(init_of_a_liar).find(|other| crate::record::mac1(other) < Some(mac1)).expect("one of two is")
}

#[test]
fn of_two_that_begin_at_once_one_is_answered_and_whoever_begins_later_is_answered_in_any_case() {
    for (later, answers) in [(ms(0), 0), (ms(300), 1)] {
        let mut pair = asked_in_vain();
        let init = last_of_type(&pair.sent[0], INIT);
        pair.run(later);
        pair.receive(0, smaller_than(&init));
        assert_eq!(of_type(&pair.sent[0], RESP).count(), answers, "{later:?} later");
    }
}

#[test]
fn a_question_for_proof_keeps_nobody_from_being_answered() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    let now = pair.now;
    let (exchanges, mut cx) = pair.tunnels[0].exchanging(now);
    assert!(exchanges.ask_proof(address(1), address(1), false, &mut cx));
    pair.settle();
    let init = last_of_type(&pair.sent[0], INIT);
    pair.receive(0, smaller_than(&init));
    assert_eq!(of_type(&pair.sent[0], RESP).count(), 1);
}

/// As often as they come: a repetition is put off once.
#[test]
fn forged_inits_without_end_do_not_keep_a_question_from_being_repeated() {
    let mut pair = asked_in_vain();
    for number in 0..45 {
        pair.receive(0, init_of_a_liar(number));
        pair.run(ms(20));
    }
    let repeated = of_type(&pair.sent[0], INIT).count();
    assert!((3..=5).contains(&repeated), "{repeated} INITs in 0.9 s");
    pair.connected = true;
    pair.run(ms(1_000));
    let again = pair.offer(0);
    pair.run(ms(1_000));
    assert!(pair.delivered[1] > 0, "{again:?}");
}

/// Offers a packet each 50 ms for this long. Returns the times in ms at which INIT left, and how many different ones.
fn inits_of(pair: &mut Pair, seconds: u64) -> (Vec<u64>, usize) {
    let mut times = Vec::new();
    let before = pair.sent[0].len();
    let mut seen = before;
    for step in 0..seconds * 20 {
        let _ = pair.offer(0);
        for _ in 0..10 {
            for datagram in &pair.sent[0][seen..] {
                assert_eq!(datagram[0], INIT);
                times.push(step * 50);
            }
            seen = pair.sent[0].len();
            pair.run(ms(5));
        }
    }
    let different: BTreeSet<&Vec<u8>> = pair.sent[0][before..].iter().collect();
    (times, different.len())
}

fn longest_pause(times: impl Iterator<Item = u64>) -> u64 {
    let times: Vec<u64> = times.collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two INITs")
}

#[test]
fn a_silent_address_is_asked_again_each_second_at_first_then_each_five_and_by_one_init_each_half_minute() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    let (times, different) = inits_of(&mut pair, 180);
    let at_first = SILENT_AT_FIRST.as_millis() as u64;
    let (early, late): (Vec<u64>, Vec<u64>) = times.iter().partition(|at| **at < at_first);
    // 50 ms between packets, and as much again since that is how times are taken here.
    assert!(longest_pause(early.into_iter()) <= 1_100, "{times:?}");
    let pause = longest_pause(late.into_iter());
    assert!((5_000..=5_100).contains(&pause), "{pause}, {times:?}");
    assert!((6..=7).contains(&different), "{different} key pairs in 180 s");
}

#[test]
fn an_internal_address_is_asked_each_second_for_ever() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    pair.connected = false;
    let now = pair.now;
    pair.tunnels[0].apply_facts(&[fact_about(address(1))], now);
    let (times, different) = inits_of(&mut pair, 180);
    assert!(longest_pause(times.into_iter()) <= 1_100);
    assert!((6..=7).contains(&different), "{different} key pairs in 180 s");
    // And it is reached within that time once it is there.
    pair.connected = true;
    let (mut waited, before) = (0, pair.delivered[1]);
    while pair.delivered[1] == before {
        let _ = pair.offer(0);
        pair.run(ms(10));
        waited += 10;
        assert!(waited <= 1_020, "it is not reached within a second");
    }
}

#[test]
fn nobody_is_asked_that_nobody_sends_to() {
    let mut pair = asked_in_vain();
    pair.run(ms(1_000));
    let before = pair.sent[0].len();
    pair.run(Duration::from_secs(600));
    assert_eq!(pair.sent[0].len(), before);
    assert_eq!(pair.tunnels[0].next_timeout(), None, "nothing is kept");
}

/// A RESP as late as this, after the packet that waited was given up.
fn answer_after(late: Duration, between: impl FnOnce(&mut Pair)) -> Pair {
    let mut pair = asked_in_vain();
    let init = last_of_type(&pair.sent[0], INIT);
    pair.run(late - ms(1));
    pair.receive(1, init);
    pair.run(ms(1));
    between(&mut pair);
    pair.connected = true;
    let resp = last_of_type(&pair.sent[1], RESP);
    pair.receive(0, resp);
    pair
}

#[test]
fn a_late_answer_counts_for_half_a_minute_though_nothing_waits() {
    for late in [ms(1_500), ms(10_000), INIT_LIFE - ms(1)] {
        let mut pair = answer_after(late, |_| {});
        assert!(matches!(pair.tunnels[0].classify(address(1), pair.now), Verdict::Encrypt(_)), "{late:?}");
        pair.send(0);
        assert_eq!(pair.delivered[1], 1, "{late:?}");
        assert_eq!(pair.tunnels[0].stats().handshakes, 1);
    }
    let pair = answer_after(INIT_LIFE, |_| {});
    assert_eq!(pair.tunnels[0].stats().dropped(DropReason::UnknownIndex), 1);
    assert_eq!(pair.tunnels[0].stats().handshakes, 0);
}

/// The keys of a pair, and a second epoch that is sent.
fn next_ring() -> Arc<KeyRing> {
    let mut root = [9; 32];
    root[0] ^= 1;
    let mut text = KeyRing::write_file([1; 16], 1, &root).to_string();
    text += &KeyRing::write_epoch(2, &std::array::from_fn(|at| at as u8));
    text += "send 2\n";
    Arc::new(KeyRing::parse(&text).expect("the core reads what it writes"))
}

#[test]
fn a_late_answer_counts_no_more_once_this_side_says_something_else_of_itself() {
    type Change = fn(&mut Tunnel, Instant);
    let changes: [(&str, Change); 3] = [
        ("epoch", |tunnel, now| tunnel.set_keys(next_ring(), now).expect("the tenant is the same")),
        ("addresses", |tunnel, now| tunnel.set_addresses(&[address(0), [10, 0, 0, 7].into()], now)),
        ("identity", |tunnel, now| {
            tunnel.forget_sessions(Identity::generate(Seed::from_bytes([5; 32]), &[address(0)]), now);
        }),
    ];
    for (name, change) in changes {
        let pair = answer_after(ms(5_000), |pair| change(&mut pair.tunnels[0], pair.now));
        let stats = pair.tunnels[0].stats();
        assert_eq!((stats.dropped(DropReason::UnknownIndex), stats.handshakes), (1, 0), "{name}");
    }
}

/// Takes what there is, and counts the INITs.
fn drain(tunnel: &mut Tunnel, now: Instant) -> usize {
    let (mut inits, mut buf) = (0, [0; 2_048]);
    loop {
        match tunnel.poll_output(&mut buf, now) {
            Output::Transmit(_) => inits += usize::from(buf[0] == INIT),
            Output::Timeout(_) => return inits,
            _ => {}
        }
    }
}

/// Does all that is due until `now`, and counts the INITs.
fn run_to(tunnel: &mut Tunnel, now: Instant) -> usize {
    let mut inits = drain(tunnel, now);
    while let Some(due) = tunnel.next_timeout().filter(|due| *due <= now) {
        tunnel.handle_timeout(due);
        inits += drain(tunnel, due);
    }
    inits
}

fn silent(number: u32) -> IpAddr {
    IpAddr::V4((0x0a01_0000 + number).into())
}

fn lone() -> Tunnel {
    Pair::new(CipherSuite::Aes256Gcm).tunnels.into_iter().next().expect("two tunnels")
}

#[test]
fn inits_of_questions_that_were_given_up_are_bounded_the_oldest_out() {
    let (mut tunnel, mut now) = (lone(), start());
    for number in 0..2 * MAX_GIVEN_UP as u32 {
        now += ms(15);
        run_to(&mut tunnel, now);
        assert!(tunnel.ask(silent(number), Purpose::Traffic, false, now), "{number}");
        assert!(tunnel.exchanges.given_up_len() <= MAX_GIVEN_UP);
    }
    now += ms(1_500);
    run_to(&mut tunnel, now);
    assert_eq!(tunnel.exchanges.given_up_len(), MAX_GIVEN_UP);
    now += INIT_LIFE;
    run_to(&mut tunnel, now);
    assert_eq!(tunnel.exchanges.given_up_len(), 0);
}

fn fact_about(address: IpAddr) -> FactChange {
    FactChange::Learn(Fact::new(address, Class::Internal, FactSource::Static, None))
}

fn offer(tunnel: &mut Tunnel, to: IpAddr, now: Instant) -> Outbound {
    let mut packet = Sample::udp(ADDRESSES[0], &to.to_string(), (1, 2));
    let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
    tunnel.handle_packet(&mut packet, now, &mut DatagramQueue::new(0))
}

#[test]
fn a_thousand_silent_addresses_cost_two_hundred_inits_a_second_and_delay_no_new_one() {
    let (mut tunnel, start) = (lone(), start());
    let (mut inits, mut of_internal) = (vec![0; 60], 0);
    for step in 0..6_000_u32 {
        let now = start + ms(10) * step;
        let second = (step / 100) as usize;
        inits[second] += run_to(&mut tunnel, now);
        for number in 0..10 {
            let _ = offer(&mut tunnel, silent((step * 10 + number) % 1_000), now);
        }
        inits[second] += run_to(&mut tunnel, now);
        if step % 100 == 50 && second > 10 {
            // So is one that is known to be of the tenant, each second.
            let internal = fact_about(silent(20_000));
            tunnel.apply_facts(&[internal], now);
            let _ = offer(&mut tunnel, silent(20_000), now);
            of_internal += usize::from(tunnel.exchanges.is_asked(silent(20_000)));
        }
        if step % 100 == 0 && second > 10 {
            // A newcomer is asked at once, whatever goes on.
            assert_eq!(offer(&mut tunnel, silent(10_000 + step), now), Outbound::Held);
            assert_eq!(drain(&mut tunnel, now), 1, "second {second}");
            inits[second] += 1;
        }
    }
    let most = 2 * (200 + CONTACT_BURST as usize);
    assert!(inits.iter().all(|count| *count <= most), "{inits:?}");
    // All but the newcomers were silent before.
    assert!(inits[20..].iter().all(|count| *count <= 200 + 10), "{inits:?}");
    // A question is open for a second, and the next follows 0.6 to 0.8 s later.
    assert!(of_internal >= 49 / 2, "{of_internal} of 49");
    assert!(inits[20..].iter().sum::<usize>() >= 40 * 190, "{inits:?}");
}

#[test]
fn first_contacts_wait_for_their_turn_and_those_that_would_wait_too_long_are_refused() {
    let (mut tunnel, now) = (lone(), start());
    let held =
        (0..MAX_ASKED as u32).filter(|n| offer(&mut tunnel, silent(*n), now) == Outbound::Held).count();
    assert_eq!(held, CONTACT_BURST as usize + 200);
    assert_eq!(drain(&mut tunnel, now), CONTACT_BURST as usize);
    // One after the other, each with the packet that waits for it, and with a second for the answer.
    assert!(tunnel.exchanges.is_asked(silent(200)));
    run_to(&mut tunnel, now + ms(1_500));
    assert!(tunnel.exchanges.is_asked(silent(200)));
    run_to(&mut tunnel, now + ms(2_100));
    assert!(!tunnel.exchanges.is_asked(silent(200)));
    let stats = tunnel.stats();
    assert_eq!(stats.dropped(DropReason::HeldTimeout), held as u64);
    assert_eq!(stats.dropped(DropReason::HeldFull), (MAX_ASKED - held) as u64);
}

#[test]
fn addresses_that_answer_are_not_counted() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    for _ in 0..10 {
        // A new peer each time.
        pair.send(0);
        let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address(0)]);
        let now = pair.now;
        pair.tunnels[0].forget_sessions(identity, now);
        pair.run(ms(100));
    }
    assert!(pair.tunnels[0].stats().handshakes >= 10);
    assert!(pair.tunnels[0].exchanges.has_all_places(pair.now));
}

#[test]
fn a_question_says_where_it_went_and_what_it_named() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let (vip, now) = (IpAddr::from([10, 0, 9, 9]), pair.now);
    let question = Question { to: address(1), named: vip, purpose: Purpose::Traffic, internal: false };
    let (exchanges, mut cx) = pair.tunnels[0].exchanging(now);
    assert!(exchanges.ask(question, &mut cx));
    // One for each address that INIT goes to.
    assert!(exchanges.ask(Question::new(address(1), Purpose::Background, false), &mut cx));
    pair.settle();
    assert_eq!(of_type(&pair.sent[0], INIT).count(), 1);
    // Whoever was asked serves what was named, and owns the address that it answered at.
    let peer = pair.tunnels[1].peers.keys().pop().expect("a peer");
    assert!(pair.tunnels[1].peers.find(peer).expect("a peer").is_served_under(vip));
    assert!(matches!(pair.tunnels[0].classify(address(1), pair.now), Verdict::Encrypt(_)));
    assert_eq!(pair.tunnels[0].classify(vip, pair.now), Verdict::Hold);
}

#[test]
fn proofs_that_nobody_gives_make_no_address_silent_and_their_source_wait() {
    let (mut tunnel, now, source) = (lone(), start(), silent(1));
    let ask = |tunnel: &mut Tunnel, number: u32, now: Instant| {
        let (exchanges, mut cx) = tunnel.exchanging(now);
        exchanges.ask_proof(silent(number), source, false, &mut cx)
    };
    assert!(ask(&mut tunnel, 2, now));
    assert!(ask(&mut tunnel, 2, now), "it is being asked");
    let later = now + ms(1_100);
    run_to(&mut tunnel, later);
    assert!(!tunnel.exchanges.is_asked(silent(2)) && !tunnel.exchanges.is_silent(silent(2), later));
    assert_eq!(tunnel.exchanges.given_up_len(), 0);
    assert!(!ask(&mut tunnel, 3, later));
    assert!(ask(&mut tunnel, 3, later + Duration::from_secs(60)));
    // Packets that come for it meanwhile make it a question like any other.
    let later = later + Duration::from_secs(60);
    assert_eq!(offer(&mut tunnel, silent(3), later), Outbound::Held);
    run_to(&mut tunnel, later + ms(1_000));
    assert!(tunnel.exchanges.is_silent(silent(3), later + ms(1_000)));
    let (exchanges, _) = tunnel.exchanging(later);
    exchanges.refute(silent(9), later);
}

/// The one that is asked knows the index, and can answer with nonsense as often as he likes.
#[test]
fn answers_of_one_address_cost_work_five_times_at_once_and_no_more() {
    let mut pair = asked_in_vain();
    let init = last_of_type(&pair.sent[0], INIT);
    pair.receive(1, init);
    let mut resp = last_of_type(&pair.sent[1], RESP);
    let macs = resp.len() - 32;
    for number in 0..50 {
        resp[macs - 1] = number;
        let mac1 = ring(9).sent().mac1(&resp[..macs]);
        resp[macs..macs + 16].copy_from_slice(&mac1);
        pair.receive(0, resp.clone());
    }
    let stats = pair.tunnels[0].stats();
    let (worked, refused) = (stats.dropped(DropReason::Auth), stats.dropped(DropReason::RateLimited));
    assert_eq!((worked, refused), (5, 45));
}
