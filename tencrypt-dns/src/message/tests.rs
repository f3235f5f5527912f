use super::*;
use crate::wire;

const ASKED: &str = "web.shop.svc.cluster.local";

fn asked() -> Vec<u8> {
    wire::query(0x1c2b, ASKED, wire::A)
}

/// A well-formed reply, for tests to spoil.
fn answered() -> Vec<u8> {
    wire::reply(&asked(), &[wire::address(ASKED, 30, "10.96.7.7")])
}

/// Reads `bytes` as the reply to [`asked`].
fn records(bytes: &[u8]) -> Result<Vec<Record>, MessageError> {
    let query = Query::parse(&asked()).unwrap();
    query.verify(bytes).expect("id and question are right").records()
}

/// The reply to [`asked`] with these bytes as its only answer.
fn with_answer(answer: &[u8]) -> Vec<u8> {
    wire::reply(&asked(), &[answer.to_vec()])
}

/// An answer whose owner is these bytes: type A, class IN, 10.0.0.1.
fn owned_by(owner: &[u8]) -> Vec<u8> {
    with_answer(&[owner, &[0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 1]].concat())
}

#[test]
fn a_reply_is_read_through_compression() {
    // Laid out as servers do: owner = pointer to the question, target ends in a pointer into it, OPT last.
    let mut reply = asked();
    reply[2..12].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 1]);
    assert_eq!(&reply[16..21], b"\x04shop");
    reply.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 30, 0, 6, 3, b'w', b'w', b'2', 0xc0, 16]);
    reply.extend([0xc0, 56, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 7, 7]);
    reply.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    let expected = [
        Record {
            owner: Name::from_text(ASKED).unwrap(),
            ttl: 30,
            data: Data::Alias(Name::from_text("ww2.shop.svc.cluster.local").unwrap()),
        },
        Record {
            owner: Name::from_text("ww2.shop.svc.cluster.local").unwrap(),
            ttl: 5,
            data: Data::Address("10.96.7.7".parse().unwrap()),
        },
    ];
    assert_eq!(records(&reply).unwrap(), expected);
}

#[test]
fn d01_pointers_that_lead_nowhere_good_are_errors() {
    let here = u16::try_from(asked().len()).unwrap();
    let to = |offset: u16| (0xc000 | offset).to_be_bytes();
    assert_eq!(records(&owned_by(&to(here))), Err(MessageError::Records), "to itself");
    assert_eq!(records(&owned_by(&to(here + 4))), Err(MessageError::Records), "forward");
    assert_eq!(
        records(&owned_by(&[to(here + 2), to(here)].concat())),
        Err(MessageError::Records),
        "loop of two"
    );
    assert_eq!(
        records(&owned_by(&[&[1, b'a'][..], &to(here)].concat())),
        Err(MessageError::Records),
        "to its own start"
    );
    for offset in 0..12 {
        assert_eq!(
            records(&owned_by(&to(offset))),
            Err(MessageError::Records),
            "into the header at {offset}"
        );
    }
    assert!(records(&owned_by(&to(12))).is_ok(), "the question itself");
}

#[test]
fn d01_a_pointer_into_a_label_makes_another_name_at_most() {
    // Offset 13 is the `w` of `web`: length byte 119, an unknown label type.
    assert_eq!(records(&owned_by(&[0xc0, 13])), Err(MessageError::Records));
    // A label that contains the wire form of another name: that name is what is read, not the asked one.
    let query = wire::query(1, "x\u{3}com", wire::A);
    let parsed = Query::parse(&query).unwrap();
    let mut reply = wire::reply(&query, &[vec![0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 1]]);
    let found = parsed.verify(&reply).unwrap().records().unwrap();
    assert_eq!(found[0].owner, Name::from_text("com").unwrap());
    reply[15] = b'x';
    assert!(parsed.verify(&reply).is_err());
}

#[test]
fn d01_a_long_run_of_pointers_is_refused_before_it_is_walked() {
    let run =
        |length: u16| {
            let mut reply = asked();
            let root = u16::try_from(reply.len()).unwrap() + 11;
            let mut data = vec![0];
            data.extend((0..length).flat_map(|hop| {
                (0xc000 | if hop == 0 { root } else { root + 1 + 2 * (hop - 1) }).to_be_bytes()
            }));
            let txt = wire::record("", 10, 1, &data);
            // All other answers use the end of the run for their owner.
            let last = (0xc000 | (root + 1 + 2 * (length - 1))).to_be_bytes();
            let owned = [&last[..], &[0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 0, 0, 1]].concat();
            reply = wire::reply(&reply, &[vec![txt], vec![owned; 2_900]].concat());
            assert!(reply.len() < MAX_MESSAGE);
            reply
        };
    assert_eq!(records(&run(8_000)), Err(MessageError::Pointers));
    // The owner's own pointer is one more.
    assert_eq!(records(&run(16)), Err(MessageError::Pointers));
    assert_eq!(records(&run(15)).unwrap().len(), 2_900);
}

#[test]
fn d02_label_types_and_lengths_are_checked() {
    for kind in [0x40, 0x80] {
        assert_eq!(
            records(&owned_by(&[kind, 1, b'a', 0])),
            Err(MessageError::Records),
            "label type {kind:#x}"
        );
    }
    let label = |length: u8| [&[length][..], &vec![b'a'; length.into()]].concat();
    assert!(records(&owned_by(&[label(63), vec![0]].concat())).is_ok());
    assert_eq!(records(&owned_by(&[label(64), vec![0]].concat())), Err(MessageError::Records));
    let name = |last: u8| [label(63), label(63), label(63), label(last), vec![0]].concat();
    assert_eq!(name(61).len(), 255);
    assert!(records(&owned_by(&name(61))).is_ok());
    assert_eq!(records(&owned_by(&name(62))), Err(MessageError::Records));
    assert_eq!(records(&with_answer(&label(63))), Err(MessageError::Records), "no root");
    let query = [&asked()[..12], &name(61)[..], &[0, 1, 0, 1]].concat();
    assert_eq!(Query::parse(&query).unwrap().question().unwrap().name.wire().len(), 255);
    let query = [&asked()[..12], &name(62)[..], &[0, 1, 0, 1]].concat();
    assert_eq!(Query::parse(&query), Err(MessageError::Question));
}

#[test]
fn d02_a_label_with_a_dot_nul_or_ff_stays_one_label() {
    let owner = [&[8][..], b"web.shop", &[3, b'\0', 0xff, b'.', 0]].concat();
    let found = records(&owned_by(&owner)).unwrap();
    assert_eq!(found[0].owner, Name::from_labels([&b"web.shop"[..], b"\0\xff."]).unwrap());
    assert_eq!(found[0].owner.labels().count(), 2);
}

#[test]
fn d03_counts_and_lengths_beyond_the_data_are_errors() {
    for (section, at) in [("answers", 7), ("authority", 9), ("additional", 11)] {
        let mut reply = answered();
        reply[at] += 1;
        assert_eq!(records(&reply), Err(MessageError::Records), "{section}");
        reply[at - 1] = 0xff;
        reply[at] = 0xff;
        assert_eq!(records(&reply), Err(MessageError::Records), "{section}");
    }
    let odd: [(u16, Vec<u8>); 6] = [
        (wire::A, vec![10, 0, 0]),
        (wire::A, vec![10, 0, 0, 1, 2]),
        (wire::AAAA, vec![0; 15]),
        (wire::CNAME, [wire::name("a.b"), vec![0]].concat()),
        (wire::SRV, vec![0, 0, 0, 0, 0]),
        (wire::A, vec![]),
    ];
    for (record_type, data) in odd {
        let reply = with_answer(&wire::record(ASKED, record_type, 30, &data));
        assert_eq!(records(&reply), Err(MessageError::Records), "type {record_type}, {data:?}");
    }
    let opt = wire::opt(1232, &[0, 10, 0, 8, 1, 2, 3]);
    let reply = wire::reply_with(&asked(), 0, &[wire::address(ASKED, 30, "10.96.7.7")], &[], &[opt]);
    assert_eq!(records(&reply), Err(MessageError::Records), "option longer than OPT");
    let whole = answered();
    for length in asked().len()..whole.len() {
        assert_eq!(records(&whole[..length]), Err(MessageError::Records), "cut to {length}");
    }
}

#[test]
fn d03_only_one_question_is_a_question() {
    for count in [0_u16, 2, 65_535] {
        let mut bytes = asked();
        bytes[4..6].copy_from_slice(&count.to_be_bytes());
        assert_eq!(Query::parse(&bytes).unwrap().question(), None, "{count} questions in the query");
        let mut reply = answered();
        reply[4..6].copy_from_slice(&count.to_be_bytes());
        let query = Query::parse(&asked()).unwrap();
        assert_eq!(query.verify(&reply).unwrap_err(), Mismatch::Question, "{count} questions in the reply");
    }
    let query = Query::parse(&asked()).unwrap();
    let empty = [&answered()[..4], &[0; 8]].concat();
    assert_eq!(query.verify(&empty).unwrap_err(), Mismatch::Question);
    assert_eq!(Query::parse(&asked()[..20]), Err(MessageError::Question));
    let compressed = [&asked()[..12], &[0xc0, 4, 0, 1, 0, 1]].concat();
    assert_eq!(Query::parse(&compressed), Err(MessageError::Question));
}

#[test]
fn d04_a_response_is_no_query_and_a_query_no_response() {
    assert_eq!(Query::parse(&answered()), Err(MessageError::NotQuery));
    assert_eq!(Query::parse(&asked()[..11]), Err(MessageError::Short));
    assert_eq!(Query::parse(&[]), Err(MessageError::Short));
    let query = Query::parse(&asked()).unwrap();
    assert_eq!(query.verify(&asked()).unwrap_err(), Mismatch::NotResponse);
    assert_eq!(query.verify(&answered()[..11]).unwrap_err(), Mismatch::Short);
}

#[test]
fn d05_a_reply_repeats_id_opcode_and_question() {
    let query = Query::parse(&wire::query(0x1c2b, "wEb.shop.svc.cluster.local", wire::A)).unwrap();
    let right = wire::reply(query.bytes(), &[]);
    assert!(query.verify(&right).is_ok());
    assert!(query.verify(&answered()).is_ok(), "in lower case");
    let spoilt = |at: usize, bit: u8| {
        let mut bytes = right.clone();
        bytes[at] ^= bit;
        query.verify(&bytes).map(|_| ()).unwrap_err()
    };
    assert_eq!(spoilt(0, 1), Mismatch::Id);
    assert_eq!(spoilt(1, 0x80), Mismatch::Id);
    assert_eq!(spoilt(2, 0x08), Mismatch::Opcode);
    for at in 12..right.len() {
        assert_eq!(spoilt(at, 1), Mismatch::Question, "byte {at}");
    }
    assert_eq!(query.verify(&right[..right.len() - 1]).unwrap_err(), Mismatch::Question);
}

#[test]
fn names_are_repeated_in_any_case_and_nothing_else_is() {
    // RFC 4343 section 3: letters of ASCII, and no other bytes; `[` and `{` are 0x20 apart as `A` and `a` are.
    let asked = wire::query(1, "wEb[.Shop.\u{c0}.example", wire::A);
    let query = Query::parse(&asked).unwrap();
    let with = |from: u8, to: u8| {
        let mut reply = wire::reply(&asked, &[]);
        reply[12..].iter_mut().filter(|byte| **byte == from).for_each(|byte| *byte = to);
        query.verify(&reply).map(|_| ())
    };
    for (from, to) in [(b'w', b'W'), (b'E', b'e'), (b'S', b's'), (b'x', b'X')] {
        assert_eq!(with(from, to), Ok(()), "{}", char::from(from));
    }
    for (from, to) in [(b'[', b'{'), (0x80, 0xa0), (b'w', b'v'), (4, 0x24)] {
        assert_eq!(with(from, to), Err(Mismatch::Question), "{from:#x}");
    }
    // Type 65 and class 97 are letters only by chance.
    let mut asked = wire::query(1, "a.example", 65);
    *asked.last_mut().unwrap() = 97;
    let query = Query::parse(&asked).unwrap();
    for from_end in [1, 3] {
        let mut reply = wire::reply(&asked, &[]);
        let at = reply.len() - from_end;
        reply[at] ^= 0x20;
        assert_eq!(query.verify(&reply).unwrap_err(), Mismatch::Question, "{from_end}");
    }
}

#[test]
fn a_case_that_was_chosen_at_random_is_repeated() {
    let query = Query::new(7, Name::from_text(ASKED).unwrap(), wire::A, 0x5555_5555_5555_5555);
    assert!(query.verify(&wire::reply(query.bytes(), &[])).is_ok());
    let lower = wire::reply(&query.bytes().to_ascii_lowercase(), &[]);
    assert_eq!(query.verify(&lower).unwrap_err(), Mismatch::Question);
}

#[test]
fn an_error_without_records_needs_no_question() {
    let query = Query::parse(&asked()).unwrap();
    for code in 0..16 {
        let bare = [0x1c, 0x2b, 0x81, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0];
        let is_error = [FORMERR, SERVFAIL, NOTIMP, REFUSED].contains(&code);
        let verified = query.verify(&bare);
        assert_eq!(verified.is_ok(), is_error, "{code}");
        assert!(verified.is_err() || verified.unwrap().records() == Ok(vec![]), "{code}");
        let mut other = bare;
        other[1] ^= 1;
        assert_eq!(query.verify(&other).unwrap_err(), Mismatch::Id);
        // With records it has something to say, and whose they are is not known.
        for section in [7, 9] {
            let mut full = [&bare[..], &wire::address(ASKED, 30, "10.96.7.7")].concat();
            full[section] = 1;
            assert_eq!(query.verify(&full).unwrap_err(), Mismatch::Question, "{code}");
        }
    }
    // As servers do that do not know of EDNS, and those that do.
    let with_opt = [&[0x1c, 0x2b, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 1][..], &wire::opt(512, &[])].concat();
    assert_eq!(query.verify(&with_opt).unwrap().records(), Ok(vec![]));
    let question = wire::reply_with(&wire::query(0x1c2b, "other.example", wire::A), FORMERR, &[], &[], &[]);
    assert_eq!(query.verify(&question).unwrap_err(), Mismatch::Question, "another question");
}

#[test]
fn further_messages_of_a_transfer_may_leave_out_the_question() {
    let asked = wire::query(7, "shop.svc.cluster.local", record_type::AXFR);
    let query = Query::parse(&asked).unwrap();
    assert!(query.is_transfer() && !Query::parse(&self::asked()).unwrap().is_transfer());
    let mut further = wire::reply(&asked, &[wire::address(ASKED, 30, "10.96.7.7")]);
    assert!(query.verify_further(&further).is_ok());
    further.drain(12..asked.len());
    further[5] = 0;
    assert_eq!(query.verify(&further).unwrap_err(), Mismatch::Question, "the first message");
    assert_eq!(query.verify_further(&further).unwrap().records().unwrap().len(), 1);
    further[0] ^= 1;
    assert_eq!(query.verify_further(&further).unwrap_err(), Mismatch::Id);
    let other = wire::reply(&wire::query(7, "other.example", record_type::AXFR), &[]);
    assert_eq!(query.verify_further(&other).unwrap_err(), Mismatch::Question);
}

#[test]
fn other_operations_have_no_question_but_a_reply() {
    for opcode in [4, 5, 6, 15] {
        let mut bytes = asked();
        bytes[2] |= opcode << 3;
        let query = Query::parse(&bytes).unwrap();
        assert_eq!(query.question(), None);
        // RFC 2136 section 3.8 leaves it to the server whether to repeat the zone.
        let mut reply = bytes[..12].to_vec();
        reply[2] |= 0x80;
        reply[5] = 0;
        assert!(query.verify(&reply).is_ok(), "opcode {opcode}");
        assert!(matches!(query.verify(&answered()), Err(Mismatch::Opcode)));
    }
}

#[test]
fn d12_d13_flags_and_opt_do_not_matter_to_what_is_read() {
    let mut reply = wire::reply_with(
        &asked(),
        0,
        &[wire::address(ASKED, 30, "10.96.7.7")],
        &[],
        &[wire::opt(0, &[0xff, 0xff, 0, 2, 1, 2])],
    );
    reply[2] |= FLAG_TRUNCATED;
    reply[3] |= 0x70;
    let query = Query::parse(&asked()).unwrap();
    let verified = query.verify(&reply).unwrap();
    assert!(verified.is_truncated());
    assert_eq!(verified.response_code(), 0);
    assert_eq!(verified.records().unwrap().len(), 1);
    assert_eq!(verified.bytes(), reply);
}

#[test]
fn d13_opt_twice_or_among_the_answers_is_unreadable() {
    let answer = wire::address(ASKED, 30, "10.96.7.7");
    let twice = [wire::opt(1232, &[]), wire::opt(1232, &[])];
    let reply = wire::reply_with(&asked(), 0, std::slice::from_ref(&answer), &[], &twice);
    assert_eq!(records(&reply), Err(MessageError::Records));
    assert_eq!(records(&wire::reply(&asked(), &[answer, wire::opt(1232, &[])])), Err(MessageError::Records));
}

#[test]
fn servfail_is_the_header_and_the_question_of_the_query() {
    let mut bytes = asked();
    bytes[2] |= 0x04;
    bytes[3] |= 0x30;
    bytes[11] = 1;
    bytes.extend(wire::opt(4096, &[]));
    let query = Query::parse(&bytes).unwrap();
    let servfail = query.servfail();
    let reply = query.verify(&servfail).unwrap();
    assert_eq!((reply.response_code(), reply.records()), (SERVFAIL, Ok(vec![])));
    assert_eq!(servfail[2..4], [0x81, 0x12]);
    assert_eq!(servfail.len(), asked().len());
    let mut update = asked();
    update[2] |= 5 << 3;
    let update = Query::parse(&update).unwrap();
    assert_eq!(update.servfail(), [0x1c, 0x2b, 0xa9, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_query_of_our_own_is_one_and_varies_its_case() {
    let name = Name::from_text("7.7.96.10.in-addr.arpa").unwrap();
    let query = Query::new(0xbeef, name, record_type::PTR, 0b1011);
    assert_eq!(Query::parse(query.bytes()).unwrap().question(), query.question());
    assert_eq!(query.bytes()[..2], [0xbe, 0xef]);
    assert_ne!(query.bytes(), wire::query(0xbeef, "7.7.96.10.in-addr.arpa", wire::PTR));
    assert_eq!(
        query.bytes().to_ascii_lowercase(),
        wire::query(0xbeef, "7.7.96.10.in-addr.arpa", wire::PTR).to_ascii_lowercase()
    );
}
