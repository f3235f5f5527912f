//! The sans-IO core of tencrypt: IP packets in, sealed records out, and back.
#![forbid(unsafe_code)]

pub mod config;
pub mod crypto;
pub mod directory;
pub mod event;
pub mod handshake;
mod keyed_hash;
pub mod nat;
mod news;
pub mod offload;
pub mod packet;
pub mod record;
pub mod session;
pub mod sink;
pub mod stats;
pub mod trust;
pub mod tunnel;

pub use config::{DEFAULT_PORT, ExternalAuthority, TunnelConfig, UnansweredPolicy, UnknownPolicy};
pub use crypto::{CipherSuite, Identity, KeyRing, Seed};
pub use event::{Event, PathEvent, PeerInfo};
pub use news::News;
pub use sink::{DatagramSink, PacketSink, RecvMeta, SinkFull, Train, TrainSlot, Transmit};
pub use stats::{DropReason, Stats};
pub use trust::Trust;
pub use tunnel::{Explanation, HeldPacket, Inbound, LaneId, Outbound, TunPacket, Tunnel, Verdict};

#[cfg(test)]
mod testing {
    use std::time::Instant;

    /// A moment to count from: an `Instant` has no other constructor, and tests only add to it.
    #[expect(clippy::disallowed_methods, reason = "tests need some Instant to count from")]
    pub(crate) fn start() -> Instant {
        Instant::now()
    }
}
