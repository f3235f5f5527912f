//! Everything that a Tunnel has for its owner, in the order in which it came about.

use std::{collections::VecDeque, net::SocketAddr};

use super::{
    limits::{MAX_EVENTS, MAX_TRANSMITS},
    packet::HeldPacket,
    peer::PeerKey,
};
use crate::{event::Event, record::SessionIndex};

/// One queue for everything that is polled, bounded for each kind on its own.
#[derive(Default)]
pub(super) struct Outbox {
    queue: VecDeque<Entry>,
    transmits: usize,
    released: usize,
    events: usize,
}

/// An entry of the [`Outbox`].
pub(super) enum Entry {
    /// A datagram that is written already.
    Datagram {
        to: SocketAddr,
        bytes: Box<[u8]>,
        from_tenant_port: bool,
    },
    /// A keepalive, to be sealed when it is polled.
    Empty {
        to: PeerKey,
        session: SessionIndex,
    },
    /// A packet that waited, to be sealed when it is polled.
    Packet {
        to: PeerKey,
        packet: HeldPacket,
    },
    /// A packet that waited, and leaves as it is.
    Released(HeldPacket),
    Event(Event),
}

impl Outbox {
    /// Takes the oldest entry out.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        *self.count(&entry) -= 1;
        Some(entry)
    }

    /// Puts a packet that was sealed in part back in front.
    pub(super) fn put_back(&mut self, to: PeerKey, packet: HeldPacket) {
        self.transmits += 1;
        self.queue.push_front(Entry::Packet { to, packet });
    }

    /// Adds a datagram; without room it is as good as lost on the way.
    pub(super) fn datagram(&mut self, to: SocketAddr, bytes: impl Into<Box<[u8]>>, from_tenant_port: bool) {
        if self.has_room() {
            self.push(Entry::Datagram { to, bytes: bytes.into(), from_tenant_port });
        }
    }

    /// Adds a keepalive, or the answer to a CONF.
    pub(super) fn empty(&mut self, to: PeerKey, session: SessionIndex) {
        if self.has_room() {
            self.push(Entry::Empty { to, session });
        }
    }

    /// Tells if one more datagram or packet fits.
    pub(super) fn has_room(&self) -> bool {
        self.transmits < MAX_TRANSMITS
    }

    /// Adds a packet for a peer. False: there is no room.
    #[must_use]
    pub(super) fn packet(&mut self, to: PeerKey, packet: HeldPacket) -> bool {
        let fits = self.has_room();
        if fits {
            self.push(Entry::Packet { to, packet });
        }
        fits
    }

    /// Adds a packet that leaves as it is. False: there is no room.
    #[must_use]
    pub(super) fn release(&mut self, packet: HeldPacket) -> bool {
        let fits = self.released < MAX_TRANSMITS;
        if fits {
            self.push(Entry::Released(packet));
        }
        fits
    }

    /// Adds an event; the newest is dropped without room.
    pub(super) fn event(&mut self, event: Event) {
        if self.events < MAX_EVENTS {
            self.push(Entry::Event(event));
        }
    }

    /// Drops what is for this peer, and returns how many packets and keepalives that were.
    pub(super) fn drop_for(&mut self, peer: PeerKey) -> u64 {
        let before = self.queue.len();
        self.queue.retain(|entry| match entry {
            Entry::Packet { to, .. } | Entry::Empty { to, .. } => *to != peer,
            _ => true,
        });
        let dropped = before - self.queue.len();
        self.transmits -= dropped;
        dropped as u64
    }

    /// Drops everything that is to be sent, and returns how many packets that were. Events and released packets stay.
    pub(super) fn drop_transmits(&mut self) -> u64 {
        let mut packets = 0;
        self.queue.retain(|entry| match entry {
            Entry::Packet { .. } => {
                packets += 1;
                false
            }
            Entry::Datagram { .. } | Entry::Empty { .. } => false,
            Entry::Released(_) | Entry::Event(_) => true,
        });
        self.transmits = 0;
        packets
    }

    fn push(&mut self, entry: Entry) {
        *self.count(&entry) += 1;
        self.queue.push_back(entry);
    }

    fn count(&mut self, entry: &Entry) -> &mut usize {
        match entry {
            Entry::Datagram { .. } | Entry::Empty { .. } | Entry::Packet { .. } => &mut self.transmits,
            Entry::Released(_) => &mut self.released,
            Entry::Event(_) => &mut self.events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        directory::PeerId,
        offload::VnetHdr,
        testing::start,
        tunnel::{TunPacket, peer::Peers},
    };

    fn peer(number: u8) -> (Peers, PeerKey) {
        let mut peers = Peers::new(1, false);
        let key = peers.admit(PeerId::from_bytes([number; 32]), 0, start());
        (peers, key)
    }

    fn held() -> HeldPacket {
        HeldPacket::new(&TunPacket::new(VnetHdr::default(), &mut [0; 40]))
    }

    fn event() -> Event {
        Event::PeerDown { peer: PeerId::from_bytes([1; 32]) }
    }

    fn to() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 8_362))
    }

    #[test]
    fn entries_come_out_in_the_order_in_which_they_went_in() {
        let (_, key) = peer(1);
        let mut outbox = Outbox::default();
        outbox.datagram(to(), [1; 4], false);
        outbox.event(event());
        assert!(outbox.release(held()) && outbox.packet(key, held()));
        outbox.datagram(to(), [2; 4], true);
        assert!(matches!(outbox.pop(), Some(Entry::Datagram { from_tenant_port: false, .. })));
        assert!(matches!(outbox.pop(), Some(Entry::Event(_))));
        assert!(matches!(outbox.pop(), Some(Entry::Released(_))));
        let Some(Entry::Packet { to: peer, packet }) = outbox.pop() else { panic!("the packet is next") };
        outbox.put_back(peer, packet);
        assert!(matches!(outbox.pop(), Some(Entry::Packet { .. })), "what is left of it goes first");
        assert!(matches!(outbox.pop(), Some(Entry::Datagram { from_tenant_port: true, .. })));
        assert!(outbox.pop().is_none());
    }

    #[test]
    fn each_kind_has_a_bound_of_its_own() {
        let (_, key) = peer(1);
        let mut outbox = Outbox::default();
        for _ in 0..MAX_TRANSMITS + MAX_EVENTS {
            outbox.datagram(to(), [1; 4], false);
        }
        assert!(!outbox.has_room() && !outbox.packet(key, held()));
        for _ in 0..MAX_TRANSMITS {
            assert!(outbox.release(held()));
        }
        assert!(!outbox.release(held()));
        for _ in 0..2 * MAX_EVENTS {
            outbox.event(event());
        }
        assert_eq!(std::iter::from_fn(|| outbox.pop()).count(), 2 * MAX_TRANSMITS + MAX_EVENTS);
        assert!(outbox.has_room() && outbox.release(held()));
    }

    #[test]
    fn one_peers_packets_are_dropped_and_others_stay() {
        let (mut peers, key) = peer(1);
        let other = peers.admit(PeerId::from_bytes([2; 32]), 0, start());
        let mut outbox = Outbox::default();
        for key in [key, other, key] {
            assert!(outbox.packet(key, held()));
        }
        outbox.event(event());
        assert_eq!(outbox.drop_for(key), 2);
        outbox.datagram(to(), [1; 4], false);
        assert_eq!(outbox.drop_transmits(), 1, "a handshake message is no packet");
        assert!(matches!(outbox.pop(), Some(Entry::Event(_))) && outbox.pop().is_none());
    }
}
