use std::time::Duration;

use proptest::prelude::*;
use tencrypt::directory::Class;

use super::*;
use crate::{Name, Project, Ranges, message::Mismatch, wire};

const INTERNAL: &str = "web.shop.svc.cluster.local";
pub(super) const FIRST: &str = "10.96.0.10";
pub(super) const SECOND: &str = "10.96.0.11";

/// An interceptor with its clock, and what it wanted since last asked.
pub(super) struct Bench {
    pub(super) interceptor: Interceptor,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(adapt: impl FnOnce(&mut Config)) -> Self {
        let project = Project::new("shop", Name::from_text("cluster.local").unwrap()).unwrap();
        let ranges = Ranges { protected: vec!["10.96.0.0/12".parse().unwrap()], exempt: vec![] };
        let mut config = Config::new(project, vec![ip(FIRST), ip(SECOND)], ranges);
        adapt(&mut config);
        Self { interceptor: Interceptor::new(config), now: Instant::now() }
    }

    pub(super) fn ask(&mut self, client: u64, query: &[u8]) -> Result<(), Refusal> {
        self.interceptor.handle_query(ClientKey(client), Transport::Udp, ip(FIRST), query, self.now)
    }

    pub(super) fn reply(&mut self, to: &Transmit, bytes: &[u8]) -> Result<(), Unaccepted> {
        self.interceptor.handle_reply(to.attempt, to.to, bytes, self.now)
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.interceptor.poll_transmit()).collect()
    }

    pub(super) fn transmit(&mut self) -> Transmit {
        let mut all = self.transmits();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.interceptor.poll_event()).collect()
    }

    /// Answers so far, with the clients they are for.
    pub(super) fn answers(&mut self) -> Vec<(u64, Vec<u8>)> {
        let answer = |event| match event {
            Event::Answer { client, bytes } => Some((client.0, bytes.to_vec())),
            Event::Facts { .. } | Event::Part { .. } | Event::End { .. } | Event::Close { .. } => None,
        };
        self.events().into_iter().filter_map(answer).collect()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.interceptor.handle_timeout(self.now);
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn server(text: &str) -> SocketAddr {
    (ip(text), 53).into()
}

pub(super) fn asked() -> Vec<u8> {
    wire::query(0x1c2b, INTERNAL, wire::A)
}

pub(super) fn answered() -> Vec<u8> {
    wire::reply(&asked(), &[wire::address(INTERNAL, 30, "10.96.7.7")])
}

fn servfail() -> Vec<u8> {
    wire::reply_with(&asked(), 2, &[], &[], &[])
}

#[test]
fn the_asked_nameserver_comes_first_and_gets_the_bytes_as_they_are() {
    let mut bench = Bench::new();
    let mut query = asked();
    query[11] = 1;
    query.extend(wire::opt(4096, &[0xfd, 0xe9, 0, 1, 7]));
    bench.interceptor.handle_query(ClientKey(1), Transport::Tcp, ip(SECOND), &query, bench.now).unwrap();
    let transmit = bench.transmit();
    assert_eq!(
        (transmit.to, transmit.transport, &transmit.bytes[..]),
        (server(SECOND), Transport::Tcp, &query[..])
    );
    bench.pass(bench.interceptor.config().fallback_after);
    assert_eq!(bench.transmit().to, server(FIRST));
}

#[test]
fn upstream_servers_that_are_configured_are_asked_instead() {
    let upstream: SocketAddr = "192.0.2.53:5353".parse().unwrap();
    let mut bench = Bench::with(|config| config.upstreams = vec![upstream]);
    bench.ask(1, &asked()).unwrap();
    assert_eq!(bench.transmit().to, upstream);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.transmits(), []);
    // The asked address is none of the pod's nameservers: a peer in the tunnel sent this.
    let stranger = ip("10.244.9.9");
    let refused = bench.interceptor.handle_query(ClientKey(2), Transport::Udp, stranger, &asked(), bench.now);
    assert_eq!(refused, Err(Refusal::NotNameserver));
}

#[test]
fn d19_an_answer_waits_for_its_facts_and_is_the_reply_byte_by_byte() {
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    let transmit = bench.transmit();
    bench.reply(&transmit, &answered()).unwrap();
    let events = bench.events();
    let [Event::Close { attempt }, Event::Facts { ticket, facts }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*attempt, transmit.attempt);
    assert_eq!((facts[0].prefix.addr(), facts[0].class), (ip("10.96.7.7"), Class::Internal));
    assert_eq!(facts[0].expires, Some(bench.now + Duration::from_secs(60)));
    bench.pass(Duration::from_secs(2));
    assert_eq!((bench.events(), bench.transmits()), (vec![], vec![]), "held");
    bench.interceptor.facts_applied(*ticket);
    assert_eq!(bench.answers(), [(7, answered())]);
    bench.interceptor.facts_applied(*ticket);
    assert_eq!(bench.events(), []);
    assert_eq!((bench.interceptor.outstanding(), bench.interceptor.poll_timeout()), (0, None));
}

#[test]
fn facts_that_never_stand_end_in_servfail() {
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    let transmit = bench.transmit();
    bench.reply(&transmit, &answered()).unwrap();
    bench.events();
    bench.pass(Duration::from_secs(8));
    let answers = bench.answers();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1[3] & 0x0f, SERVFAIL);
}

#[test]
fn d03_an_unreadable_reply_is_forwarded_without_facts() {
    let query = wire::query(0x1c2b, "www.example.com", wire::A);
    let mut spoilt = wire::reply(&query, &[wire::address("www.example.com", 30, "10.96.7.7")]);
    spoilt[7] = 200;
    let mut bench = Bench::new();
    bench.ask(7, &query).unwrap();
    let transmit = bench.transmit();
    bench.reply(&transmit, &spoilt).unwrap();
    assert_eq!(bench.answers(), [(7, spoilt)]);
    assert_eq!((bench.interceptor.stats().unreadable, bench.interceptor.stats().facts), (1, 0));
}

/// The answer to `query`, and if it was the server's.
fn exchange(bench: &mut Bench, query: &[u8], reply: &[u8]) -> (Vec<u8>, bool) {
    bench.ask(7, query).unwrap();
    let transmit = bench.transmit();
    bench.reply(&transmit, reply).unwrap();
    let mut answers = Vec::new();
    for event in bench.events() {
        match event {
            Event::Facts { ticket, .. } => bench.interceptor.facts_applied(ticket),
            Event::Answer { bytes, .. } => answers.push(bytes.to_vec()),
            Event::Part { .. } | Event::End { .. } => unreachable!("no transfer"),
            Event::Close { .. } => {}
        }
    }
    answers.extend(bench.answers().into_iter().map(|(_, answer)| answer));
    assert_eq!(answers.len(), 1);
    let answer = answers.remove(0);
    let passed = answer == reply;
    assert!(passed || answer == Query::parse(query).unwrap().servfail());
    (answer, passed)
}

#[test]
fn d06_an_own_name_with_a_foreign_address_is_withheld_whole_and_counted() {
    let foreign = wire::address(INTERNAL, 30, "203.0.113.10");
    let right = wire::address(INTERNAL, 30, "10.96.7.7");
    let mut truncated = wire::reply(&asked(), std::slice::from_ref(&foreign));
    truncated[2] |= 0x02;
    let mut spoilt = answered();
    spoilt[7] = 200;
    let signed =
        wire::reply_with(&asked(), 0, &[right.clone(), foreign.clone()], &[], &[wire::opt(1232, &[])]);
    let mut bench = Bench::new();
    for (at, reply) in (1..).zip([wire::reply(&asked(), &[foreign, right]), truncated, spoilt, signed]) {
        let (answer, passed) = exchange(&mut bench, &asked(), &reply);
        assert!(!passed && answer[3] & 0x0f == SERVFAIL);
        let stats = bench.interceptor.stats();
        assert_eq!((stats.withheld, stats.answered, stats.unanswered, stats.facts), (at, 0, 0, 0));
    }
    let found = bench.interceptor.foreign_address().unwrap();
    assert_eq!((found.name.to_string().as_str(), found.address), (INTERNAL, Some(ip("203.0.113.10"))));
    assert!(exchange(&mut bench, &asked(), &answered()).1, "and the right one passes");
    assert_eq!((bench.interceptor.outstanding(), bench.interceptor.held_bytes), (0, 0));
}

#[test]
fn d06_a_truncated_answer_with_nothing_foreign_passes() {
    let mut empty = wire::reply(&asked(), &[]);
    empty[2] |= 0x02;
    assert!(exchange(&mut Bench::new(), &asked(), &empty).1);
    let mut some = answered();
    some[2] |= 0x02;
    assert!(exchange(&mut Bench::new(), &asked(), &some).1);
}

#[test]
fn d06_external_names_pass_where_they_are_allowed_and_their_addresses_are_external() {
    let mut bench = Bench::with(|config| {
        config.external_names = true;
        config.ranges.exempt = vec!["192.168.0.0/24".parse().unwrap()];
    });
    let addresses = ["203.0.113.10", "10.96.7.7", "192.168.0.5"];
    let reply = wire::reply(&asked(), &addresses.map(|address| wire::address(INTERNAL, 30, address)));
    bench.ask(7, &asked()).unwrap();
    let transmit = bench.transmit();
    bench.reply(&transmit, &reply).unwrap();
    let facts = bench.events().into_iter().find_map(|event| match event {
        Event::Facts { facts, .. } => Some(facts),
        _ => None,
    });
    let mut told: Vec<_> = facts.unwrap().iter().map(|fact| (fact.prefix.addr(), fact.class)).collect();
    told.sort_by_key(|(address, _)| *address);
    // Of the exempt one nothing is said: it is so already.
    assert_eq!(told, [(ip("10.96.7.7"), Class::Internal), (ip("203.0.113.10"), Class::External)]);
    let stats = bench.interceptor.stats();
    assert_eq!((stats.withheld, stats.external_names), (0, 1));
    assert!(bench.interceptor.foreign_address().is_some());
}

#[test]
fn d06_exempt_addresses_of_an_own_name_pass_without_a_word() {
    let mut bench = Bench::with(|config| config.ranges.exempt = vec!["192.168.0.0/24".parse().unwrap()]);
    let reply = wire::reply(&asked(), &[wire::address(INTERNAL, 30, "192.168.0.5")]);
    assert!(exchange(&mut bench, &asked(), &reply).1);
    assert_eq!((bench.interceptor.stats().withheld, bench.interceptor.stats().facts), (0, 0));
}

#[test]
fn d04_responses_and_garbage_from_clients_get_no_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(1, &answered()), Err(Refusal::Malformed(MessageError::NotQuery)));
    assert_eq!(bench.ask(1, &[]), Err(Refusal::Malformed(MessageError::Short)));
    assert_eq!(bench.ask(1, &asked()[..20]), Err(Refusal::Malformed(MessageError::Question)));
    assert_eq!(bench.ask(1, &vec![0; (16 << 10) + 1]), Err(Refusal::TooLong));
    for _ in 0..10_000 {
        bench.ask(1, &answered()).unwrap_err();
    }
    assert_eq!((bench.transmits(), bench.events(), bench.interceptor.outstanding()), (vec![], vec![], 0));
    assert_eq!(bench.interceptor.stats().refused, 10_004);
}

#[test]
fn d05_what_is_not_the_reply_is_ignored_and_the_wait_goes_on() {
    let mut bench = Bench::new();
    let query = wire::query(0x1c2b, "wEb.shop.svc.cluster.local", wire::A);
    bench.ask(7, &query).unwrap();
    let sent = bench.transmit();
    let right = wire::reply(&query, &[wire::address(INTERNAL, 30, "10.96.7.7")]);
    let outside = [wire::address(INTERNAL, 30, "192.0.2.66")];
    let forged = wire::reply(&query, &outside);
    let from = |bench: &mut Bench, from: SocketAddr| {
        bench.interceptor.handle_reply(sent.attempt, from, &forged, bench.now)
    };
    assert_eq!(from(&mut bench, server("192.0.2.66")), Err(Unaccepted::Source));
    assert_eq!(from(&mut bench, (ip(FIRST), 54).into()), Err(Unaccepted::Source));
    let other_type = wire::reply(&wire::query(0x1c2b, INTERNAL, wire::AAAA), &outside);
    assert_eq!(bench.reply(&sent, &other_type), Err(Unaccepted::Mismatch(Mismatch::Question)));
    let other_name = wire::reply(&wire::query(0x1c2b, "web.other.svc.cluster.local", wire::A), &outside);
    assert_eq!(bench.reply(&sent, &other_name), Err(Unaccepted::Mismatch(Mismatch::Question)));
    let no_question = [&forged[..5], &[0; 7]].concat();
    assert_eq!(bench.reply(&sent, &no_question), Err(Unaccepted::Mismatch(Mismatch::Question)));
    assert_eq!((bench.events(), bench.interceptor.stats().forged), (vec![], 5));
    bench.reply(&sent, &right).unwrap();
    assert_eq!(bench.interceptor.stats().facts, 1);
    assert_eq!(bench.reply(&sent, &forged), Err(Unaccepted::NoAttempt), "a second reply");
    bench.events();
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.reply(&sent, &forged), Err(Unaccepted::NoAttempt), "a late reply");
    assert_eq!(bench.interceptor.stats().facts, 1);
}

#[test]
fn d05_every_id_but_one_is_wrong() {
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    let sent = bench.transmit();
    let mut accepted = Vec::new();
    // The right one last: until then nothing happens.
    for id in (0..=u16::MAX).map(|id| id.wrapping_add(0x1c2c)) {
        let mut guess = wire::reply(&asked(), &[wire::address(INTERNAL, 30, "192.0.2.66")]);
        guess[..2].copy_from_slice(&id.to_be_bytes());
        if bench.reply(&sent, &guess).is_ok() {
            accepted.push(id);
        } else {
            assert_eq!(bench.events(), []);
        }
    }
    assert_eq!(accepted, [0x1c2b]);
}

#[test]
fn d05_a_reply_on_the_socket_of_another_query_is_none() {
    let mut bench = Bench::new();
    bench.ask(1, &asked()).unwrap();
    bench.ask(2, &wire::query(0x1c2b, "db.shop.svc.cluster.local", wire::A)).unwrap();
    let sent = bench.transmits();
    assert_eq!(bench.reply(&sent[1], &answered()), Err(Unaccepted::Mismatch(Mismatch::Question)));
    bench.reply(&sent[0], &answered()).unwrap();
}

#[test]
fn d14_a_silent_server_is_followed_by_the_next_and_still_heard() {
    for late in [false, true] {
        let mut bench = Bench::new();
        bench.ask(7, &asked()).unwrap();
        let first = bench.transmit();
        assert_eq!(bench.interceptor.poll_timeout(), Some(bench.now + Duration::from_millis(1_500)));
        bench.pass(Duration::from_millis(1_499));
        assert_eq!(bench.transmits(), []);
        bench.pass(Duration::from_millis(1));
        let second = bench.transmit();
        assert_eq!((first.to, second.to), (server(FIRST), server(SECOND)));
        bench.pass(Duration::from_millis(3_500));
        let (heard, other) = if late { (&first, &second) } else { (&second, &first) };
        bench.reply(heard, &answered()).unwrap();
        assert_eq!(bench.reply(other, &answered()), Err(Unaccepted::NoAttempt));
        let closed = bench.events().iter().filter(|event| matches!(event, Event::Close { .. })).count();
        assert_eq!(closed, 2);
    }
}

#[test]
fn d14_a_refused_port_leads_to_the_next_server_at_once_and_then_to_servfail() {
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    let first = bench.transmit();
    bench.interceptor.handle_failure(first.attempt, bench.now);
    let second = bench.transmit();
    assert_eq!(second.to, server(SECOND));
    bench.interceptor.handle_failure(first.attempt, bench.now);
    assert_eq!(bench.events(), []);
    bench.interceptor.handle_failure(second.attempt, bench.now);
    let answers = bench.answers();
    assert_eq!(answers, [(7, Query::parse(&asked()).unwrap().servfail())]);
    assert_eq!(bench.interceptor.stats().unanswered, 1);
}

#[test]
fn d14_dead_servers_end_in_servfail_after_eight_seconds() {
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    for _ in 0..79 {
        bench.pass(Duration::from_millis(100));
    }
    assert_eq!((bench.transmits().len(), bench.events()), (2, vec![]));
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.answers(), [(7, Query::parse(&asked()).unwrap().servfail())]);
}

#[test]
fn d14_servfail_and_refused_are_passed_on_if_nobody_does_better() {
    for code in [SERVFAIL, REFUSED] {
        let refusal = wire::reply_with(&asked(), code, &[], &[], &[wire::opt(1232, &[])]);
        let mut bench = Bench::new();
        bench.ask(7, &asked()).unwrap();
        let first = bench.transmit();
        bench.reply(&first, &refusal).unwrap();
        let second = bench.transmit();
        assert_eq!(bench.answers(), []);
        bench.interceptor.handle_failure(second.attempt, bench.now);
        assert_eq!(bench.answers(), [(7, refusal.clone())]);

        bench.ask(8, &asked()).unwrap();
        let first = bench.transmit();
        bench.reply(&first, &refusal).unwrap();
        let second = bench.transmit();
        bench.reply(&second, &answered()).unwrap();
        assert_eq!(bench.interceptor.stats().facts, 1);
    }
}

#[test]
fn d14_a_name_that_does_not_exist_is_passed_on_at_once() {
    let missing = wire::reply_with(&asked(), 3, &[], &[wire::record("cluster.local", 6, 5, &[0; 22])], &[]);
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    let first = bench.transmit();
    bench.reply(&first, &missing).unwrap();
    assert_eq!((bench.answers(), bench.interceptor.stats().facts), (vec![(7, missing)], 0));
}

#[test]
fn updates_pass_untouched_to_one_server() {
    let mut update = asked();
    update[2] |= 5 << 3;
    let mut bench = Bench::new();
    bench.ask(7, &update).unwrap();
    let sent = bench.transmit();
    assert_eq!(&sent.bytes[..], update);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.transmits(), []);
    let reply = wire::reply_with(&update, 5, &[], &[], &[]);
    bench.reply(&sent, &reply).unwrap();
    assert_eq!(bench.answers(), [(7, reply)]);
}

#[test]
fn d19_the_oldest_query_gives_way_and_its_client_is_told() {
    let mut bench = Bench::with(|config| config.max_sockets = 10);
    for client in 0..25 {
        bench.ask(client, &asked()).unwrap();
    }
    let interceptor = &bench.interceptor;
    assert_eq!((interceptor.outstanding(), interceptor.open, interceptor.deadlines.len()), (10, 10, 10));
    let told: Vec<_> = bench.answers().into_iter().map(|(client, _)| client).collect();
    assert_eq!(told, (0..15).collect::<Vec<_>>());
    // Second attempts have sockets too: five queries make room for those of the others.
    bench.transmits();
    bench.pass(Duration::from_millis(1_500));
    assert_eq!((bench.interceptor.outstanding(), bench.interceptor.open), (5, 10));
    assert_eq!((bench.answers().len(), bench.interceptor.stats().evicted), (5, 20));
}

#[test]
fn d19_bytes_are_bounded_too() {
    let mut bench = Bench::with(|config| config.max_bytes = 3_000);
    let mut long = asked();
    long.resize(1_000, 0);
    for client in 0..10 {
        bench.ask(client, &long).unwrap();
    }
    assert_eq!((bench.interceptor.outstanding(), bench.interceptor.held_bytes), (3, 3_000));
    bench.pass(Duration::from_secs(8));
    assert_eq!((bench.interceptor.outstanding(), bench.interceptor.held_bytes), (0, 0));
}

#[test]
fn d19_queries_beyond_the_rate_are_dropped_and_cost_no_memory() {
    let mut bench = Bench::new();
    let mut accepted = 0;
    // 100,000 queries in one second.
    for _ in 0..100_000 {
        accepted += u32::from(bench.ask(1, &asked()).is_ok());
        for sent in bench.transmits() {
            bench.reply(&sent, &servfail()).unwrap();
        }
        bench.events();
        bench.now += Duration::from_micros(10);
    }
    // A burst of 5,000 and 5,000 a second.
    assert!((9_990..=10_010).contains(&accepted), "{accepted}");
    assert_eq!(bench.interceptor.stats().rate_limited, u64::from(100_000 - accepted));
    assert!(bench.interceptor.outstanding() <= 768);
    bench.pass(Duration::from_secs(10));
    bench.ask(1, &asked()).unwrap();
}

#[test]
fn another_configuration_holds_for_the_queries_to_come() {
    let mut bench = Bench::new();
    let mut config = bench.interceptor.config().clone();
    config.nameservers = vec![ip("10.0.0.53")];
    bench.interceptor.set_config(config);
    assert_eq!(bench.ask(1, &asked()), Err(Refusal::NotNameserver));
    bench
        .interceptor
        .handle_query(ClientKey(1), Transport::Udp, ip("10.0.0.53"), &asked(), bench.now)
        .unwrap();
    assert_eq!(bench.transmit().to, server("10.0.0.53"));
}

/// One thing that happens to an interceptor; indexes are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Ask { query: Vec<u8> },
    Random { attempt: usize, bytes: Vec<u8> },
    Mutated { attempt: usize, at: usize, to: u8 },
    Right { attempt: usize, code: u8 },
    Fail { attempt: usize },
    Apply { ticket: usize },
    Pass { milliseconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        Just(Step::Ask { query: asked() }),
        Just(Step::Ask { query: wire::query(9, "www.example.com", wire::AAAA) }),
        bytes().prop_map(|query| Step::Ask { query }),
        (any::<usize>(), bytes()).prop_map(|(attempt, bytes)| Step::Random { attempt, bytes }),
        (any::<usize>(), 0_usize..60, any::<u8>()).prop_map(|(attempt, at, to)| Step::Mutated {
            attempt,
            at,
            to
        }),
        (any::<usize>(), prop_oneof![Just(0), Just(2), Just(3)])
            .prop_map(|(attempt, code)| Step::Right { attempt, code }),
        any::<usize>().prop_map(|attempt| Step::Fail { attempt }),
        any::<usize>().prop_map(|ticket| Step::Apply { ticket }),
        (0_u64..3_000).prop_map(|milliseconds| Step::Pass { milliseconds }),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_never_become_facts_unverified(
        query in prop::collection::vec(any::<u8>(), 0..300),
        reply in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bench = Bench::new();
        for query in [&query[..], &asked()] {
            if bench.ask(1, query).is_ok() {
                let sent = bench.transmit();
                let verified = Query::parse(query).unwrap().verify(&reply).is_ok();
                prop_assert_eq!(bench.reply(&sent, &reply).is_ok(), verified);
                prop_assert!(verified || bench.events().is_empty());
            }
        }
    }

    #[test]
    fn replies_with_random_records_never_panic(tail in prop::collection::vec(any::<u8>(), 0..2_000), counts: [u8; 3]) {
        let mut reply = asked();
        reply[2] |= 0x80;
        reply[7] = counts[0] % 8;
        reply[9] = counts[1] % 4;
        reply[11] = counts[2] % 4;
        reply.extend(tail);
        let mut bench = Bench::new();
        bench.ask(1, &asked()).unwrap();
        let sent = bench.transmit();
        prop_assert!(bench.reply(&sent, &reply).is_ok());
    }

    /// Whatever happens: one answer for each accepted query, every socket closed once unless it failed, facts only
    /// from a right reply, and nothing left at the end.
    #[test]
    fn every_accepted_query_ends_in_one_answer(steps in prop::collection::vec(step(), 1..120), max_sockets in 1_usize..6) {
        let mut bench = Bench::with(|config| config.max_sockets = max_sockets);
        let (mut sent, mut tickets): (Vec<Transmit>, Vec<Ticket>) = (Vec::new(), Vec::new());
        let (mut accepted, mut answers) = (0, 0);
        let mut open: BTreeSet<AttemptId> = BTreeSet::new();
        let end = [Step::Pass { milliseconds: 9_000 }];
        for (number, step) in steps.into_iter().chain(end).enumerate() {
            let pick = |index: usize| sent.get(index % sent.len().max(1)).cloned();
            let mut may_tell = false;
            match step {
                Step::Ask { query } => accepted += usize::from(bench.ask(number as u64, &query).is_ok()),
                Step::Random { attempt, bytes } => {
                    if let Some(to) = pick(attempt) {
                        let _ = bench.reply(&to, &bytes);
                    }
                }
                Step::Mutated { attempt, at, to } => {
                    if let Some(sent) = pick(attempt) {
                        let mut bytes = wire::reply(&sent.bytes, &[wire::address(INTERNAL, 3, "10.96.7.7")]);
                        let at = at % bytes.len();
                        bytes[at] = to;
                        may_tell = Query::parse(&sent.bytes).unwrap().verify(&bytes).is_ok();
                        let _ = bench.reply(&sent, &bytes);
                    }
                }
                Step::Right { attempt, code } => {
                    if let Some(to) = pick(attempt) {
                        let answer = wire::address(INTERNAL, 3, "10.96.7.7");
                        let _ = bench.reply(&to, &wire::reply_with(&to.bytes, code, &[answer], &[], &[]));
                        may_tell = true;
                    }
                }
                Step::Fail { attempt } => {
                    if let Some(to) = pick(attempt) {
                        bench.interceptor.handle_failure(to.attempt, bench.now);
                        open.remove(&to.attempt);
                    }
                }
                Step::Apply { ticket } => {
                    if let Some(ticket) = tickets.get(ticket % tickets.len().max(1)) {
                        bench.interceptor.facts_applied(*ticket);
                    }
                }
                Step::Pass { milliseconds } => bench.pass(Duration::from_millis(milliseconds)),
            }
            let new = bench.transmits();
            open.extend(new.iter().map(|transmit| transmit.attempt));
            sent.extend(new);
            for event in bench.events() {
                match event {
                    Event::Facts { ticket, .. } => {
                        prop_assert!(may_tell);
                        tickets.push(ticket);
                    }
                    Event::Answer { .. } => answers += 1,
                    Event::Part { .. } | Event::End { .. } => prop_assert!(false, "nobody asks for a zone by UDP"),
                    Event::Close { attempt } => prop_assert!(open.remove(&attempt)),
                }
            }
            prop_assert!(bench.interceptor.open <= max_sockets);
            prop_assert!(bench.interceptor.outstanding() <= max_sockets);
            prop_assert_eq!(bench.interceptor.deadlines.len(), bench.interceptor.outstanding());
        }
        prop_assert_eq!(answers, accepted);
        prop_assert!(open.is_empty());
        let interceptor = &bench.interceptor;
        prop_assert_eq!((interceptor.outstanding(), interceptor.open, interceptor.held_bytes), (0, 0, 0));
        prop_assert_eq!(interceptor.poll_timeout(), None);
    }
}
