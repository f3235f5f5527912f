//! Everything that a Tunnel has for its owner, in the order in which it came about.

use std::{collections::VecDeque, net::SocketAddr};

use super::{
    limits::{MAX_EVENTS, MAX_LANE_UPDATES, MAX_TRANSMITS},
    outcome::LaneId,
    packet::HeldPacket,
    peer_key::PeerKey,
};
use crate::{
    event::Event,
    lane_update::{LaneChange, LaneUpdate},
    record::SessionIndex,
};

/// Everything that is polled, bounded for each kind on its own. Updates for other lanes come first: nothing that another
/// lane has to know of may reach network or device before them. The rest is in order.
#[derive(Debug)]
pub(super) struct Outbox {
    lane: LaneId,
    /// There are other lanes of this pod, which have to be told of changes.
    has_siblings: bool,
    updates: VecDeque<LaneUpdate>,
    updates_lost: u64,
    queue: VecDeque<Entry>,
    transmits: usize,
    released: usize,
    events: usize,
}

/// An entry of the [`Outbox`].
#[derive(Debug)]
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
    /// A packet of a peer that waited, and is for the device.
    Opened(HeldPacket),
    Event(Event),
}

impl Outbox {
    pub(super) fn new(lane: LaneId) -> Self {
        Self {
            lane,
            has_siblings: false,
            updates: VecDeque::new(),
            updates_lost: 0,
            queue: VecDeque::new(),
            transmits: 0,
            released: 0,
            events: 0,
        }
    }

    /// Begins to tell other lanes of changes.
    pub(super) fn start_lane_updates(&mut self) {
        self.has_siblings = true;
    }

    /// Adds a change that other lanes have to be told of, if there are any. Without room it is lost, and counted.
    pub(super) fn lane_change(&mut self, change: LaneChange) {
        if !self.has_siblings {
            return;
        }
        if self.updates.len() < MAX_LANE_UPDATES {
            self.updates.push_back(LaneUpdate { lane: self.lane.number(), change });
        } else {
            self.updates_lost += 1;
        }
    }

    /// Takes the oldest update out.
    #[inline]
    pub(super) fn pop_update(&mut self) -> Option<LaneUpdate> {
        self.updates.pop_front()
    }

    /// Puts an update back in front that nobody took.
    pub(super) fn return_update(&mut self, update: LaneUpdate) {
        self.updates.push_front(update);
    }

    /// Updates lost since this was asked last.
    pub(super) fn take_updates_lost(&mut self) -> u64 {
        std::mem::take(&mut self.updates_lost)
    }

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

    /// Adds a packet for the device. False: there is no room.
    #[must_use]
    pub(super) fn opened(&mut self, packet: HeldPacket) -> bool {
        let fits = self.released < MAX_TRANSMITS;
        if fits {
            self.push(Entry::Opened(packet));
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

    /// Drops updates of what was found behind addresses. Those of translated flows and of choices stay.
    pub(super) fn drop_findings(&mut self) {
        self.updates.retain(|update| matches!(update.change, LaneChange::Flow(_) | LaneChange::Choice(_)));
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
            Entry::Released(_) | Entry::Opened(_) | Entry::Event(_) => true,
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
            Entry::Released(_) | Entry::Opened(_) => &mut self.released,
            Entry::Event(_) => &mut self.events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::PeerId,
        offload::VnetHdr,
        tunnel::{TunPacket, peer_key::PeerKey},
    };

    fn outbox() -> Outbox {
        Outbox::new(LaneId::ZERO)
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
        let key = PeerKey::ONE;
        let mut outbox = outbox();
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
    fn updates_for_other_lanes_come_if_there_are_any_and_are_bounded() {
        let mut outbox = outbox();
        let change = LaneChange::Lost { address: to().ip(), peer: PeerId::from_bytes([1; 32]) };
        outbox.lane_change(change);
        assert_eq!((outbox.pop_update(), outbox.take_updates_lost()), (None, 0));
        outbox.start_lane_updates();
        for _ in 0..MAX_LANE_UPDATES + 3 {
            outbox.lane_change(change);
        }
        assert_eq!((outbox.take_updates_lost(), outbox.take_updates_lost()), (3, 0));
        let first = outbox.pop_update().unwrap();
        outbox.return_update(first);
        assert_eq!(std::iter::from_fn(|| outbox.pop_update()).count(), MAX_LANE_UPDATES);
    }

    #[test]
    fn each_kind_has_a_bound_of_its_own() {
        let key = PeerKey::ONE;
        let mut outbox = outbox();
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
        let (key, other) = (PeerKey::ONE, PeerKey::OTHER);
        let mut outbox = outbox();
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
