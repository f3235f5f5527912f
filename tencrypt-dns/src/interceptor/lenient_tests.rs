//! Answers that libc takes: questions in another case, errors without one, zone transfers.

use std::time::Duration;

use super::{tests::*, *};
use crate::{
    message::{FORMERR, record_type},
    wire,
};

const ZONE: &str = "shop.svc.cluster.local";

fn transfer() -> Vec<u8> {
    wire::query(7, ZONE, record_type::AXFR)
}

fn soa() -> Vec<u8> {
    wire::record(ZONE, 6, 60, &[wire::name("ns"), wire::name("root"), vec![0; 20]].concat())
}

/// A message of the transfer; only the first has a question.
fn part(first: bool, answers: &[Vec<u8>]) -> Vec<u8> {
    let mut part = wire::reply(&transfer(), answers);
    if !first {
        part.drain(12..transfer().len());
        part[5] = 0;
    }
    part
}

/// Asks for the zone by TCP; returns the attempt.
fn ask_for_zone(bench: &mut Bench) -> Transmit {
    let query = transfer();
    bench.interceptor.handle_query(ClientKey(3), Transport::Tcp, ip(FIRST), &query, bench.now).unwrap();
    bench.transmit()
}

/// Words for the client, and how many sockets are closed.
fn words(bench: &mut Bench) -> (Vec<(&'static str, Vec<u8>)>, usize) {
    let (mut words, mut closed) = (Vec::new(), 0);
    for event in bench.events() {
        match event {
            Event::Part { client: ClientKey(3), bytes } => words.push(("part", bytes.to_vec())),
            Event::Answer { client: ClientKey(3), bytes } => words.push(("answer", bytes.to_vec())),
            Event::End { client: ClientKey(3) } => words.push(("end", Vec::new())),
            Event::Close { .. } => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    (words, closed)
}

fn nothing_is_left(bench: &Bench) {
    let interceptor = &bench.interceptor;
    assert_eq!((interceptor.outstanding(), interceptor.open, interceptor.held_bytes), (0, 0, 0));
    assert!(interceptor.transfers.is_empty() && interceptor.deadlines.is_empty());
}

#[test]
fn a_reply_in_lower_case_is_an_answer_with_facts() {
    let mut bench = Bench::new();
    let query = wire::query(0x1c2b, "Web.SHOP.svc.Cluster.local", wire::A);
    bench.ask(7, &query).unwrap();
    let sent = bench.transmit();
    bench.reply(&sent, &answered()).unwrap();
    let [Event::Close { .. }, Event::Facts { ticket, facts }] = &bench.events()[..] else {
        panic!("no facts")
    };
    assert_eq!((facts.len(), facts[0].class), (1, tencrypt::directory::Class::Internal));
    bench.interceptor.facts_applied(*ticket);
    assert_eq!(bench.answers(), [(7, answered())], "byte by byte");
}

#[test]
fn formerr_without_a_question_is_the_answer_at_once() {
    let mut bench = Bench::new();
    bench.ask(7, &asked()).unwrap();
    let sent = bench.transmit();
    let formerr = [0x1c, 0x2b, 0x81, 0x80 | FORMERR, 0, 0, 0, 0, 0, 0, 0, 0];
    bench.reply(&sent, &formerr).unwrap();
    assert_eq!(bench.answers(), [(7, formerr.to_vec())]);
    nothing_is_left(&bench);
}

#[test]
fn bare_servfail_refused_and_notimp_lead_to_the_next_server_first() {
    for code in [SERVFAIL, REFUSED, NOTIMP] {
        let mut bench = Bench::new();
        bench.ask(7, &asked()).unwrap();
        let first = bench.transmit();
        let bare = [0x1c, 0x2b, 0x81, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0];
        bench.reply(&first, &bare).unwrap();
        let second = bench.transmit();
        assert_eq!(second.to, server(SECOND));
        bench.reply(&second, &bare).unwrap();
        assert_eq!(bench.answers(), [(7, bare.to_vec())]);
        nothing_is_left(&bench);
    }
}

#[test]
fn a_zone_transfer_passes_in_as_many_messages_as_it_has() {
    let mut bench = Bench::new();
    let sent = ask_for_zone(&mut bench);
    let pod = |last: u8| wire::address("a.shop.svc.cluster.local", 60, &format!("10.96.2.{last}"));
    let parts =
        [part(true, &[soa()]), part(false, &[pod(1), pod(2)]), part(true, &[pod(3)]), part(false, &[soa()])];
    for part in &parts {
        bench.reply(&sent, part).unwrap();
        assert_eq!(words(&mut bench), (vec![("part", part.clone())], 0));
        // Longer than any other query may take, as long as something comes.
        bench.pass(Duration::from_secs(7));
    }
    bench.interceptor.handle_failure(sent.attempt, bench.now);
    assert_eq!(words(&mut bench), (vec![("end", vec![])], 0));
    nothing_is_left(&bench);
    assert_eq!((bench.interceptor.stats().answered, bench.interceptor.stats().facts), (1, 0));
}

#[test]
fn a_transfer_ends_when_nothing_more_comes_or_its_client_has_gone() {
    for gone in [false, true] {
        let mut bench = Bench::new();
        let sent = ask_for_zone(&mut bench);
        bench.reply(&sent, &part(true, &[soa()])).unwrap();
        assert_eq!(words(&mut bench).1, 0);
        if gone {
            bench.interceptor.handle_gone(ClientKey(2));
            assert_eq!(bench.interceptor.outstanding(), 1, "somebody else has");
            bench.interceptor.handle_gone(ClientKey(3));
        } else {
            bench.pass(Duration::from_secs(8));
        }
        let expected = if gone { vec![] } else { vec![("end", vec![])] };
        assert_eq!(words(&mut bench), (expected, 1));
        assert_eq!(bench.reply(&sent, &part(false, &[soa()])), Err(Unaccepted::NoAttempt));
        nothing_is_left(&bench);
    }
}

#[test]
fn two_servers_never_mix_in_one_transfer() {
    let mut bench = Bench::new();
    let first = ask_for_zone(&mut bench);
    bench.pass(bench.interceptor.config().fallback_after);
    let second = bench.transmit();
    bench.reply(&second, &part(true, &[soa()])).unwrap();
    assert_eq!(words(&mut bench), (vec![("part", part(true, &[soa()]))], 1));
    assert_eq!(bench.reply(&first, &part(true, &[soa()])), Err(Unaccepted::NoAttempt));
    bench.reply(&second, &part(false, &[soa()])).unwrap();
    assert_eq!(words(&mut bench).0.len(), 1);
}

#[test]
fn a_transfer_that_is_refused_or_leads_outside_is_one_answer() {
    let refused = wire::reply_with(&transfer(), REFUSED, &[], &[], &[]);
    let foreign = wire::address("a.shop.svc.cluster.local", 60, "192.0.2.66");
    let withheld = Query::parse(&transfer()).unwrap().servfail();
    for (parts, end) in [
        (vec![refused.clone()], refused),
        (vec![part(true, std::slice::from_ref(&foreign))], withheld.clone()),
        (vec![part(true, &[soa()]), part(false, &[soa(), foreign])], withheld.clone()),
        // What cannot be read may hold any address.
        (vec![part(true, &[soa()]), part(false, &[vec![0xc0, 0xff]])], withheld),
    ] {
        let mut bench = Bench::with(|config| config.nameservers = vec![ip(FIRST)]);
        let sent = ask_for_zone(&mut bench);
        parts.iter().for_each(|part| bench.reply(&sent, part).unwrap());
        let (words, closed) = words(&mut bench);
        assert_eq!((words.last(), closed), (Some(&("answer", end)), 1));
        assert_eq!(words.len(), parts.len());
        nothing_is_left(&bench);
    }
}

#[test]
fn a_transfer_by_udp_is_one_message() {
    let mut bench = Bench::new();
    let query = wire::query(7, ZONE, record_type::IXFR);
    bench.ask(7, &query).unwrap();
    let sent = bench.transmit();
    let reply = wire::reply(&query, &[soa()]);
    bench.reply(&sent, &reply).unwrap();
    assert_eq!(bench.answers(), [(7, reply)]);
    nothing_is_left(&bench);
}

#[test]
fn limits_follow_from_the_files_that_are_left() {
    let mut config = Bench::new().interceptor.config().clone();
    for (files, connections, sockets) in
        [(100_000, 256, 768), (977, 244, 733), (25, 6, 19), (2, 1, 1), (0, 1, 1)]
    {
        config.limit_files(files);
        assert_eq!((config.max_connections, config.max_sockets), (connections, sockets), "{files}");
    }
}
