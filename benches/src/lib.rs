//! What the benchmarks share: packets, sinks, connected tunnels, and a count of what is allocated.

pub mod alloc;
mod sys;
