//! Benchmarks of the core, a group per stage, each with its floor and its peers: what the machine, the cipher alone and
//! other tunnels take for the same bytes. Ratios are of one group of one run.
//!
//! `cargo bench -p tencrypt-benches`, and with boringtun `cargo bench -p tencrypt-benches --features peers`.

mod floor;
mod handshake;
mod headers;
mod lookup;
mod measure;
mod offload;
mod session;
mod tunnel;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tencrypt_benches::alloc::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Half a second a benchmark, in samples of 4 ms: about a time slice, so that on a busy machine some are undisturbed.
fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(400))
        .sample_size(100)
        .nresamples(2_000)
}

criterion_group! {
    name = core;
    config = config();
    targets =
        headers::parse, headers::classify, headers::nat,
        session::seal, session::open,
        tunnel::encapsulate, tunnel::decapsulate, tunnel::round_trip, tunnel::poll_output,
        offload::segment, offload::coalesce,
        lookup::lookup,
        handshake::handshake
}
criterion_main!(core);
