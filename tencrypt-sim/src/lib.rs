//! Deterministic simulation of tencrypt tunnels: a virtual clock, a seeded network that loses, duplicates and reorders,
//! any number of pods and tenants, and a model that knows what must never happen.
//!
//! Everything follows from one seed. A test prints it on failure; [`seeds`] reads `TENCRYPT_SIM_SEED` to replay one.
#![forbid(unsafe_code)]

mod liar;
mod liar_host;
mod model;
mod network;
mod packets;
mod pod;
mod random;
mod tenant;
mod translation;
mod transport;
mod world;

pub use liar::{Heard, Liar};
pub use liar_host::{LiarHost, Wired};
pub use model::{Model, Violation};
pub use network::Weather;
pub use packets::{Endpoint, echo_request, read_udp, tcp, udp};
pub use pod::{PodId, PodOptions};
pub use random::Random;
pub use tenant::Tenant;
pub use transport::Inbox;
pub use world::World;

/// The seeds a simulation runs over: `0..count`, or the one in `TENCRYPT_SIM_SEED`.
#[must_use]
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("TENCRYPT_SIM_SEED").ok().and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}
