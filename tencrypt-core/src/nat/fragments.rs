//! Decisions for the first fragment of a packet, kept for the ones that follow it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::table::Hook;
use crate::packet::{IpPacket, IpVersion};

/// Time that the later fragments of a packet may take: the receiver's own patience, 60 seconds (RFC 8200 section 4.5;
/// RFC 1122 section 3.3.2 has 60 to 120 seconds).
pub(crate) const FRAGMENT_LIFETIME: Duration = Duration::from_secs(60);

/// Treatment of the later fragments of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// These are their new addresses.
    Rewrite { source: IpAddr, destination: IpAddr },
    /// They are nobody's business here.
    Pass,
}

/// Fields that all fragments of one packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5: in IPv6 the
/// protocol is no part of it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    hook: Hook,
    source: IpAddr,
    destination: IpAddr,
    protocol: Option<u8>,
    id: u32,
}

impl Key {
    /// The key of a packet that is a fragment, with the addresses it has now.
    pub(super) fn of(hook: Hook, packet: &IpPacket<&mut [u8]>) -> Option<Self> {
        Some(Self {
            hook,
            source: packet.source(),
            destination: packet.destination(),
            protocol: (packet.version() == IpVersion::V4).then(|| packet.protocol()),
            id: packet.fragment()?.id,
        })
    }
}

/// A bounded table, first in, first out. An identification used again counts from its last use.
#[derive(Debug)]
pub(super) struct Fragments {
    decisions: BTreeMap<Key, (Decision, Instant)>,
    /// End of each decision, in order. One that was replaced since has a later entry too.
    order: VecDeque<(Instant, Key)>,
    capacity: usize,
}

impl Fragments {
    pub(super) fn new(capacity: usize) -> Self {
        Self { decisions: BTreeMap::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Decision> {
        self.decisions.get(key).filter(|(_, until)| now < *until).map(|(decision, _)| *decision)
    }

    pub(super) fn remember(&mut self, key: Key, decision: Decision, now: Instant) {
        if self.order.len() >= self.capacity {
            self.remove_oldest();
        }
        let until = now + FRAGMENT_LIFETIME;
        self.decisions.insert(key, (decision, until));
        self.order.push_back((until, key));
    }

    /// Removes at most `budget` entries that are due.
    pub(super) fn expire(&mut self, now: Instant, budget: usize) {
        for _ in 0..budget {
            match self.next_expiry() {
                Some(at) if at <= now => self.remove_oldest(),
                _ => return,
            }
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.order.front().map(|(at, _)| *at)
    }

    fn remove_oldest(&mut self) {
        if let Some((at, key)) = self.order.pop_front()
            && self.decisions.get(&key).is_some_and(|(_, until)| *until <= at)
        {
            self.decisions.remove(&key);
        }
    }
}
