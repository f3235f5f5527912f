use std::fmt::Write as _;

use tencrypt::directory::Class;

use super::*;
use crate::wire;

const INTERNAL: &str = "web.shop.svc.cluster.local";
const EXTERNAL: &str = "www.example.com";

fn project() -> Project {
    Project::new("shop", Name::from_text("cluster.local").unwrap()).unwrap()
}

fn classify(asked: &str, record_type: u16, answers: &[Vec<u8>]) -> Result<Vec<Fact>, ClassifyError> {
    let query = wire::query(7, asked, record_type);
    classify_reply(&query, &wire::reply(&query, answers), &project(), Instant::now())
}

/// Facts as `address class name`.
fn told(facts: &[Fact]) -> Vec<String> {
    facts
        .iter()
        .map(|fact| format!("{} {} {}", fact.prefix.addr(), fact.class.as_str(), fact.source))
        .collect()
}

/// The life of the only fact that comes of an address of `name` with this TTL.
fn life(name: &str, ttl: u32) -> Duration {
    let (query, now) = (wire::query(7, name, wire::A), Instant::now());
    let reply = wire::reply(&query, &[wire::address(name, ttl, "10.0.0.1")]);
    let facts = classify_reply(&query, &reply, &project(), now).unwrap();
    assert_eq!(facts.len(), 1);
    facts[0].expires.unwrap() - now
}

/// CNAMEs from `n0.example` over `links` names, and the address of the last.
fn chain(links: usize) -> Vec<Vec<u8>> {
    let mut answers: Vec<_> = (0..links)
        .map(|at| wire::alias(&format!("n{at}.example"), 60, &format!("n{}.example", at + 1)))
        .collect();
    answers.push(wire::address(&format!("n{links}.example"), 60, "192.0.2.1"));
    answers
}

#[test]
fn names_of_the_project_are_internal_and_others_external() {
    let facts = classify(INTERNAL, wire::A, &[wire::address(INTERNAL, 30, "10.96.7.7")]).unwrap();
    assert_eq!(told(&facts), ["10.96.7.7 internal dns web.shop.svc.cluster.local"]);
    assert_eq!(facts[0].prefix.prefix_len(), 32);
    let facts = classify(
        "DB.other.svc.Cluster.local",
        wire::A,
        &[wire::address("db.OTHER.svc.cluster.local", 30, "10.96.7.8")],
    );
    assert_eq!(told(&facts.unwrap()), ["10.96.7.8 external dns db.other.svc.cluster.local"]);
}

#[test]
fn d08_the_end_of_a_chain_decides() {
    let out = [wire::alias(INTERNAL, 30, EXTERNAL), wire::address(EXTERNAL, 30, "192.0.2.1")];
    assert_eq!(told(&classify(INTERNAL, wire::A, &out).unwrap()), ["192.0.2.1 external dns www.example.com"]);
    let into = [wire::address(INTERNAL, 30, "10.96.7.7"), wire::alias(EXTERNAL, 30, INTERNAL)];
    let internal = ["10.96.7.7 internal dns web.shop.svc.cluster.local"];
    assert_eq!(told(&classify(EXTERNAL, wire::A, &into).unwrap()), internal);
}

#[test]
fn d08_chains_are_followed_for_eight_links() {
    for links in [0, 1, 8] {
        let facts = classify("n0.example", wire::A, &chain(links)).unwrap();
        assert_eq!(told(&facts), [format!("192.0.2.1 external dns n{links}.example")]);
    }
    for links in [9, 10, 1_000] {
        assert_eq!(classify("n0.example", wire::A, &chain(links)), Err(ClassifyError::ChainTooLong));
    }
}

#[test]
fn d08_loops_and_forks_are_refused() {
    let to = |target| wire::alias("n0.example", 60, target);
    assert_eq!(classify("n0.example", wire::A, &[to("N0.example")]), Err(ClassifyError::ChainLoops));
    let two = [to("n1.example"), wire::alias("n1.example", 60, "n0.example")];
    assert_eq!(classify("n0.example", wire::A, &two), Err(ClassifyError::ChainLoops));
    let fork = [to(INTERNAL), to(EXTERNAL), wire::address(EXTERNAL, 60, "192.0.2.1")];
    assert_eq!(classify("n0.example", wire::A, &fork), Err(ClassifyError::ChainForks));
    let both = [to(EXTERNAL), wire::address("n0.example", 60, "10.0.0.1")];
    assert_eq!(classify("n0.example", wire::A, &both), Err(ClassifyError::ChainForks));
    let twice = [to(EXTERNAL), to(EXTERNAL), wire::address(EXTERNAL, 60, "192.0.2.1")];
    assert_eq!(classify("n0.example", wire::A, &twice).unwrap().len(), 1);
}

#[test]
fn d08_records_off_the_chain_are_ignored() {
    let answers = [
        wire::address("other.example", 60, "10.0.0.1"),
        wire::alias("third.example", 60, EXTERNAL),
        wire::address(EXTERNAL, 60, "192.0.2.1"),
        wire::address(INTERNAL, 60, "10.96.7.7"),
    ];
    assert_eq!(
        told(&classify(EXTERNAL, wire::A, &answers).unwrap()),
        ["192.0.2.1 external dns www.example.com"]
    );
    assert!(classify("fourth.example", wire::A, &answers).unwrap().is_empty());
    let (query, address) =
        (wire::query(7, EXTERNAL, wire::A), vec![wire::address(EXTERNAL, 60, "192.0.2.1")]);
    let elsewhere = wire::reply_with(&query, 0, &[], &address, &address);
    assert_eq!(classify_reply(&query, &elsewhere, &project(), Instant::now()), Ok(vec![]));
}

#[test]
fn d09_lives_are_clamped_to_1_and_300_seconds() {
    let (life, seconds) = (|ttl| life(EXTERNAL, ttl), Duration::from_secs);
    assert_eq!(life(0), seconds(1));
    assert_eq!(life(1), seconds(1));
    assert_eq!(life(2), seconds(2));
    assert_eq!(life(300), seconds(300));
    assert_eq!(life(10 * 365 * 86_400), seconds(300));
    assert_eq!(life((1 << 31) - 1), seconds(300));
    assert_eq!(life(1 << 31), seconds(1));
    assert_eq!(life(u32::MAX), seconds(1));
}

#[test]
fn d09_what_is_internal_stays_so_for_60_to_300_seconds() {
    let (life, seconds) = (|ttl| life(INTERNAL, ttl), Duration::from_secs);
    for (ttl, lives) in [(0, 60), (1, 60), (60, 60), (61, 61), (300, 300), (301, 300), (u32::MAX, 60)] {
        assert_eq!(life(ttl), seconds(lives), "{ttl}");
    }
}

#[test]
fn d09_the_shortest_link_of_the_chain_decides() {
    let (query, now) = (wire::query(7, INTERNAL, wire::A), Instant::now());
    let answers = [
        wire::alias(INTERNAL, 40, "a.example"),
        wire::alias("a.example", 20, EXTERNAL),
        wire::address(EXTERNAL, 100, "192.0.2.1"),
        wire::address(EXTERNAL, 10, "192.0.2.2"),
        wire::address(EXTERNAL, 5, "192.0.2.2"),
    ];
    let facts = classify_reply(&query, &wire::reply(&query, &answers), &project(), now).unwrap();
    let lives: Vec<_> = facts.iter().map(|fact| (fact.expires.unwrap() - now).as_secs()).collect();
    assert_eq!(lives, [20, 5]);
}

#[test]
fn d10_each_address_is_classed_once_in_its_own_family() {
    let many: Vec<_> = (0..100).map(|n| wire::address(INTERNAL, 30, &format!("10.0.0.{n}"))).collect();
    let doubled = [many.clone(), many].concat();
    assert_eq!(classify(INTERNAL, wire::A, &doubled).unwrap().len(), 100);
    let both = [wire::address(INTERNAL, 30, "10.0.0.1"), wire::address(INTERNAL, 30, "fd00::1")];
    assert_eq!(
        told(&classify(INTERNAL, wire::AAAA, &both).unwrap()),
        ["fd00::1 internal dns web.shop.svc.cluster.local"]
    );
    assert_eq!(classify(INTERNAL, wire::AAAA, &both[..1]), Ok(vec![]));
    assert_eq!(classify(INTERNAL, wire::ANY, &both).unwrap().len(), 2);
    let mapped = [wire::address(EXTERNAL, 30, "::ffff:10.96.7.7")];
    let mapped = classify(EXTERNAL, wire::AAAA, &mapped).unwrap();
    assert_eq!(told(&mapped), ["10.96.7.7 external dns www.example.com"]);
    assert_eq!(mapped[0].prefix.prefix_len(), 32);
}

#[test]
fn addresses_that_no_tunnelled_packet_may_have_get_no_fact() {
    let v4 = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"];
    let answers: Vec<_> = v4.iter().map(|address| wire::address(EXTERNAL, 30, address)).collect();
    assert_eq!(classify(EXTERNAL, wire::A, &answers), Ok(vec![]));
    let v6 = ["::1", "::", "ff02::1", "fe80::1", "::ffff:127.0.0.1"];
    let answers: Vec<_> = v6.iter().map(|address| wire::address(EXTERNAL, 30, address)).collect();
    assert_eq!(classify(EXTERNAL, wire::AAAA, &answers), Ok(vec![]));
}

#[test]
fn d11_a_thousand_pods_are_classed_and_more_are_capped() {
    let pods = |count: u32| {
        let pods = (0..count).map(|n| {
            wire::address(INTERNAL, 30, &std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string())
        });
        classify(INTERNAL, wire::A, &pods.collect::<Vec<_>>()).unwrap().len()
    };
    assert_eq!(pods(1_000), 1_000);
    assert_eq!(pods(1_400), MAX_ADDRESSES);
}

#[test]
fn d11_glue_of_a_service_record_is_not_believed() {
    let asked = "_http._tcp.web.shop.svc.cluster.local";
    let query = wire::query(7, asked, wire::SRV);
    let target = [&[0, 0, 0, 100, 0, 80][..], &wire::name(INTERNAL)].concat();
    let glue = [wire::address(INTERNAL, 30, "192.0.2.66"), wire::address(asked, 30, "192.0.2.67")];
    let reply = wire::reply_with(&query, 0, &[wire::record(asked, wire::SRV, 30, &target)], &[], &glue);
    assert_eq!(classify_reply(&query, &reply, &project(), Instant::now()), Ok(vec![]));
}

#[test]
fn failures_other_types_and_other_classes_say_nothing() {
    let answer = [wire::address(INTERNAL, 30, "10.96.7.7")];
    let query = wire::query(7, INTERNAL, wire::A);
    for code in [1, 2, 3, 5] {
        let reply = wire::reply_with(&query, code, &answer, &[], &[]);
        assert_eq!(classify_reply(&query, &reply, &project(), Instant::now()), Ok(vec![]), "code {code}");
    }
    assert_eq!(classify(INTERNAL, wire::TXT, &answer), Ok(vec![]));
    let mut chaos = answer[0].clone();
    let class = wire::name(INTERNAL).len() + 3;
    chaos[class] = 3;
    assert_eq!(classify(INTERNAL, wire::A, &[chaos]), Ok(vec![]));
    let mut query = wire::query(7, INTERNAL, wire::A);
    *query.last_mut().unwrap() = 3;
    assert_eq!(classify_reply(&query, &wire::reply(&query, &answer), &project(), Instant::now()), Ok(vec![]));
    let mut update = wire::query(7, INTERNAL, wire::A);
    update[2] |= 5 << 3;
    assert_eq!(
        classify_reply(&update, &wire::reply(&update, &answer), &project(), Instant::now()),
        Ok(vec![])
    );
}

#[test]
fn d12_d13_truncated_replies_and_ad_bits_are_classed_like_any() {
    let query = wire::query(7, EXTERNAL, wire::A);
    let mut reply = wire::reply(&query, &[wire::address(EXTERNAL, 30, "192.0.2.1")]);
    reply[2] |= 0x02;
    reply[3] |= 0x20;
    let facts = classify_reply(&query, &reply, &project(), Instant::now()).unwrap();
    assert_eq!(facts[0].class, Class::External);
}

#[test]
fn a_name_in_a_fact_is_escaped() {
    let mut asked = String::new();
    write!(asked, "a\u{1}b.example").unwrap();
    let facts = classify(&asked, wire::A, &[wire::address(&asked, 30, "192.0.2.1")]).unwrap();
    assert_eq!(facts[0].source, FactSource::Dns("a\\001b.example".into()));
}
