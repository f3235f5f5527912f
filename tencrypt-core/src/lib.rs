//! Sans-IO core of tencrypt.
#![forbid(unsafe_code)]

pub mod directory;
pub mod nat;
pub mod offload;
pub mod packet;
pub mod sink;
pub mod stats;

pub use sink::{DatagramSink, PacketSink, RecvMeta, SinkFull, Train, TrainSlot, Transmit};
pub use stats::{DropReason, Stats};

#[cfg(test)]
mod testing {
    use std::time::Instant;

    /// A moment to count from: an `Instant` has no other constructor, and tests only add to it.
    pub(crate) fn start() -> Instant {
        Instant::now()
    }
}
