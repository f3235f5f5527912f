//! All that a handshake message is made from, and messages that wait.

use std::{net::SocketAddr, time::Instant};

use crate::{
    crypto::Rng,
    tunnel::{membership::Membership, outbox::Outbox, policy::Policy},
};

/// All that a handshake message is made from, and where it goes.
pub(in crate::tunnel) struct Context<'a> {
    pub(in crate::tunnel) membership: &'a Membership,
    pub(in crate::tunnel) policy: &'a Policy,
    /// Lane that this is.
    pub(in crate::tunnel) lane: u8,
    pub(in crate::tunnel) rng: &'a mut Rng,
    pub(in crate::tunnel) outbox: &'a mut Outbox,
    pub(in crate::tunnel) now: Instant,
}

/// A handshake message that passed mac1 and waits for its turn.
#[derive(Debug)]
pub(in crate::tunnel) struct Queued {
    pub(in crate::tunnel) from: SocketAddr,
    pub(in crate::tunnel) bytes: Box<[u8]>,
}
