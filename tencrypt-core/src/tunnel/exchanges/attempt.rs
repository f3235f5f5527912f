//! Destinations being asked: INIT went out, packets wait. And those that did not answer.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    crypto::KeyRing,
    handshake::{CookieBytes, Initiator},
    tunnel::{
        index::OwnedIndex,
        limits::{
            ASK_WAIT, HELD_BYTES, HELD_PACKETS, HELD_TOTAL, MAX_ASKED, MAX_SILENT, SILENT_FIRST,
            SILENT_INTERNAL, SILENT_MOST,
        },
        packet::{HeldPacket, TunPacket},
    },
};

/// Purpose of asking a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::tunnel) enum Purpose {
    /// Its traffic passes in plain on the word of DNS; an answer would end that.
    Background,
    /// Its session is to be replaced.
    Rekey,
    /// Packets wait for the answer, or would.
    Traffic,
}

/// One destination being asked.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    /// The destination is known to be of the tenant: it will be expected to come up, and never bypassed.
    pub(super) internal: bool,
    /// The INIT in flight; `None` while the destination's own INIT is being answered instead.
    pub(super) initiation: Option<Initiation>,
    pub(super) started: Instant,
    held: VecDeque<HeldPacket>,
    held_bytes: usize,
}

/// An INIT that awaits its RESP.
#[derive(Debug)]
pub(super) struct Initiation {
    pub(super) initiator: Initiator,
    pub(super) index: OwnedIndex,
    pub(super) init: Box<[u8]>,
    pub(super) attempt: u32,
    pub(super) repeat_at: Instant,
    /// The cookie that its mac2 is made with, and when that was taken.
    pub(super) cookie: Option<(CookieBytes, Instant)>,
}

impl Attempt {
    fn new(
        to: SocketAddr,
        purpose: Purpose,
        internal: bool,
        initiation: Option<Initiation>,
        now: Instant,
    ) -> Self {
        Self { to, purpose, internal, initiation, started: now, held: VecDeque::new(), held_bytes: 0 }
    }

    /// Returns when the wait ends, `None` for a rekey, which lasts as long as its session.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        (self.purpose != Purpose::Rekey).then(|| self.started + ASK_WAIT)
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let repeat = self.initiation.as_ref().map(|initiation| initiation.repeat_at);
        match (repeat, self.gives_up_at()) {
            (Some(repeat), Some(end)) => Some(repeat.min(end)),
            (repeat, end) => repeat.or(end),
        }
    }

    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }
}

/// All destinations being asked, with what they hold.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_destination: BTreeMap<IpAddr, Attempt>,
    held_total: usize,
}

/// Outcome for a packet that was to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) struct HoldOutcome {
    /// The packet waits.
    pub(in crate::tunnel) held: bool,
    /// Older packets that made room.
    pub(in crate::tunnel) pushed_out: u64,
}

impl Attempts {
    pub(super) fn find(&self, destination: IpAddr) -> Option<&Attempt> {
        self.by_destination.get(&destination)
    }

    pub(super) fn find_mut(&mut self, destination: IpAddr) -> Option<&mut Attempt> {
        self.by_destination.get_mut(&destination)
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_destination.len() >= MAX_ASKED
    }

    pub(super) fn start(
        &mut self,
        to: SocketAddr,
        purpose: Purpose,
        internal: bool,
        initiation: Initiation,
        now: Instant,
    ) {
        let attempt = Attempt::new(to, purpose, internal, Some(initiation), now);
        self.by_destination.insert(to.ip(), attempt);
    }

    /// Takes the destination off the list, with whatever it held.
    pub(super) fn take(&mut self, destination: IpAddr) -> Option<(Attempt, VecDeque<HeldPacket>)> {
        let mut attempt = self.by_destination.remove(&destination)?;
        self.held_total -= attempt.held_bytes;
        let held = std::mem::take(&mut attempt.held);
        Some((attempt, held))
    }

    /// Destinations whose INIT is under an epoch that is not held.
    pub(super) fn revoked(&self, keys: &KeyRing) -> Vec<IpAddr> {
        let is_revoked = |attempt: &Attempt| {
            attempt.initiation.as_ref().is_some_and(|initiation| !keys.holds(initiation.initiator.epoch()))
        };
        let revoked = self.by_destination.iter().filter(|(_, attempt)| is_revoked(attempt));
        revoked.map(|(destination, _)| *destination).collect()
    }

    /// Takes what the destination held. It goes on being asked, to replace the session that there is now.
    pub(super) fn become_rekey(&mut self, destination: IpAddr) -> VecDeque<HeldPacket> {
        let Some(attempt) = self.by_destination.get_mut(&destination) else { return VecDeque::new() };
        attempt.purpose = Purpose::Rekey;
        self.held_total -= std::mem::take(&mut attempt.held_bytes);
        std::mem::take(&mut attempt.held)
    }

    /// Copies `packet` behind those that wait for `destination` already: the one place where packets are copied.
    pub(super) fn hold(&mut self, destination: IpAddr, packet: &TunPacket<'_>) -> HoldOutcome {
        let len = packet.bytes().len();
        let mut outcome = HoldOutcome { held: false, pushed_out: 0 };
        let total = self.held_total;
        let Some(attempt) = self.by_destination.get_mut(&destination) else { return outcome };
        let mut freed = 0;
        while attempt.held.len() >= HELD_PACKETS
            || attempt.held_bytes + len > HELD_BYTES
            || total - freed + len > HELD_TOTAL
        {
            let Some(oldest) = attempt.held.pop_front() else { break };
            attempt.held_bytes -= oldest.len();
            freed += oldest.len();
            outcome.pushed_out += 1;
        }
        self.held_total -= freed;
        if self.held_total + len <= HELD_TOTAL && len <= HELD_BYTES {
            attempt.held.push_back(HeldPacket::new(packet));
            attempt.held_bytes += len;
            self.held_total += len;
            outcome.held = true;
        }
        outcome
    }

    /// Packets that wait, for whatever destination.
    pub(super) fn held_packets(&self) -> u64 {
        self.by_destination.values().map(|attempt| attempt.held.len() as u64).sum()
    }
}

/// Destinations that left INIT unanswered, and are not to be asked yet.
#[derive(Debug, Default)]
pub(super) struct Unresponsive(BTreeMap<IpAddr, Silence>);

#[derive(Debug, Clone, Copy)]
struct Silence {
    until: Instant,
    length: Duration,
}

impl Unresponsive {
    pub(super) fn contains(&self, destination: IpAddr, now: Instant) -> bool {
        self.0.get(&destination).is_some_and(|silence| now < silence.until)
    }

    /// Notes that the destination did not answer: longer each time, unless it is expected to come up.
    pub(super) fn note(&mut self, destination: IpAddr, internal: bool, now: Instant) {
        let length = match self.0.get(&destination) {
            _ if internal => SILENT_INTERNAL,
            Some(before) => (before.length * 2).clamp(SILENT_FIRST, SILENT_MOST),
            None => SILENT_FIRST,
        };
        if self.0.len() >= MAX_SILENT && !self.0.contains_key(&destination) {
            self.0.retain(|_, silence| now < silence.until);
            if self.0.len() >= MAX_SILENT {
                // One asked again too early costs an INIT.
                self.0.pop_first();
            }
        }
        self.0.insert(destination, Silence { until: now + length, length });
    }

    pub(super) fn forget(&mut self, destination: IpAddr) {
        self.0.remove(&destination);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{offload::VnetHdr, testing::start};

    fn attempts_without_init(destinations: &[IpAddr]) -> Attempts {
        let mut attempts = Attempts::default();
        for destination in destinations {
            let to = SocketAddr::new(*destination, 8362);
            let attempt = Attempt::new(to, Purpose::Traffic, false, None, start());
            attempts.by_destination.insert(*destination, attempt);
        }
        attempts
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn holding_is_bounded_by_packets_and_the_oldest_goes_first() {
        let mut attempts = attempts_without_init(&[address(1)]);
        for n in 0..=HELD_PACKETS {
            let outcome = attempts.hold(address(1), &TunPacket::new(VnetHdr::default(), &mut [n as u8; 40]));
            assert!(outcome.held);
            assert_eq!(outcome.pushed_out, u64::from(n == HELD_PACKETS));
        }
        let (_, mut held) = attempts.take(address(1)).unwrap();
        assert_eq!(held.len(), HELD_PACKETS);
        assert_eq!(held[0].as_packet().bytes()[0], 1);
        assert_eq!(attempts.held_total, 0);
    }

    #[test]
    fn holding_is_bounded_by_bytes_of_one_destination_and_in_all() {
        let destinations: Vec<IpAddr> = (0..20).map(address).collect();
        let mut attempts = attempts_without_init(&destinations);
        let mut packet = vec![0; 60_000];
        let mut refused = 0;
        for destination in &destinations {
            for _ in 0..8 {
                refused += u32::from(
                    !attempts.hold(*destination, &TunPacket::new(VnetHdr::default(), &mut packet)).held,
                );
                assert!(attempts.held_total <= HELD_TOTAL);
                assert!(attempts.by_destination[destination].held_bytes <= HELD_BYTES);
            }
        }
        assert!(refused > 0, "the total limit was never met");
    }

    #[test]
    fn silence_doubles_up_to_a_minute_and_stays_short_for_internal_destinations() {
        let mut unresponsive = Unresponsive::default();
        let mut now = start();
        for seconds in [5, 10, 20, 40, 60, 60] {
            unresponsive.note(address(1), false, now);
            assert!(
                unresponsive
                    .contains(address(1), now + Duration::from_secs(seconds) - Duration::from_millis(1))
            );
            now += Duration::from_secs(seconds);
            assert!(!unresponsive.contains(address(1), now));
        }
        unresponsive.note(address(2), true, now);
        assert!(!unresponsive.contains(address(2), now + SILENT_INTERNAL));
    }
}
