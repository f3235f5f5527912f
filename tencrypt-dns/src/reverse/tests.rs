use super::*;
use crate::{message::Mismatch, wire};

const SERVER: &str = "10.96.0.10:53";

fn project() -> Project {
    Project::new("shop", Name::from_text("cluster.local").unwrap()).unwrap()
}

fn lookup(address: &str) -> ReverseLookup {
    ReverseLookup::new(address.parse().unwrap(), SERVER.parse().unwrap(), 0x1234_5678_9abc_def0)
}

fn name_record(owner: &str, ttl: u32, name: &str) -> Vec<u8> {
    wire::record(owner, wire::PTR, ttl, &wire::name(name))
}

fn fact(lookup: &ReverseLookup, from: &str, reply: &[u8]) -> Result<Option<String>, ReverseError> {
    let now = Instant::now();
    let fact = lookup.fact(from.parse().unwrap(), reply, &project(), now)?;
    Ok(fact.map(|fact| {
        let life = (fact.expires.unwrap() - now).as_secs();
        format!("{} {} {} {life}", fact.prefix, fact.class.as_str(), fact.source)
    }))
}

#[test]
fn the_name_is_that_of_the_reverse_zones() {
    let name = |address| lookup(address).query().question().unwrap().name.to_string();
    assert_eq!(name("10.244.1.5"), "5.1.244.10.in-addr.arpa");
    assert_eq!(name("::ffff:10.244.1.5"), "5.1.244.10.in-addr.arpa");
    assert_eq!(
        name("fd00::1:ab"),
        "b.a.0.0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"
    );
}

#[test]
fn a_verified_name_becomes_a_reverse_fact() {
    let lookup = lookup("10.244.1.5");
    let owner = "5.1.244.10.in-addr.arpa";
    let with = |answers: &[Vec<u8>]| fact(&lookup, SERVER, &wire::reply(lookup.query().bytes(), answers));
    let pod = name_record(owner, 30, "10-244-1-5.web.shop.svc.cluster.local");
    let internal = "10.244.1.5/32 internal reverse dns 10-244-1-5.web.shop.svc.cluster.local 30";
    assert_eq!(with(std::slice::from_ref(&pod)), Ok(Some(internal.into())));
    let other = name_record(owner, 900, "host.example.com");
    assert_eq!(
        with(std::slice::from_ref(&other)),
        Ok(Some("10.244.1.5/32 external reverse dns host.example.com 300".into()))
    );
    assert_eq!(with(&[other, pod]), Ok(Some(internal.into())));
    assert_eq!(with(&[]), Ok(None));
    assert_eq!(with(&[name_record("6.1.244.10.in-addr.arpa", 30, "a.example")]), Ok(None));
    let delegated = [
        wire::alias(owner, 20, "5.0-31.1.244.10.in-addr.arpa"),
        name_record("5.0-31.1.244.10.in-addr.arpa", 30, "a.example"),
    ];
    assert_eq!(with(&delegated), Ok(Some("10.244.1.5/32 external reverse dns a.example 20".into())));
}

#[test]
fn d15_a_reply_must_come_from_the_server_and_repeat_the_question() {
    let lookup = lookup("10.244.1.5");
    let answer = [name_record("5.1.244.10.in-addr.arpa", 30, "a.example")];
    let right = wire::reply(lookup.query().bytes(), &answer);
    assert_eq!(fact(&lookup, "10.96.0.11:53", &right), Err(ReverseError::Source));
    assert_eq!(fact(&lookup, "10.96.0.10:54", &right), Err(ReverseError::Source));
    let mismatch = |mismatch| Err(ReverseError::Reply(ClassifyError::Unverified(mismatch)));
    let lower: Vec<u8> = lookup.query().bytes()[12..].to_ascii_lowercase();
    let plain = [&lookup.query().bytes()[..12], &lower].concat();
    assert_eq!(fact(&lookup, SERVER, &wire::reply(&plain, &answer)), mismatch(Mismatch::Question));
    let mut other_id = right;
    other_id[0] ^= 1;
    assert_eq!(fact(&lookup, SERVER, &other_id), mismatch(Mismatch::Id));
}

#[test]
fn d15_no_reverse_name_is_authoritative() {
    let lookup = lookup("192.0.2.1");
    let forged = name_record("1.2.0.192.in-addr.arpa", 30, "db.shop.svc.cluster.local");
    let reply = wire::reply(lookup.query().bytes(), &[forged]);
    let fact = lookup.fact(SERVER.parse().unwrap(), &reply, &project(), Instant::now()).unwrap().unwrap();
    assert!(!fact.source.is_authoritative());
    assert_eq!(fact.class, Class::Internal);
    assert_eq!(fact.source.authority(), 0);
}
