//! The allocator that counts, for Rust and for AWS-LC, and the counts.
#![expect(unsafe_code, reason = "an allocator is unsafe by its traits")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ffi::c_void,
};

/// The system's allocator, counting per thread. To be declared as `#[global_allocator]` by the program that counts.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "stands in statics of other crates")]
pub struct CountingAllocator;

thread_local! {
    // Const and without a destructor: neither the first nor the last use allocates.
    static ALLOCATED: Cell<Count> = const { Cell::new(Count { times: 0, bytes: 0 }) };
}

/// Blocks and bytes of one thread so far, as `Allocated` has them of some work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    /// Blocks allocated, and blocks whose size was changed.
    pub(crate) times: u64,
    /// Bytes in use.
    pub(crate) bytes: i64,
}

/// The count of this thread.
pub(crate) fn allocated() -> Count {
    ALLOCATED.get()
}

/// Counts a block that was handed out: `count` is 1 for a new one.
fn taken(block: *mut c_void, count: u64) {
    // SAFETY: `block` is null, which counts as empty, or came from the C library's allocator and is still in use.
    let bytes = unsafe { libc::malloc_usable_size(block) };
    let before = ALLOCATED.get();
    ALLOCATED.set(Count { times: before.times + count, bytes: before.bytes + bytes as i64 });
}

/// Counts a block that is about to be given back.
fn given_back(block: *mut c_void) {
    // SAFETY: as in `taken`.
    let bytes = unsafe { libc::malloc_usable_size(block) };
    let before = ALLOCATED.get();
    ALLOCATED.set(Count { bytes: before.bytes - bytes as i64, ..before });
}

// SAFETY: every call goes to `System` unchanged, whose blocks on Unix are those of the C library's malloc, so that
// their sizes may be asked.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one `System` asks for.
        let block = unsafe { System.alloc(layout) };
        taken(block.cast(), 1);
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is the one `System` asks for.
        let block = unsafe { System.alloc_zeroed(layout) };
        taken(block.cast(), 1);
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given_back(block.cast());
        // SAFETY: the caller's promise is the one `System` asks for.
        let moved = unsafe { System.realloc(block, layout, size) };
        if moved.is_null() {
            taken(block.cast(), 0);
        } else {
            taken(moved.cast(), 1);
        }
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        given_back(block.cast());
        // SAFETY: the caller's promise is the one `System` asks for.
        unsafe { System.dealloc(block, layout) }
    }
}

// AWS-LC allocates past Rust, so it has to be counted by the hooks it offers: symbols it looks for when it is linked
// (crypto/mem.c, `OPENSSL_memory_*`). Unlike its own allocation, they do not erase what is given back.

// SAFETY: AWS-LC declares this very function, weakly, and nothing else defines it.
#[unsafe(no_mangle)]
extern "C" fn OPENSSL_memory_alloc(size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    let block = unsafe { libc::malloc(size) };
    taken(block, 1);
    block
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn OPENSSL_memory_free(block: *mut c_void) {
    given_back(block);
    // SAFETY: AWS-LC gives back what `OPENSSL_memory_alloc` or `OPENSSL_memory_realloc` gave it, or null.
    unsafe { libc::free(block) }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn OPENSSL_memory_get_size(block: *mut c_void) -> usize {
    // SAFETY: AWS-LC asks about blocks of its own that are in use.
    unsafe { libc::malloc_usable_size(block) }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn OPENSSL_memory_realloc(block: *mut c_void, size: usize) -> *mut c_void {
    given_back(block);
    // SAFETY: AWS-LC hands in a block of its own that is in use, or null.
    let moved = unsafe { libc::realloc(block, size) };
    if moved.is_null() {
        taken(block, 0);
    } else {
        taken(moved, 1);
    }
    moved
}
