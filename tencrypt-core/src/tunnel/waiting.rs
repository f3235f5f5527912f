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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{offload::VnetHdr, testing::start, tunnel::TunPacket};

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn add(waiting: &mut Waiting, key: PeerKey, source: IpAddr, now: Instant) -> bool {
        let packet = HeldPacket::new(&TunPacket::new(VnetHdr::default(), &mut [0; 40]));
        waiting.add(key, source, packet, now)
    }

    #[test]
    fn so_many_wait_of_one_peer_and_so_many_in_all() {
        let (mut waiting, now) = (Waiting::default(), start());
        let of_one = (0..100).filter(|_| add(&mut waiting, PeerKey::ONE, SOURCE, now)).count();
        assert_eq!(of_one, MAX_WAITING_OF_A_PEER);
        let others = |slot: u32| PeerKey { slot: 100 + slot, generation: 1 };
        let all = (0..1_000).filter(|slot| add(&mut waiting, others(*slot), SOURCE, now)).count();
        assert_eq!(of_one + all, MAX_WAITING);
    }

    #[test]
    fn the_wait_is_a_tenth_of_a_second_and_what_waited_in_vain_is_counted() {
        let (mut waiting, now) = (Waiting::default(), start());
        assert!([PeerKey::ONE, PeerKey::OTHER].into_iter().all(|key| add(&mut waiting, key, SOURCE, now)));
        let end = now + Duration::from_millis(100);
        assert_eq!(waiting.next_due(), Some(end));
        assert_eq!(waiting.end(end - Duration::from_millis(1)), 0);
        assert_eq!((waiting.end(end), waiting.next_due()), (2, None));
    }

    #[test]
    fn a_proof_lets_in_what_its_peer_sent_from_that_address_and_nothing_else() {
        let mut waiting = Waiting::default();
        for (key, source) in [(PeerKey::ONE, SOURCE), (PeerKey::ONE, OTHER), (PeerKey::OTHER, SOURCE)] {
            assert!(add(&mut waiting, key, source, start()));
        }
        let taken = |waiting: &mut Waiting, source| -> Vec<PeerKey> {
            waiting.take(&[PeerKey::ONE], source).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(taken(&mut waiting, Some(SOURCE)), [PeerKey::ONE]);
        assert_eq!(taken(&mut waiting, None), [PeerKey::ONE], "from whatever address");
        assert_eq!(waiting.clear(), 1, "the other peer's stays");
    }
}
