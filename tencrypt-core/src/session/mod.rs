//! Sessions: one key per direction, from one handshake.
//!
//! A [`Sealer`] owns the counters of its key, an [`Opener`] the replay window of its own. Neither knows a clock: when a
//! session is too old is for the [`Tunnel`](crate::Tunnel) to say.

mod index;
mod keys;
mod opener;
mod replay;
mod sealer;

pub(crate) use keys::DirectionKeys;
pub use opener::{Opener, Plain};
pub use replay::{ReplayWindow, WINDOW};
pub use sealer::{Counter, Counters, LimitReached, Sealer};

#[cfg(test)]
mod tests;
