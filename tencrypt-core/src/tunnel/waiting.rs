//! Packets of peers that wait for the address they come from to be proven.

use std::{collections::VecDeque, net::IpAddr, time::Instant};

use super::{
    limits::{MAX_WAITING, MAX_WAITING_OF_A_PEER, PROOF_WAIT},
    packet::HeldPacket,
    peer_key::PeerKey,
};

/// The owner of these packets, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<Waiter>);

#[derive(Debug)]
struct Waiter {
    key: PeerKey,
    source: IpAddr,
    until: Instant,
    packet: HeldPacket,
}

impl Waiting {
    /// Has a packet wait. False: there are too many, of this peer or in all.
    pub(super) fn add(&mut self, key: PeerKey, source: IpAddr, packet: HeldPacket, now: Instant) -> bool {
        let of_peer = self.0.iter().filter(|waiter| waiter.key == key).count();
        let fits = of_peer < MAX_WAITING_OF_A_PEER && self.0.len() < MAX_WAITING;
        if fits {
            self.0.push_back(Waiter { key, source, until: now + PROOF_WAIT, packet });
        }
        fits
    }

    /// Takes the packets of these peers from this address.
    pub(super) fn take(&mut self, keys: &[PeerKey], source: Option<IpAddr>) -> Vec<(PeerKey, HeldPacket)> {
        let wanted = |waiter: &Waiter| {
            keys.contains(&waiter.key) && source.is_none_or(|source| waiter.source == source)
        };
        if !self.0.iter().any(wanted) {
            return Vec::new();
        }
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(wanted);
        self.0 = left;
        let taken: VecDeque<Waiter> = taken;
        taken.into_iter().map(|waiter| (waiter.key, waiter.packet)).collect()
    }

    /// Drops every packet, and returns how many that were.
    pub(super) fn clear(&mut self) -> u64 {
        std::mem::take(&mut self.0).len() as u64
    }

    /// Returns when the first of them has waited long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.front().map(|waiter| waiter.until)
    }

    /// Drops those that have waited long enough, and returns how many that were.
    pub(super) fn end(&mut self, now: Instant) -> u64 {
        let over = self.0.iter().take_while(|waiter| waiter.until <= now).count();
        self.0.drain(..over).count() as u64
    }
}
