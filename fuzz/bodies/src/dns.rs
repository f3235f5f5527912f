//! DNS messages, their stream, and resolv.conf.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tencrypt::directory::{Class, Fact, FactSource};
use tencrypt_dns::{
    Name, Project, ResolvConf, classify_reply,
    facts::{MAX_ADDRESSES, MAX_TTL},
    framing::{Framing, frame},
    message::{MAX_MESSAGE, Query},
    resolv_conf::{MAX_NAMESERVERS, MAX_SEARCH},
};

use crate::input::Input;

/// Reads the bytes as a query, as a reply, as a stream, as a file.
pub fn dns(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 5 {
        0 => file(input.rest()),
        1 => stream(&mut input),
        2 => {
            let query = input.chunk();
            let reply = input.rest();
            any_query(query);
            let _ = facts_of(query, reply);
        }
        3 => fitting_reply(&mut input),
        _ => {
            any_query(input.rest());
        }
    }
}

fn any_query(bytes: &[u8]) {
    let Ok(query) = Query::parse(bytes) else { return };
    assert_eq!(query.bytes(), bytes);
    let failure = query.servfail();
    assert!(failure.len() <= bytes.len().max(12));
    let reply = query.verify(&failure).expect("our own reply is one");
    assert_eq!((reply.response_code(), reply.is_truncated()), (2, false));
    assert_eq!(reply.records(), Ok(Vec::new()));
    // A query is no reply, not even to itself.
    assert!(query.verify(bytes).is_err());
    if let Some(question) = query.question() {
        name(&question.name);
    }
}

/// A reply that fits its query, the records behind the question left to the input.
fn fitting_reply(input: &mut Input<'_>) {
    let own = input.flag();
    let labels: Vec<&[u8]> = (0..input.byte() % 5).map(|_| input.chunk()).collect();
    let zone: &[&[u8]] = if own { &[b"shop", b"svc", b"cluster", b"local"] } else { &[] };
    let Ok(asked) = Name::from_labels(labels.iter().chain(zone)) else { return };
    name(&asked);
    let types = [1, 28, 255, 5, 12, input.word()];
    let record_type = types[input.index(types.len())];
    let case = u64::from_be_bytes(input.array());
    let query = Query::new(input.word(), asked.clone(), record_type, case);
    let again = Query::parse(query.bytes()).expect("our own query is one");
    assert_eq!(again.question(), query.question());
    assert_eq!(again.question().map(|question| &question.name), Some(&asked));

    let mut reply = query.bytes().to_vec();
    reply[2] |= 0x80 | input.byte() & 0x07;
    reply[3] = if input.flag() { input.byte() } else { 0 };
    for count in 3..6 {
        reply[2 * count + 1] = input.byte();
    }
    reply.extend(input.rest());
    let verified = query.verify(&reply).expect("header and question fit");
    if let Ok(records) = verified.records() {
        records.iter().for_each(|record| name(&record.owner));
    }
    let Ok(facts) = facts_of(query.bytes(), &reply) else { return };
    if reply[3] & 0x0f != 0 || !matches!(record_type, 1 | 28 | 255) {
        assert!(facts.is_empty(), "only a good answer to a question for addresses says something");
    }
    // One bit of the question that is not the case of a letter, and it is somebody else's.
    let mut other = reply.clone();
    let at = 12 + input.index(query.bytes().len() - 12);
    other[at] ^= 0x01;
    assert!(classify_reply(query.bytes(), &other, &project(), moment()).is_err());
}

/// The facts of a reply, each of them possible.
fn facts_of(query: &[u8], reply: &[u8]) -> Result<Vec<Fact>, ()> {
    let (project, now) = (project(), moment());
    let facts = classify_reply(query, reply, &project, now).map_err(drop)?;
    assert!(facts.len() <= MAX_ADDRESSES);
    for fact in &facts {
        assert_eq!(fact.prefix.prefix_len(), fact.prefix.max_prefix_len());
        let address = fact.prefix.addr();
        let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        let local = match address {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
        };
        assert!(!special && !local, "{address}");
        let expires = fact.expires.expect("what DNS says ends");
        assert!(expires > now && expires <= now + MAX_TTL + Duration::from_secs(1));
        let FactSource::Dns(source) = &fact.source else { panic!("DNS says so") };
        assert!(matches!(fact.class, Class::Internal | Class::External));
        // The class follows from the name alone.
        let zone = source.trim_end_matches('.').to_ascii_lowercase();
        let own = ["shop.svc.cluster.local", "shop.pod.cluster.local"];
        let below = own.iter().any(|own| zone.strip_suffix(own).is_some_and(|rest| rest.ends_with('.')));
        assert!(fact.class == Class::External || below, "{source} is internal");
        assert!(!source.chars().any(char::is_control), "{source:?}");
    }
    Ok(facts)
}

/// However a stream is split, its messages are the same.
fn stream(input: &mut Input<'_>) {
    let max = if input.flag() { MAX_MESSAGE } else { usize::from(input.word()) };
    let mut pieces: Vec<&[u8]> = (0..input.byte() % 8).map(|_| input.chunk()).collect();
    pieces.push(input.rest());
    let whole = pieces.concat();
    let (at_once, end) = messages(&[&whole], max);
    assert_eq!((at_once.clone(), end), messages(&pieces, max));
    let mut framed = Vec::new();
    for message in &at_once {
        assert!(!message.is_empty() && message.len() <= max);
        framed.extend(frame(message).expect("it fitted before"));
    }
    assert!(whole.starts_with(&framed));
}

/// The messages in the pieces of a stream, and whether it can be read on.
fn messages(pieces: &[&[u8]], max: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut framing, mut messages) = (Framing::new(max), Vec::new());
    for piece in pieces {
        framing.push(piece);
        loop {
            match framing.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(framing.next_message(), Err(error), "it stays broken");
                    return (messages, false);
                }
            }
        }
    }
    (messages, true)
}

fn file(bytes: &[u8]) {
    let Ok(conf) = ResolvConf::parse(bytes) else { return };
    assert!(conf.nameservers.len() <= MAX_NAMESERVERS && conf.search.len() <= MAX_SEARCH);
    assert!(conf.options.ndots <= 15 && conf.options.attempts <= 5);
    for address in conf.capturable() {
        assert!(!address.is_loopback() && !address.is_unspecified() && !address.is_multicast());
        assert_eq!(address.to_canonical(), address);
    }
    conf.search.iter().for_each(name);
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(conf.ignored.iter().all(|line| (1..=lines).contains(line)));
    if let Ok(project) = conf.project() {
        assert!((1..=63).contains(&project.namespace().len()));
        let labels = [project.namespace().as_bytes(), b"svc"];
        let zone = Name::from_labels(labels.into_iter().chain(project.cluster_domain().labels()));
        let zone = zone.expect("it was read");
        assert!(conf.search.contains(&zone));
        assert_eq!(project.class_of(&zone), Class::External, "the zone itself is no service");
    }
}

fn name(name: &Name) {
    let wire = name.wire();
    assert!((1..=Name::MAX_WIRE).contains(&wire.len()) && wire.ends_with(&[0]));
    assert_eq!(Name::from_labels(name.labels()).as_ref(), Ok(name));
    assert!(!name.is_below(name));
    let count = name.labels().count();
    if let Some(parent) = name.parent(count.min(1)).filter(|_| count > 0) {
        assert!(name.is_below(&parent) && !parent.is_below(name));
    }
    assert!(!name.to_string().chars().any(char::is_control));
}

fn project() -> Project {
    let domain = Name::from_text("cluster.local").expect("a name");
    Project::new("shop", domain).expect("a namespace")
}

/// A moment to count from.
fn moment() -> Instant {
    Instant::now()
}
