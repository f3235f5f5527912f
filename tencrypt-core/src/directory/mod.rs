//! What is known of addresses, and what follows from it for a packet.

mod fact;

pub use fact::{Class, Fact, FactChange, FactSource, PeerId};
