//! Destinations that were asked: INIT went out, packets wait.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    HeldPacket, TunPacket,
    limits::{
        ASK_WAIT, HELD_BYTES, HELD_PACKETS, HELD_TOTAL, MAX_ASKED, MAX_SILENT, SILENT_FIRST, SILENT_INTERNAL,
        SILENT_MOST,
    },
};
use crate::{
    crypto::KeyRing,
    handshake::{CookieBytes, Initiator},
    record::SessionIndex,
};

/// Purpose of asking a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Its traffic passes in plain on the word of DNS; an answer would end that.
    Background,
    /// Its session is to be replaced.
    Rekey,
    /// Packets wait for the answer, or would.
    Traffic,
}

/// One destination being asked.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    /// The destination is known to be of the tenant: it will be expected to come up, and never bypassed.
    pub(super) internal: bool,
    /// The INIT in flight; `None` while the destination's own INIT is being answered instead.
    pub(super) flight: Option<Flight>,
    pub(super) started: Instant,
    held: VecDeque<HeldPacket>,
    held_bytes: usize,
}

/// An INIT that awaits its RESP.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) initiator: Initiator,
    pub(super) index: SessionIndex,
    pub(super) init: Box<[u8]>,
    pub(super) attempt: u32,
    pub(super) repeat_at: Instant,
    /// The cookie that its mac2 is made with, and when that was taken.
    pub(super) cookie: Option<(CookieBytes, Instant)>,
}

impl Ask {
    /// Returns when the wait ends, `None` for a rekey, which lasts as long as its session.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        (self.purpose != Purpose::Rekey).then(|| self.started + ASK_WAIT)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let repeat = self.flight.as_ref().map(|flight| flight.repeat_at);
        match (repeat, self.gives_up_at()) {
            (Some(repeat), Some(end)) => Some(repeat.min(end)),
            (repeat, end) => repeat.or(end),
        }
    }

    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }
}

/// All destinations being asked, and those that did not answer.
#[derive(Debug, Default)]
pub(super) struct Asks {
    asked: BTreeMap<IpAddr, Ask>,
    held_total: usize,
    silent: BTreeMap<IpAddr, Silent>,
}

#[derive(Debug, Clone, Copy)]
struct Silent {
    until: Instant,
    length: Duration,
}

/// Outcome for a packet that was to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HoldOutcome {
    /// The packet waits.
    pub(super) held: bool,
    /// Older packets that made room.
    pub(super) pushed_out: u64,
}

impl Asks {
    pub(super) fn find(&self, destination: IpAddr) -> Option<&Ask> {
        self.asked.get(&destination)
    }

    pub(super) fn find_mut(&mut self, destination: IpAddr) -> Option<&mut Ask> {
        self.asked.get_mut(&destination)
    }

    pub(super) fn is_full(&self) -> bool {
        self.asked.len() >= MAX_ASKED
    }

    pub(super) fn start(
        &mut self,
        destination: IpAddr,
        to: SocketAddr,
        purpose: Purpose,
        internal: bool,
        flight: Flight,
        now: Instant,
    ) {
        let ask = Ask {
            to,
            purpose,
            internal,
            flight: Some(flight),
            started: now,
            held: VecDeque::new(),
            held_bytes: 0,
        };
        self.asked.insert(destination, ask);
    }

    /// Takes the destination off the list, with whatever it held.
    pub(super) fn finish(&mut self, destination: IpAddr) -> Option<(Ask, VecDeque<HeldPacket>)> {
        let mut ask = self.asked.remove(&destination)?;
        self.held_total -= ask.held_bytes;
        let held = std::mem::take(&mut ask.held);
        Some((ask, held))
    }

    /// Destinations whose INIT is under an epoch that is not held.
    pub(super) fn revoked(&self, keys: &KeyRing) -> Vec<IpAddr> {
        let revoked =
            |ask: &Ask| ask.flight.as_ref().is_some_and(|flight| !keys.holds(flight.initiator.epoch()));
        self.asked.iter().filter(|(_, ask)| revoked(ask)).map(|(destination, _)| *destination).collect()
    }

    /// Takes what the destination held. It goes on being asked, to replace the session that there is now.
    pub(super) fn become_rekey(&mut self, destination: IpAddr) -> VecDeque<HeldPacket> {
        let Some(ask) = self.asked.get_mut(&destination) else { return VecDeque::new() };
        ask.purpose = Purpose::Rekey;
        self.held_total -= std::mem::take(&mut ask.held_bytes);
        std::mem::take(&mut ask.held)
    }

    /// Copies `packet` behind those that wait for `destination` already: the one place where packets are copied.
    pub(super) fn hold(&mut self, destination: IpAddr, packet: &TunPacket<'_>) -> HoldOutcome {
        let len = packet.bytes.len();
        let mut outcome = HoldOutcome { held: false, pushed_out: 0 };
        let total = self.held_total;
        let Some(ask) = self.asked.get_mut(&destination) else { return outcome };
        let mut freed = 0;
        while ask.held.len() >= HELD_PACKETS
            || ask.held_bytes + len > HELD_BYTES
            || total - freed + len > HELD_TOTAL
        {
            let Some(oldest) = ask.held.pop_front() else { break };
            ask.held_bytes -= oldest.len();
            freed += oldest.len();
            outcome.pushed_out += 1;
        }
        self.held_total -= freed;
        if self.held_total + len <= HELD_TOTAL && len <= HELD_BYTES {
            ask.held.push_back(HeldPacket::new(packet));
            ask.held_bytes += len;
            self.held_total += len;
            outcome.held = true;
        }
        outcome
    }

    /// Packets that wait, for whatever destination.
    pub(super) fn held_packets(&self) -> u64 {
        self.asked.values().map(|ask| ask.held.len() as u64).sum()
    }

    /// Tells if the destination left INIT unanswered and is not to be asked yet.
    pub(super) fn is_silent(&self, destination: IpAddr, now: Instant) -> bool {
        self.silent.get(&destination).is_some_and(|silent| now < silent.until)
    }

    /// Notes that the destination did not answer: longer each time, unless it is expected to come up.
    pub(super) fn fell_silent(&mut self, destination: IpAddr, internal: bool, now: Instant) {
        let length = match self.silent.get(&destination) {
            _ if internal => SILENT_INTERNAL,
            Some(before) => (before.length * 2).clamp(SILENT_FIRST, SILENT_MOST),
            None => SILENT_FIRST,
        };
        if self.silent.len() >= MAX_SILENT && !self.silent.contains_key(&destination) {
            self.silent.retain(|_, silent| now < silent.until);
            if self.silent.len() >= MAX_SILENT {
                // One asked again too early costs an INIT.
                self.silent.pop_first();
            }
        }
        self.silent.insert(destination, Silent { until: now + length, length });
    }

    pub(super) fn answered(&mut self, destination: IpAddr) {
        self.silent.remove(&destination);
    }

    #[cfg(test)]
    pub(super) fn held_total(&self) -> usize {
        self.held_total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{offload::VnetHdr, testing::start};

    fn asks_without_flight(destinations: &[IpAddr]) -> Asks {
        let mut asks = Asks::default();
        for destination in destinations {
            let ask = Ask {
                to: SocketAddr::new(*destination, 8362),
                purpose: Purpose::Traffic,
                internal: false,
                flight: None,
                started: start(),
                held: VecDeque::new(),
                held_bytes: 0,
            };
            asks.asked.insert(*destination, ask);
        }
        asks
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn holding_is_bounded_by_packets_and_the_oldest_goes_first() {
        let mut asks = asks_without_flight(&[address(1)]);
        for n in 0..=HELD_PACKETS {
            let outcome = asks.hold(address(1), &TunPacket::new(VnetHdr::default(), &mut [n as u8; 40]));
            assert!(outcome.held);
            assert_eq!(outcome.pushed_out, u64::from(n == HELD_PACKETS));
        }
        let (_, mut held) = asks.finish(address(1)).unwrap();
        assert_eq!(held.len(), HELD_PACKETS);
        assert_eq!(held[0].as_packet().bytes()[0], 1);
        assert_eq!(asks.held_total(), 0);
    }

    #[test]
    fn holding_is_bounded_by_bytes_of_one_destination_and_in_all() {
        let destinations: Vec<IpAddr> = (0..20).map(address).collect();
        let mut asks = asks_without_flight(&destinations);
        let mut packet = vec![0; 60_000];
        let mut refused = 0;
        for destination in &destinations {
            for _ in 0..8 {
                refused += u32::from(
                    !asks.hold(*destination, &TunPacket::new(VnetHdr::default(), &mut packet)).held,
                );
                assert!(asks.held_total() <= HELD_TOTAL);
                assert!(asks.asked[destination].held_bytes <= HELD_BYTES);
            }
        }
        assert!(refused > 0, "the total limit was never met");
    }

    #[test]
    fn silence_doubles_up_to_a_minute_and_stays_short_for_internal_destinations() {
        let mut asks = Asks::default();
        let mut now = start();
        for seconds in [5, 10, 20, 40, 60, 60] {
            asks.fell_silent(address(1), false, now);
            assert!(
                asks.is_silent(address(1), now + Duration::from_secs(seconds) - Duration::from_millis(1))
            );
            now += Duration::from_secs(seconds);
            assert!(!asks.is_silent(address(1), now));
        }
        asks.fell_silent(address(2), true, now);
        assert!(!asks.is_silent(address(2), now + SILENT_INTERNAL));
    }
}
