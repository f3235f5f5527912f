//! Packets that the chains have counted, of this table and of those before it.

use std::io;

use crate::{
    enforce::{Counters, Enforcement},
    filtered::{Filtered, Kind},
};

/// Counters as they were read last, and those of tables that were replaced.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    before: Counters,
    last: Counters,
    gaps: [Gap; Kind::ALL.len()],
}

/// The difference between the counters at both ends.
#[derive(Debug, Clone, Copy, Default)]
struct Gap {
    last: u64,
    /// Packets of this table that were dropped.
    dropped: u64,
}

impl Gap {
    /// Takes the difference as it is now. A packet may be under way when the counters are read: it counts as dropped when
    /// it is missing the next time too.
    fn note(&mut self, now: u64) {
        self.dropped = self.dropped.max(now.min(self.last));
        self.last = now;
    }
}

impl Counting {
    /// Reads the counters; those at both ends only where the table has them.
    pub(crate) fn read(&mut self, nft: &mut Enforcement, is_filtered: bool) -> io::Result<()> {
        self.last = nft.counters()?;
        if is_filtered {
            let now = nft.missing()?;
            self.gaps.iter_mut().zip(now).for_each(|(gap, now)| gap.note(now));
        }
        Ok(())
    }

    /// Another table counts from here on.
    pub(crate) fn begin_anew(&mut self) {
        (self.before, self.last) = (self.total(), Counters::default());
        self.gaps = Default::default();
    }

    pub(crate) fn total(&self) -> Counters {
        let [datagrams, names, packets] = self.gaps.map(|gap| gap.dropped);
        let (before, last) = (&self.before, &self.last);
        Counters {
            plain_in: before.plain_in + last.plain_in,
            leak: before.leak + last.leak,
            looped: before.looped + last.looped,
            filtered: Filtered {
                datagrams: before.filtered.datagrams + datagrams,
                names: before.filtered.names + names,
                packets: before.filtered.packets + packets,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_under_way_is_not_taken_for_a_dropped_one() {
        let mut gap = Gap::default();
        let dropped = |gap: &mut Gap, now| {
            gap.note(now);
            gap.dropped
        };
        assert_eq!([1, 0, 2, 0].map(|now| dropped(&mut gap, now)), [0; 4]);
        assert_eq!([3, 3, 4, 4, 0, 0].map(|now| dropped(&mut gap, now)), [0, 3, 3, 4, 4, 4]);
    }

    #[test]
    fn what_was_counted_outlives_its_table() {
        let mut counting = Counting::default();
        for _ in 0..2 {
            counting.last = Counters { leak: 2, ..Counters::default() };
            (0..2).for_each(|_| counting.gaps.iter_mut().for_each(|gap| gap.note(5)));
            counting.begin_anew();
        }
        let filtered = Filtered { datagrams: 10, names: 10, packets: 10 };
        assert_eq!(counting.total(), Counters { leak: 4, filtered, ..Counters::default() });
    }
}
