//! Parses of a thread, counted for tests: each looks at every header of a packet.

use std::cell::Cell;

thread_local! {
    static PARSES: Cell<u64> = const { Cell::new(0) };
}

/// One more.
pub(in crate::packet) fn count() {
    PARSES.with(|parses| parses.set(parses.get() + 1));
}

/// Those of this thread so far.
pub(crate) fn parses() -> u64 {
    PARSES.with(Cell::get)
}
