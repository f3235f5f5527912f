//! Tests of the ready sinks.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::{
    DatagramSink, SinkFull, Train, TrainSlot, Transmit,
    bytes::{Bytes, DatagramQueue, PacketQueue, QueuedTrain},
};
use crate::offload::VnetHdr;

fn to(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8_362))
}

/// Seals as a tunnel does: as many records at a time as there is room for. Returns how many found room.
fn seal(queue: &mut DatagramQueue, train: Train, text: &[u8]) -> usize {
    let stride = usize::from(train.stride);
    let mut records = text.chunks(stride);
    let mut sealed = 0;
    while records.len() > 0 {
        let count = records.len() as u16;
        let Some(mut slot) = queue.reserve(Train { count, ..train }) else { break };
        let fit = usize::from(slot.records());
        assert!((1..=records.len()).contains(&fit));
        let some: Vec<u8> = records.by_ref().take(fit).flatten().copied().collect();
        assert_eq!(slot.buffer().len(), some.len());
        slot.buffer().copy_from_slice(&some);
        slot.commit(fit as u16, some.len());
        sealed += fit;
    }
    sealed
}

fn train_of(text: &[u8], stride: u16, last_octet: u8) -> Train {
    let count = text.len().div_ceil(stride.into()) as u16;
    let last = (text.len() - usize::from(stride) * usize::from(count - 1)) as u16;
    Train { to: to(last_octet), stride, count, last, ecn: last_octet & 3 }
}

fn texts(train: &QueuedTrain) -> Vec<Vec<u8>> {
    train.records().map(<[u8]>::to_vec).collect()
}

proptest! {
    /// Records come out as they went in, whatever is taken in between and whatever is kept of it.
    #[test]
    fn records_come_out_as_they_were_sealed(
        steps in prop::collection::vec((1..6_u8, 1..300_u16, 1..2_000_usize, 0..4_usize, any::<bool>()), 1..40),
    ) {
        let mut queue = DatagramQueue::new(64);
        let mut sealed = Vec::new();
        let mut taken = Vec::new();
        let mut kept = Vec::new();
        for (number, (octet, stride, len, take, keep)) in steps.into_iter().enumerate() {
            let text: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
            let room = 64 - queue.len();
            let fit = seal(&mut queue, train_of(&text, stride, octet), &text);
            prop_assert_eq!(fit, room.min(len.div_ceil(stride.into())));
            sealed.extend(text.chunks(stride.into()).take(fit).map(|record| (to(octet), octet & 3, record.to_vec())));
            for train in queue.drain().take(take) {
                prop_assert_eq!(train.received_from(to(9)).stride, train.stride);
                taken.extend(texts(&train).into_iter().map(|text| (train.to, train.ecn, text)));
                if keep {
                    kept.push((texts(&train), train.into_records().collect::<Vec<Bytes>>()));
                }
            }
        }
        for train in queue.drain() {
            taken.extend(texts(&train).into_iter().map(|text| (train.to, train.ecn, text)));
        }
        prop_assert!(queue.is_empty() && queue.pop().is_none());
        prop_assert_eq!(taken, sealed);
        for (texts, records) in kept {
            prop_assert_eq!(records, texts);
        }
    }
}

#[test]
fn a_full_queue_takes_nothing() {
    let mut queue = DatagramQueue::new(3);
    let text = [1; 50];
    assert_eq!(seal(&mut queue, train_of(&text, 10, 1), &text), 3);
    assert!(queue.reserve(Train::single(to(1), 10, 0)).is_none());
    let transmit = Transmit { to: to(2), len: 4, ecn: 0, from_tenant_port: true };
    assert_eq!(queue.push(&transmit, b"init..."), Err(SinkFull));
    assert_eq!(texts(&queue.pop().unwrap()), [[1; 10]; 3]);

    queue.push(&transmit, b"init...").unwrap();
    let train = queue.pop().unwrap();
    assert_eq!((train.to, train.stride, train.from_tenant_port), (to(2), 4, true));
    assert_eq!(train.bytes, b"init"[..]);
    assert_eq!(queue.pop(), None);
    assert!(DatagramQueue::new(0).reserve(Train::single(to(1), 10, 0)).is_none());

    let mut packets = PacketQueue::new(1);
    packets.push(VnetHdr::default(), b"one").unwrap();
    assert_eq!(packets.push(VnetHdr::default(), b"two"), Err(SinkFull));
    assert_eq!(packets.pop().unwrap().bytes, b"one"[..]);
    assert!(packets.is_empty());
}

#[test]
fn a_slot_that_is_not_committed_leaves_nothing() {
    let mut queue = DatagramQueue::new(8);
    let train = Train { to: to(1), stride: 4, count: 3, last: 2, ecn: 0 };
    for _ in 0..3 {
        queue.reserve(train).unwrap().buffer().fill(0xff);
        queue.reserve(train).unwrap().commit(0, 0);
    }
    assert!(queue.is_empty());
    let mut slot = queue.reserve(train).unwrap();
    assert_eq!((slot.records(), slot.buffer().to_vec()), (3, vec![0; 10]));
    // Fewer than there was room for; and a last one that is shorter.
    slot.commit(1, 4);
    let slot = queue.reserve(Train { count: 1, ..train }).unwrap();
    slot.commit(1, 2);
    let trains: Vec<(u16, usize)> = queue.drain().map(|train| (train.stride, train.bytes.len())).collect();
    assert_eq!(trains, [(4, 4), (2, 2)]);
}

/// The same memory each time, if nobody keeps what was taken.
#[test]
fn a_queue_that_is_emptied_uses_its_block_anew() {
    let mut queue = DatagramQueue::new(1_000);
    let text = [5; 14_720];
    let mut burst = |keep: &mut Vec<QueuedTrain>| {
        for _ in 0..10 {
            assert_eq!(seal(&mut queue, train_of(&text, 1_472, 1), &text), 10);
        }
        let trains: Vec<QueuedTrain> = queue.drain().collect();
        let places: Vec<*const u8> = trains.iter().map(|train| train.bytes.as_ptr()).collect();
        keep.extend(trains.into_iter().next());
        places
    };
    for _ in 0..4 {
        burst(&mut Vec::new());
    }
    let first = burst(&mut Vec::new());
    assert_eq!(burst(&mut Vec::new()), first);
    let mut kept = Vec::new();
    assert_eq!(burst(&mut kept), first);
    for _ in 0..4 {
        burst(&mut kept);
    }
    assert!(kept.iter().all(|train| train.bytes == text[..]), "what was kept is what it was");
}

/// Neither sealed records nor packets are printed.
#[test]
fn queues_print_no_content() {
    let (mut queue, mut packets) = (DatagramQueue::new(4), PacketQueue::new(4));
    let text = [0xab; 6];
    seal(&mut queue, train_of(&text, 6, 1), &text);
    packets.push(VnetHdr::default(), &text).unwrap();
    let mut printed = format!("{queue:?}{packets:?}");
    printed += &format!("{:?}", queue.reserve(Train::single(to(1), 6, 0)));
    printed += &format!("{:?}{:?}", queue.pop(), packets.pop());
    assert!(!printed.contains("171") && !printed.contains("xab"), "{printed}");
}
