//! The send buffer: records in the order of their commits, in one piece of memory that is never reallocated.

use std::net::SocketAddr;

use tencrypt_core::{Train, TrainSlot};

/// Bytes of the buffer: two of the largest records, or 85 full-sized ones on a 1500-byte link.
const BYTES: usize = 128 << 10;

/// Records it takes; a 64 KB super-packet on a 1500-byte link makes 47.
const RECORDS: usize = 64;

/// One record that waits to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) to: SocketAddr,
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) ecn: u8,
}

/// The buffer.
pub(crate) struct Slab {
    bytes: Box<[u8]>,
    used: usize,
    waiting: Vec<Waiting>,
}

impl Slab {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BYTES].into(), used: 0, waiting: Vec::with_capacity(RECORDS) }
    }

    /// Whether the first record of `want` fits.
    pub(crate) fn has_room(&self, want: Train) -> bool {
        self.waiting.len() < RECORDS && self.bytes.len() - self.used >= first_record(want)
    }

    /// Room for the first record of `want`.
    pub(crate) fn slot(&mut self, want: Train) -> Option<SendSlot<'_>> {
        let len = first_record(want);
        (len > 0 && self.has_room(want)).then_some(SendSlot { slab: self, to: want.to, ecn: want.ecn, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The record committed as number `index` since the last [`clear`](Self::clear).
    pub(crate) fn record(&self, index: usize) -> Option<(Waiting, &[u8])> {
        let waiting = *self.waiting.get(index)?;
        Some((waiting, self.bytes.get(waiting.at..waiting.at + waiting.len)?))
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.used = 0;
    }
}

/// Bytes of a train's first record.
fn first_record(want: Train) -> usize {
    usize::from(if want.count <= 1 { want.last } else { want.stride })
}

/// Room for one record in a [`UdpTransport`](crate::UdpTransport).
#[must_use = "nothing is sent without a commit"]
pub struct SendSlot<'s> {
    slab: &'s mut Slab,
    to: SocketAddr,
    ecn: u8,
    len: usize,
}

impl TrainSlot for SendSlot<'_> {
    fn records(&self) -> u16 {
        1
    }

    fn buffer(&mut self) -> &mut [u8] {
        let at = self.slab.used;
        &mut self.slab.bytes[at..at + self.len]
    }

    fn commit(self, records: u16, len: usize) {
        let len = len.min(self.len);
        if records == 0 || len == 0 {
            return;
        }
        let at = self.slab.used;
        self.slab.waiting.push(Waiting { to: self.to, at, len, ecn: self.ecn });
        self.slab.used += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(stride: u16, count: u16, last: u16) -> Train {
        Train { to: SocketAddr::from(([192, 0, 2, 1], 8362)), stride, count, last, ecn: 0 }
    }

    fn put(slab: &mut Slab, fill: u8, len: u16) -> bool {
        let Some(mut slot) = slab.slot(train(len, 1, len)) else { return false };
        slot.buffer().fill(fill);
        slot.commit(1, usize::from(len));
        true
    }

    #[test]
    fn a_train_gets_room_for_its_first_record_only() {
        let mut slab = Slab::new();
        let mut slot = slab.slot(train(1_400, 44, 90)).unwrap();
        assert_eq!((slot.records(), slot.buffer().len()), (1, 1_400));
        drop(slot);
        assert_eq!(slab.slot(train(1_400, 1, 90)).unwrap().buffer().len(), 90);
    }

    #[test]
    fn records_keep_their_order_and_bytes() {
        let mut slab = Slab::new();
        assert!(put(&mut slab, 1, 10) && put(&mut slab, 2, 20));
        assert_eq!(slab.record(0).unwrap().1, [1; 10]);
        assert_eq!(slab.record(1).unwrap().1, [2; 20]);
        assert!(slab.record(2).is_none());
    }

    #[test]
    fn a_dropped_slot_leaves_nothing_behind() {
        let mut slab = Slab::new();
        assert!(put(&mut slab, 1, 10));
        let mut slot = slab.slot(train(50, 1, 50)).unwrap();
        slot.buffer().fill(9);
        drop(slot);
        assert!(put(&mut slab, 2, 10));
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.record(1).unwrap().1, [2; 10]);
    }

    #[test]
    fn a_shorter_commit_gives_the_rest_back() {
        let mut slab = Slab::new();
        let mut slot = slab.slot(train(100, 1, 100)).unwrap();
        slot.buffer()[..3].copy_from_slice(b"abc");
        slot.commit(1, 3);
        assert!(put(&mut slab, 2, 4));
        assert_eq!(slab.record(0).unwrap().1, b"abc");
        assert_eq!(slab.record(1).unwrap().0.at, 3);
    }

    #[test]
    fn a_commit_of_nothing_sends_nothing() {
        let mut slab = Slab::new();
        slab.slot(train(100, 1, 100)).unwrap().commit(0, 100);
        slab.slot(train(100, 1, 100)).unwrap().commit(1, 0);
        assert_eq!(slab.len(), 0);
        assert!(slab.slot(train(0, 1, 0)).is_none());
    }

    #[test]
    fn a_full_slab_refuses_until_it_is_cleared() {
        let mut slab = Slab::new();
        assert!(put(&mut slab, 1, u16::MAX) && put(&mut slab, 2, u16::MAX));
        assert!(!put(&mut slab, 3, 1_400));
        slab.clear();
        for _ in 0..RECORDS {
            assert!(put(&mut slab, 4, 1));
        }
        assert!(!put(&mut slab, 5, 1));
    }
}
