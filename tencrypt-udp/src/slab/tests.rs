use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 8362))
}

fn train(stride: u16, count: u16, last: u16) -> Train {
    Train { to: address(1), stride, count, last, ecn: 0 }
}

/// Commits all that is handed out for `want`, filled with `fill`; how many records that was.
fn put(slab: &mut Slab, want: Train, fill: u8) -> u16 {
    let Some(mut slot) = slab.slot(want) else { return 0 };
    slot.buffer().fill(fill);
    let (records, len) = (slot.records(), slot.buffer().len());
    slot.commit(records, len);
    records
}

fn put_one(slab: &mut Slab, len: u16) -> u16 {
    put(slab, train(len, 1, len), 1)
}

/// Records, stride and bytes of every message.
fn shapes(slab: &Slab) -> Vec<(u16, u16, usize)> {
    slab.messages().iter().map(|message| (message.records, message.stride, message.len)).collect()
}

#[test]
fn a_full_train_is_one_message() {
    let mut slab = Slab::new(SEGMENTS);
    let mut slot = slab.slot(train(1_472, 44, 90)).unwrap();
    assert_eq!((slot.records(), slot.buffer().len()), (44, 43 * 1_472 + 90));
    drop(slot);
    assert_eq!(put(&mut slab, train(1_472, 44, 1_472), 1), 44);
    assert_eq!(put(&mut slab, train(1_472, 44, 1_472), 1), 44);
    assert_eq!(shapes(&slab), [(44, 1_472, 64_768); 2]);
    assert!(!slab.has_room(train(1_472, 44, 1_472)), "it would be cut in two");
    assert!(slab.has_room(train(1_472, 1, 1_472)));
}

#[test]
fn a_train_longer_than_a_datagram_gets_a_prefix() {
    let slab = &mut Slab::new(SEGMENTS);
    // 65,507 / 1,472 is 44; the short last record of 45 still fits.
    assert_eq!(slab.prefix(train(1_472, 47, 1_000)), (44, 44 * 1_472));
    assert_eq!(slab.prefix(train(1_472, 45, 739)), (45, 65_507));
    assert_eq!(slab.prefix(train(1_472, 45, 740)), (44, 44 * 1_472));
    let v6 = Train { to: "[2001:db8::1]:8362".parse().unwrap(), ..train(1_452, 46, 187) };
    assert_eq!(slab.prefix(v6), (46, 65_527));
    assert_eq!(slab.prefix(Train { last: 188, ..v6 }), (45, 45 * 1_452));
    assert_eq!(slab.prefix(train(100, 200, 50)), (64, 6_400));
    assert_eq!(slab.prefix(train(65_000, 2, 65_000)), (1, 65_000));
    assert_eq!(slab.prefix(train(u16::MAX, 1, u16::MAX)), (1, 65_535));
}

#[test]
fn without_offload_every_record_is_a_message() {
    let mut slab = Slab::new(1);
    let slot = slab.slot(train(1_400, 44, 90)).unwrap();
    assert_eq!((slot.records(), slot.len), (1, 1_400));
    slot.commit(1, 1_400);
    put_one(&mut slab, 1_400);
    assert_eq!(shapes(&slab), [(1, 1_400, 1_400); 2]);
}

#[test]
fn equal_records_that_come_one_by_one_become_a_train_and_a_shorter_one_ends_it() {
    let mut slab = Slab::new(SEGMENTS);
    for len in [100, 100, 100, 60, 60, 100, 50, 50, 70] {
        put_one(&mut slab, len);
    }
    assert_eq!(shapes(&slab), [(4, 100, 360), (1, 60, 60), (2, 100, 150), (1, 50, 50), (1, 70, 70)]);
}

#[test]
fn trains_join_whole_or_not_at_all() {
    let mut slab = Slab::new(SEGMENTS);
    for (count, last) in [(20, 1_400), (20, 1_400), (6, 1_400), (20, 1_400), (20, 700), (2, 1_400)] {
        put(&mut slab, train(1_400, count, last), 1);
    }
    // 46 of 1,400 bytes are what a datagram takes; behind the 700 bytes nothing follows.
    assert_eq!(shapes(&slab), [(46, 1_400, 64_400), (40, 1_400, 39 * 1_400 + 700), (2, 1_400, 2_800)]);
}

#[test]
fn a_train_that_would_be_too_long_begins_a_message() {
    let mut slab = Slab::new(SEGMENTS);
    put(&mut slab, train(1_400, 20, 1_400), 1);
    put(&mut slab, train(1_400, 27, 1_400), 1);
    assert_eq!(shapes(&slab), [(20, 1_400, 28_000), (27, 1_400, 37_800)]);
}

#[test]
fn a_message_ends_at_the_limit_of_records() {
    let mut slab = Slab::new(SEGMENTS);
    for _ in 0..130 {
        put_one(&mut slab, 100);
    }
    assert_eq!(shapes(&slab), [(64, 100, 6_400), (64, 100, 6_400), (2, 100, 200)]);
}

#[test]
fn another_destination_or_mark_is_another_message() {
    let mut slab = Slab::new(SEGMENTS);
    put_one(&mut slab, 100);
    put(&mut slab, Train { to: address(2), ..train(100, 1, 100) }, 1);
    put(&mut slab, Train { to: address(2), ecn: 2, ..train(100, 1, 100) }, 1);
    put_one(&mut slab, 100);
    assert_eq!(shapes(&slab).len(), 4);
}

#[test]
fn a_dropped_slot_leaves_nothing_behind() {
    let mut slab = Slab::new(SEGMENTS);
    put(&mut slab, train(10, 2, 10), 1);
    let mut slot = slab.slot(train(10, 3, 10)).unwrap();
    slot.buffer().fill(9);
    drop(slot);
    put(&mut slab, train(10, 1, 10), 2);
    assert_eq!(shapes(&slab), [(3, 10, 30)]);
    assert_eq!(slab.bytes_of(&slab.messages()[0])[18..22], [1, 1, 2, 2]);
}

#[test]
fn a_shorter_commit_gives_the_rest_back() {
    let mut slab = Slab::new(SEGMENTS);
    slab.slot(train(100, 5, 40)).unwrap().commit(2, 200);
    slab.slot(train(100, 1, 100)).unwrap().commit(1, 3);
    assert_eq!(shapes(&slab), [(3, 100, 203)]);
    assert_eq!(slab.used, 203);
}

#[test]
fn a_commit_of_nothing_sends_nothing() {
    let mut slab = Slab::new(SEGMENTS);
    slab.slot(train(100, 1, 100)).unwrap().commit(0, 100);
    slab.slot(train(100, 3, 100)).unwrap().commit(3, 0);
    assert!(slab.messages().is_empty());
    assert!(slab.slot(train(0, 1, 0)).is_none());
    assert!(slab.slot(train(0, 3, 0)).is_none());
}

#[test]
fn a_commit_that_lies_stays_within_its_room() {
    let mut slab = Slab::new(SEGMENTS);
    slab.slot(train(100, 3, 50)).unwrap().commit(9, 5_000);
    slab.slot(train(200, 3, 200)).unwrap().commit(1, 600);
    assert_eq!(shapes(&slab), [(3, 100, 250), (1, 200, 200)]);
}

#[test]
fn a_full_slab_refuses_until_it_is_cleared() {
    let mut slab = Slab::new(SEGMENTS);
    assert_eq!(put_one(&mut slab, u16::MAX) + put_one(&mut slab, u16::MAX), 2);
    assert_eq!(put_one(&mut slab, 1_400), 0);
    slab.clear();
    for index in 0..MESSAGES {
        assert_eq!(put_one(&mut slab, 1 + index as u16), 1);
    }
    assert_eq!(put_one(&mut slab, 1), 0);
}

/// Datagrams that a naive transport would have sent: per destination and mark, record after record.
#[derive(Default)]
struct Model(HashMap<SocketAddr, Vec<(u8, Vec<u8>)>>);

impl Model {
    fn push(&mut self, to: SocketAddr, ecn: u8, record: &[u8]) {
        self.0.entry(to).or_default().push((ecn, record.to_vec()));
    }
}

fn trains() -> impl Strategy<Value = Vec<(Train, u16, bool)>> {
    let stride = prop_oneof![Just(1_472_u16), Just(100), 1..2_000_u16, 30_000..=u16::MAX];
    let one = (0..3_u8, stride, 1..80_u16, any::<u16>(), 0..2_u8, 0..100_u16, any::<bool>());
    let one = one.prop_map(|(host, stride, count, last, ecn, cut, committed)| {
        let to = if host == 2 { "[2001:db8::1]:8362".parse().unwrap() } else { address(host) };
        let last = if count % 2 == 0 { stride } else { last % stride + 1 };
        // Mostly lone packets, as most trains are.
        let count = if count > 60 { count } else { 1 + count % 3 };
        (Train { to, stride, count, last, ecn }, cut, committed || cut > 50)
    });
    proptest::collection::vec(one, 1..60)
}

proptest! {
    #[test]
    fn messages_hold_what_was_committed_in_order(
        trains in trains(),
        segments in prop_oneof![Just(SEGMENTS), Just(1), 2..20_u16],
    ) {
        let mut slab = Slab::new(segments);
        let (mut committed, mut sent) = (Model::default(), Model::default());
        let mut fill = 0_u8;
        for (mut want, cut, commits) in trains {
            while want.count > 0 {
                if !slab.has_room(want) {
                    cut_apart(&slab, segments, &mut sent)?;
                    slab.clear();
                }
                let mut slot = slab.slot(want).expect("an empty slab has room");
                let records = slot.records();
                prop_assert!((1..=want.count).contains(&records));
                let stride = usize::from(record_len(want));
                for record in slot.buffer().chunks_mut(stride) {
                    fill = fill.wrapping_add(1);
                    record.fill(fill);
                }
                // Now and then the core seals fewer than it asked for.
                let taken = if cut < 20 { records.min(1 + cut) } else { records };
                let len = slot.buffer().len().min(stride * usize::from(taken));
                if commits {
                    for record in slot.buffer()[..len].chunks(stride) {
                        committed.push(want.to, want.ecn, record);
                    }
                    slot.commit(taken, len);
                }
                want.count -= records;
            }
        }
        cut_apart(&slab, segments, &mut sent)?;
        prop_assert_eq!(committed.0, sent.0);
    }
}

/// Cuts the messages into records as the kernel does.
fn cut_apart(slab: &Slab, segments: u16, into: &mut Model) -> Result<(), TestCaseError> {
    for message in slab.messages() {
        let outgoing = message.whole(slab);
        let len = outgoing.bytes.len();
        let stride = if outgoing.segment == 0 { len } else { usize::from(outgoing.segment) };
        prop_assert_eq!(usize::from(message.records), len.div_ceil(stride));
        prop_assert!(message.records <= segments);
        prop_assert!(message.records == 1 || len <= longest_payload(message.to));
        for record in outgoing.bytes.chunks(stride) {
            into.push(message.to, outgoing.ecn, record);
        }
    }
    Ok(())
}
