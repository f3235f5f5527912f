//! Sessions: one key per direction, from one handshake, or from a [`TrafficSecret`] of the caller's own.
//!
//! A [`Sealer`] owns the counters of its key, an [`Opener`] the replay window of its own. Neither knows a clock: when a
//! session is too old is for the [`Tunnel`](crate::Tunnel) to say.

mod index;
mod keys;
mod opener;
mod replay;
mod sealer;
mod traffic_secret;

pub(crate) use keys::DirectionKeys;
pub use opener::{Opener, Plain};
pub use replay::ReplayWindow;
pub use sealer::{Counter, Counters, Sealer};
pub use traffic_secret::TrafficSecret;

#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "tests/traffic_secret.rs"]
mod traffic_secret_tests;
