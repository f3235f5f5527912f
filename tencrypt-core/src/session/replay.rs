//! The replay window.

use std::fmt;

use crate::stats::DropReason;

/// Counters behind the newest one that may still arrive (Linux `drivers/net/wireguard/messages.h` keeps as many bits,
/// of which 64 fewer are usable). At 1,440 bytes a record: 11.8 MB of reordering.
pub(crate) const WINDOW: u64 = 8_192;

const BLOCK_BITS: u64 = 64;
/// One block more than the window covers: its first and its last block are both partly used.
const BLOCKS: u64 = WINDOW / BLOCK_BITS + 1;

/// Counters of a session that were received: the newest, and of the [`SIZE`](Self::SIZE) up to it each one. A ring of bit
/// blocks, of which an advance clears whole ones (RFC 6479).
///
/// ```
/// use tencrypt::{DropReason, session::ReplayWindow};
///
/// let mut window = ReplayWindow::new();
/// for counter in [0, 2, 1] {
///     assert_eq!(window.check(counter), Ok(())); // before the record's tag is verified
///     window.mark(counter); // once it was
/// }
/// assert_eq!(window.check(1), Err(DropReason::Replay));
///
/// window.mark(ReplayWindow::SIZE + 2);
/// assert_eq!(window.check(2), Err(DropReason::TooOld));
/// assert_eq!(window.check(3), Ok(()));
/// ```
pub struct ReplayWindow {
    newest: u64,
    blocks: Box<[u64; BLOCKS as usize]>,
}

impl ReplayWindow {
    /// Counters that a window remembers: the newest and those right before it.
    pub const SIZE: u64 = WINDOW;

    /// A window that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { newest: 0, blocks: Box::new([0; BLOCKS as usize]) }
    }

    /// Checks that `counter` may be accepted. Changes nothing: the record may be forged.
    ///
    /// # Errors
    /// [`DropReason::TooOld`] for a counter [`SIZE`](Self::SIZE) or more behind the newest, [`DropReason::Replay`] for one that
    /// was marked.
    #[inline]
    pub fn check(&self, counter: u64) -> Result<(), DropReason> {
        if counter > self.newest {
            return Ok(());
        }
        if self.newest - counter >= WINDOW {
            return Err(DropReason::TooOld);
        }
        let (block, bit) = place(counter);
        if self.blocks[block] & bit != 0 { Err(DropReason::Replay) } else { Ok(()) }
    }

    /// Remembers `counter`, whose record proved authentic. A counter that [`check`](Self::check) refuses stays
    /// refused.
    #[inline]
    pub fn mark(&mut self, counter: u64) {
        if counter > self.newest {
            let ahead = (counter / BLOCK_BITS - self.newest / BLOCK_BITS).min(BLOCKS);
            for step in 0..ahead {
                // From the new block downwards, so that no sum can overflow.
                self.blocks[((counter / BLOCK_BITS - step) % BLOCKS) as usize] = 0;
            }
            self.newest = counter;
        } else if self.newest - counter >= WINDOW {
            return;
        }
        let (block, bit) = place(counter);
        self.blocks[block] |= bit;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow").field("newest", &self.newest).finish_non_exhaustive()
    }
}

fn place(counter: u64) -> (usize, u64) {
    ((counter / BLOCK_BITS % BLOCKS) as usize, 1 << (counter % BLOCK_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The rule itself: a set of everything seen, and the newest of it.
    #[derive(Default)]
    struct Naive(BTreeSet<u64>);

    impl Naive {
        fn check(&self, counter: u64) -> Result<(), DropReason> {
            match self.0.last() {
                Some(newest) if *newest >= counter && newest - counter >= WINDOW => Err(DropReason::TooOld),
                _ if self.0.contains(&counter) => Err(DropReason::Replay),
                _ => Ok(()),
            }
        }
    }

    fn accept(window: &mut ReplayWindow, counter: u64) -> Result<(), DropReason> {
        window.check(counter)?;
        window.mark(counter);
        Ok(())
    }

    const REPLAY: Result<(), DropReason> = Err(DropReason::Replay);
    const TOO_OLD: Result<(), DropReason> = Err(DropReason::TooOld);

    #[test]
    fn each_counter_is_accepted_once_in_any_order() {
        let mut window = ReplayWindow::new();
        for counter in (0..WINDOW).rev() {
            assert_eq!(accept(&mut window, counter), Ok(()), "{counter}");
        }
        for counter in 0..WINDOW {
            assert_eq!(accept(&mut window, counter), REPLAY, "{counter}");
        }
    }

    #[test]
    fn the_edge_of_the_window_is_exact() {
        for newest in [WINDOW, WINDOW + 1, WINDOW + 63, WINDOW + 64, 1 << 40, u64::MAX - 1, u64::MAX] {
            let edge = newest - WINDOW;
            let mut window = ReplayWindow::new();
            assert_eq!(accept(&mut window, newest), Ok(()));
            assert_eq!(accept(&mut window, edge), TOO_OLD, "{newest}");
            assert_eq!(accept(&mut window, edge.saturating_sub(1)), TOO_OLD, "{newest}");
            assert_eq!(accept(&mut window, edge + 1), Ok(()), "{newest}");
            assert_eq!(accept(&mut window, edge + 1), REPLAY, "{newest}");
            assert_eq!(accept(&mut window, edge + 2), Ok(()), "{newest}");
            assert_eq!(accept(&mut window, newest), REPLAY);
        }
    }

    #[test]
    fn an_advance_forgets_no_counter_inside_and_keeps_none_outside() {
        // Stale bits in the ring would show as replays of counters never seen.
        for step in [1, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + 64, WINDOW + 65, 3 * WINDOW] {
            let mut window = ReplayWindow::new();
            let mut counter = 5;
            for _ in 0..300 {
                assert_eq!(accept(&mut window, counter), Ok(()), "step {step} counter {counter}");
                let behind = counter.saturating_sub(step);
                if behind > 5 && step < WINDOW {
                    assert_eq!(accept(&mut window, behind), REPLAY, "step {step} counter {counter}");
                }
                if step > 1 && counter > 5 {
                    assert_eq!(accept(&mut window, counter - 1), Ok(()), "step {step} counter {counter}");
                }
                counter += step;
            }
        }
    }

    #[test]
    fn a_jump_to_the_end_of_all_counters_is_safe() {
        let mut window = ReplayWindow::new();
        for counter in [0, 1, 1 << 40, u64::MAX] {
            assert_eq!(accept(&mut window, counter), Ok(()));
            assert_eq!(accept(&mut window, counter), REPLAY);
        }
        assert_eq!(accept(&mut window, 0), TOO_OLD);
        assert_eq!(accept(&mut window, u64::MAX - 1), Ok(()));
    }

    /// The cases of Linux' own test (drivers/net/wireguard/selftest/counter.c), for a window of 8,192. Left out are those of
    /// its limit of messages, which receivers have there: here the sender keeps to one, and counters end at 2^64 - 1.
    #[test]
    fn the_cases_of_linux_come_out() {
        const LIMIT: u64 = WINDOW;
        const LAST: u64 = u64::MAX;
        let all = |counters: &mut dyn Iterator<Item = (u64, bool)>| {
            let mut window = ReplayWindow::new();
            for (number, (counter, good)) in (1..).zip(counters) {
                assert_eq!(accept(&mut window, counter).is_ok(), good, "case {number}: {counter}");
            }
        };
        let cases = [
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (LIMIT, true),
            (LIMIT - 1, true),
            (LIMIT - 1, false),
            (LIMIT - 2, true),
            (2, true),
            (2, false),
            (LIMIT + 16, true),
            (3, false),
            (LIMIT + 16, false),
            (LIMIT * 4, true),
            (LIMIT * 4 - (LIMIT - 1), true),
            (10, false),
            (LIMIT * 4 - LIMIT, false),
            (LIMIT * 4 - (LIMIT + 1), false),
            (LIMIT * 4 - (LIMIT - 2), true),
            (LIMIT * 4 + 1 - LIMIT, false),
            (0, false),
            (LAST, true),
            (LAST, false),
            (LAST - 1, true),
            (LAST - 1, false),
            (LAST - 2, true),
            (0, false),
        ];
        all(&mut cases.into_iter());
        let good = |counter: u64| (counter, true);
        all(&mut (1..LIMIT).map(good).chain([(0, true), (0, false)]));
        all(&mut (2..=LIMIT).map(good).chain([(1, true), (0, false)]));
        all(&mut (0..LIMIT).rev().map(good));
        all(&mut (1..=LIMIT).rev().map(good).chain([(0, false)]));
        all(&mut (1..LIMIT).rev().map(good).chain([(LIMIT, true), (0, false)]));
        all(&mut (1..LIMIT).rev().map(good).chain([(0, true), (LIMIT, true)]));
    }

    #[test]
    fn a_check_alone_changes_nothing() {
        let mut window = ReplayWindow::new();
        window.mark(10);
        assert_eq!(window.check(u64::MAX), Ok(()));
        assert_eq!(window.check(u64::MAX), Ok(()));
        assert_eq!(accept(&mut window, 9), Ok(()));
    }

    #[test]
    fn marking_what_is_too_old_opens_nothing() {
        let mut window = ReplayWindow::new();
        window.mark(3 * WINDOW);
        window.mark(1);
        assert_eq!(window.check(1), TOO_OLD);
        // The block that 1 would fall into belongs to a counter of the present.
        let same_place = 1 + BLOCKS * BLOCK_BITS * 2;
        assert!(same_place <= 3 * WINDOW && 3 * WINDOW - same_place < WINDOW);
        assert_eq!(window.check(same_place), Ok(()));
    }

    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let step = prop_oneof![
            4 => -3_i64..4,
            4 => -200_i64..200,
            2 => -8_300_i64..8_300,
            1 => Just(8_191_i64), 1 => Just(8_192_i64), 1 => Just(8_193_i64),
            1 => Just(-8_191_i64), 1 => Just(-8_192_i64), 1 => Just(-8_193_i64),
            1 => 0_i64..1 << 40,
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(start in prop_oneof![Just(0), any::<u64>()], steps in steps()) {
            let mut window = ReplayWindow::new();
            let mut naive = Naive::default();
            let mut counter = start;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                let expected = naive.check(counter);
                prop_assert_eq!(window.check(counter), expected, "counter {}", counter);
                if expected.is_ok() {
                    window.mark(counter);
                    naive.0.insert(counter);
                }
            }
        }
    }
}
