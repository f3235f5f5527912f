//! What was decided for the first fragment of a packet, for those that follow it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::packet::{IpPacket, Rewrite};

/// Fragmented packets remembered: about 200 bytes each.
const MAX_PACKETS: usize = 1_024;
/// A packet that is not whole by then never will be (Linux net.ipv4.ipfrag_time).
const LIFE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug, Default)]
pub(super) struct Fragments {
    decisions: BTreeMap<Key, (Rewrite, Instant)>,
    order: VecDeque<(Instant, Key)>,
}

impl Fragments {
    /// What the packet's first fragment became.
    pub(super) fn find(&self, packet: &IpPacket<&mut [u8]>, now: Instant) -> Option<Rewrite> {
        let (rewrite, until) = self.decisions.get(&key(packet)?)?;
        (now < *until).then_some(*rewrite)
    }

    /// Remembers what is about to happen to a first fragment. Anything else is no concern of ours.
    pub(super) fn remember(&mut self, packet: &IpPacket<&mut [u8]>, rewrite: Rewrite, now: Instant) {
        let Some(key) = packet.fragment().filter(|fragment| fragment.more).and_then(|_| key(packet)) else {
            return;
        };
        while let Some((until, oldest)) = self.order.front().copied() {
            if now < until && self.order.len() < MAX_PACKETS {
                break;
            }
            self.order.pop_front();
            // The id may have come round meanwhile: only the decision of that time goes.
            if self.decisions.get(&oldest).is_some_and(|(_, at)| *at == until) {
                self.decisions.remove(&oldest);
            }
        }
        let until = now + LIFE;
        self.decisions.insert(key, (rewrite, until));
        self.order.push_back((until, key));
    }
}

fn key(packet: &IpPacket<&mut [u8]>) -> Option<Key> {
    let fragment = packet.fragment()?;
    Some(Key {
        source: packet.source(),
        destination: packet.destination(),
        protocol: packet.protocol(),
        id: fragment.id,
    })
}
