//! Counting what is allocated.
//!
//! A program that counts declares the allocator:
//!
//! ```
//! use tencrypt_benches::alloc::{Allocated, CountingAllocator};
//!
//! #[global_allocator]
//! static ALLOCATOR: CountingAllocator = CountingAllocator;
//!
//! let (text, cost) = Allocated::by(|| String::from("on the heap"));
//! assert_eq!(cost.times, 1);
//! assert!(cost.bytes >= text.len() as i64);
//! ```

pub use crate::sys::CountingAllocator;

/// Allocations of a thread: by Rust if [`CountingAllocator`] is declared, and by AWS-LC in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain sum")]
pub struct Allocated {
    /// Blocks allocated, and blocks whose size was changed.
    pub times: u64,
    /// Bytes in use: allocated less given back, as the C library rounds them. Negative if a thread gives back what
    /// another one allocated.
    pub bytes: i64,
}

impl Allocated {
    /// Counts what `work` allocates on this thread; returns its result as well.
    pub fn by<R>(work: impl FnOnce() -> R) -> (R, Self) {
        let before = crate::sys::allocated();
        let result = work();
        let after = crate::sys::allocated();
        (result, Self { times: after.times - before.times, bytes: after.bytes - before.bytes })
    }
}
