//! Knowledge of addresses, and what follows from it for a packet.
//!
//! A [`Fact`] is one statement about a prefix. A [`Directory`] is an immutable set of them, shared by all lanes; each
//! Tunnel adds a small delta of newer ones. An address's standing follows from both by rules that let hints (DNS,
//! handshakes) raise protection and only authoritative sources (configuration, Kubernetes) lower it:
//! [`Directory::classify`] has them, and answers without a Tunnel.

mod base;
mod classify;
mod delta;
mod fact;
mod table;

pub use base::Directory;
pub use classify::{Classification, Standing};
pub(crate) use classify::{Finding, View};
pub(crate) use delta::Delta;
pub use fact::{Class, Fact, FactChange, FactSource};

pub(crate) use crate::crypto::PeerId;
