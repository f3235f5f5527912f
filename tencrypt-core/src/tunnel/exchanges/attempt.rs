//! Destinations being asked: INIT went out, packets wait.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    initiation::Initiation,
    pace::Contact,
    question::{Purpose, Question},
};
use crate::{
    crypto::KeyRing,
    tunnel::{
        limits::{ASK_WAIT, CLAIMED_WAIT, HELD_BYTES, HELD_PACKETS, HELD_TOTAL, MAX_ASKED},
        packet::{HeldPacket, TunPacket},
    },
};

/// One destination being asked.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) to: SocketAddr,
    /// Address that INIT names.
    pub(super) named: IpAddr,
    pub(super) purpose: Purpose,
    /// Source of the word that the address is somebody's, if that is why it was asked.
    pub(super) asserted_from: Option<IpAddr>,
    /// The destination is known to be of the tenant: it will be expected to come up, and never bypassed.
    pub(super) internal: bool,
    /// The INIT in flight; `None` until it is its turn, and once an answer has spoilt it.
    pub(super) initiation: Option<Initiation>,
    /// Time at which the wait for an answer begins, or began.
    pub(super) started: Instant,
    /// Time at which INIT leaves next.
    pub(super) send_at: Instant,
    /// Times that it has left since `started`.
    pub(super) sent: u32,
    /// Its next repetition was put off already, for an INIT from there.
    pub(super) gave_way: bool,
    /// Kind of contact, which bounds its INITs, and how many were counted.
    pub(super) contact: Contact,
    pub(super) counted: u32,
    /// Time at which what is held leaves if only DNS says that the destination is external.
    pub(super) release_at: Option<Instant>,
    held: VecDeque<HeldPacket>,
    held_bytes: usize,
}

impl Attempt {
    /// A question whose INIT leaves at `send_at`, which is counted.
    pub(super) fn new(question: Question, port: u16, contact: Contact, send_at: Instant) -> Self {
        let Question { to, named, purpose, internal } = question;
        Self {
            to: SocketAddr::new(to, port),
            named,
            purpose,
            asserted_from: None,
            internal,
            initiation: None,
            started: send_at,
            send_at,
            sent: 0,
            gave_way: false,
            contact,
            counted: 1,
            release_at: None,
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Begins the wait anew, with an INIT at once.
    pub(super) fn start_over(&mut self, now: Instant) {
        (self.started, self.send_at, self.sent) = (now, now, 0);
    }

    /// Tells if packets wait.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns when the wait ends, `None` for a rekey, which lasts as long as its session.
    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        (self.purpose != Purpose::Rekey).then(|| self.started + ASK_WAIT)
    }

    /// Returns until when packets wait that only DNS calls external.
    pub(super) fn claimed_until(&self) -> Instant {
        self.started + CLAIMED_WAIT
    }

    pub(super) fn next_due(&self) -> Instant {
        let ends = [self.gives_up_at(), self.release_at];
        ends.into_iter().flatten().fold(self.send_at, Instant::min)
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

    pub(super) fn start(&mut self, attempt: Attempt) {
        self.by_destination.insert(attempt.to.ip(), attempt);
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

    /// Takes what the destination holds. It goes on being asked.
    pub(super) fn take_held(&mut self, destination: IpAddr) -> VecDeque<HeldPacket> {
        let Some(attempt) = self.by_destination.get_mut(&destination) else { return VecDeque::new() };
        attempt.release_at = None;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{offload::VnetHdr, testing::start};

    fn attempts_without_init(destinations: &[IpAddr]) -> Attempts {
        let mut attempts = Attempts::default();
        for destination in destinations {
            let question = Question::new(*destination, Purpose::Traffic, false);
            attempts.start(Attempt::new(question, 8362, Contact::First, start()));
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
}
