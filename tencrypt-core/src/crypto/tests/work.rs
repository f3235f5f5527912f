//! Public-key operations of a thread, counted for tests: what a message costs is measured in these.

use std::cell::Cell;

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// One scalar multiplication, key generation, encapsulation or decapsulation more.
pub(in crate::crypto) fn count() {
    OPERATIONS.with(|operations| operations.set(operations.get() + 1));
}

/// Those of this thread so far.
pub(crate) fn public_key_operations() -> u64 {
    OPERATIONS.with(Cell::get)
}
