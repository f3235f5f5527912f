//! Sans-IO core of tencrypt.
#![forbid(unsafe_code)]

pub mod directory;
pub mod offload;
pub mod packet;
pub mod sink;
pub mod stats;

pub use sink::{DatagramSink, PacketSink, RecvMeta, SinkFull, Train, TrainSlot, Transmit};
pub use stats::{DropReason, Stats};
