//! Signs of life: what a peer left unanswered, and what that means.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::tunnel::{
    limits::{DEAD_AFTER, MAX_COPIES, SUSPECT_AFTER, SUSPECT_MOST},
    packet::HeldPacket,
};

/// The life of one lane of a peer. It is alive, asked if it lives, or dead; any authentic datagram brings it back. Nothing
/// unauthenticated does more than to have it asked.
#[derive(Debug)]
pub(super) struct Life {
    state: State,
    /// Data was sent and nothing came back: it is asked if it lives at that time.
    ask_at: Option<Instant>,
    /// Time for which data may go unanswered.
    patience: Duration,
    /// Packets to services behind it that were sent since it was asked, as they were before. Should it be dead, they go to
    /// whoever answers there.
    copies: VecDeque<(IpAddr, HeldPacket)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Alive,
    /// It was asked at that time.
    Suspect(Instant),
    Dead,
}

/// Change that time brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// None.
    Stays,
    /// It is to be asked if it lives.
    Suspect,
    /// It did not answer.
    Dies,
}

impl Life {
    pub(super) fn new() -> Self {
        Self { state: State::Alive, ask_at: None, patience: SUSPECT_AFTER, copies: VecDeque::new() }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state == State::Alive
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// Notes that data was sent. Returns when to look again, if that is new.
    #[inline]
    pub(super) fn sent(&mut self, now: Instant) -> Option<Instant> {
        if self.ask_at.is_some() {
            return None;
        }
        self.ask_at = Some(now + self.patience);
        self.ask_at
    }

    /// Has it asked at once for data that was just sent, and was likely sent in vain. Returns when to look again.
    pub(super) fn doubt(&mut self, now: Instant) -> Instant {
        *self.ask_at.insert(now)
    }

    /// Notes an authentic record, or the first one of a session: that one answers CONF, not data. True: it was in doubt,
    /// and is alive.
    #[inline]
    pub(super) fn heard(&mut self, is_first: bool) -> bool {
        let answered = self.ask_at.take().is_some();
        if !self.is_alive() {
            return self.revive();
        }
        if answered && !is_first {
            self.patience = SUSPECT_AFTER;
        }
        false
    }

    /// Notes a handshake. Where it was asked for want of an answer and answers only that, it is asked the later for it.
    pub(super) fn shook_hands(&mut self) -> bool {
        if self.ask_at.take().is_some() && !self.is_alive() {
            self.patience = (self.patience * 2).min(SUSPECT_MOST);
        }
        self.revive()
    }

    fn revive(&mut self) -> bool {
        self.copies = VecDeque::new();
        std::mem::replace(&mut self.state, State::Alive) != State::Alive
    }

    /// Has it asked if it lives. False: it is already, or dead.
    pub(super) fn suspect(&mut self, now: Instant) -> bool {
        let was_alive = self.is_alive();
        if was_alive {
            self.state = State::Suspect(now);
        }
        was_alive
    }

    /// Declares it dead: somebody else has its own address. False: it was already.
    pub(super) fn bury(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Dead) != State::Dead
    }

    /// Takes what time brings.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        match (self.state, self.next_turn()) {
            (State::Alive, Some(at)) if at <= now => {
                self.state = State::Suspect(now);
                Turn::Suspect
            }
            (State::Suspect(_), Some(at)) if at <= now => {
                self.state = State::Dead;
                Turn::Dies
            }
            _ => Turn::Stays,
        }
    }

    /// Returns when [`turn`](Self::turn) has something.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        match self.state {
            State::Alive => self.ask_at,
            State::Suspect(since) => Some(since + DEAD_AFTER),
            State::Dead => None,
        }
    }

    /// Keeps a copy of a packet to `service`, the latest of them.
    pub(super) fn keep(&mut self, service: IpAddr, packet: HeldPacket) {
        if self.copies.len() >= MAX_COPIES {
            self.copies.pop_front();
        }
        self.copies.push_back((service, packet));
    }

    /// Services that there are copies of packets to.
    pub(super) fn copied_to(&self) -> Vec<IpAddr> {
        let mut services: Vec<IpAddr> = self.copies.iter().map(|(service, _)| *service).collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// Takes the copies of packets to a service out.
    pub(super) fn take_copies(&mut self, service: IpAddr) -> Vec<HeldPacket> {
        if self.copies.is_empty() {
            return Vec::new();
        }
        let (taken, left): (VecDeque<_>, _) =
            std::mem::take(&mut self.copies).into_iter().partition(|(to, _)| *to == service);
        self.copies = left;
        taken.into_iter().map(|(_, packet)| packet).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{offload::VnetHdr, testing::start, tunnel::packet::TunPacket};

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn data_unanswered_for_two_seconds_is_asked_about_and_death_is_certain_before_five() {
        let (mut life, now) = (Life::new(), start());
        assert_eq!(life.sent(now), Some(now + ms(2_000)));
        assert_eq!(life.sent(now + ms(500)), None, "the first one counts");
        assert_eq!(life.turn(now + ms(1_999)), Turn::Stays);
        assert_eq!((life.turn(now + ms(2_000)), life.is_dead()), (Turn::Suspect, false));
        assert_eq!(life.turn(now + ms(4_499)), Turn::Stays);
        assert_eq!((life.turn(now + ms(4_500)), life.is_dead()), (Turn::Dies, true));
        assert_eq!((life.next_turn(), life.turn(now + ms(9_000))), (None, Turn::Stays));
        assert!(life.heard(false) && life.is_alive(), "whatever it says, it lives");
    }

    #[test]
    fn data_that_was_likely_sent_in_vain_is_asked_about_at_once() {
        let (mut life, now) = (Life::new(), start());
        assert!(life.sent(now).is_some());
        assert_eq!((life.doubt(now), life.turn(now)), (now, Turn::Suspect));
        assert_eq!((life.turn(now + ms(2_499)), life.turn(now + ms(2_500))), (Turn::Stays, Turn::Dies));
    }

    #[test]
    fn what_is_answered_is_not_asked_about() {
        let (mut life, now) = (Life::new(), start());
        for second in 0..10 {
            let at = now + Duration::from_secs(second);
            assert!(life.sent(at).is_some());
            assert!(!life.heard(false));
            assert_eq!(life.turn(at + ms(10_000)), Turn::Stays);
        }
    }

    #[test]
    fn who_answers_questions_and_not_data_is_asked_ever_more_seldom_up_to_fifteen_seconds() {
        let (mut life, mut now) = (Life::new(), start());
        for patience in [2, 4, 8, 15, 15] {
            assert_eq!(life.sent(now), Some(now + Duration::from_secs(patience)));
            now += Duration::from_secs(patience);
            assert_eq!(life.turn(now), Turn::Suspect);
            assert!(life.shook_hands());
            life.sent(now);
            assert!(!life.heard(true), "its answer to CONF is no answer to data");
        }
        life.sent(now);
        life.heard(false);
        assert_eq!(life.sent(now), Some(now + ms(2_000)), "it answers data again");
    }

    #[test]
    fn a_doubt_from_outside_is_one_question_and_no_death_of_one_who_answers() {
        let (mut life, now) = (Life::new(), start());
        assert!(life.suspect(now) && !life.suspect(now));
        assert!(life.shook_hands() && !life.is_dead());
        assert_eq!(life.next_turn(), None);
        assert!(life.bury() && !life.bury() && !life.suspect(now));
    }

    #[test]
    fn copies_are_bounded_and_gone_with_the_first_sign_of_life() {
        let (mut life, service) = (Life::new(), IpAddr::from([10, 96, 0, 1]));
        life.suspect(start());
        for number in 0..=MAX_COPIES {
            let mut bytes = [number as u8; 40];
            life.keep(service, HeldPacket::new(&TunPacket::new(VnetHdr::default(), &mut bytes)));
        }
        assert_eq!(life.copied_to(), [service]);
        assert!(life.take_copies([10, 96, 0, 2].into()).is_empty());
        let mut copies = life.take_copies(service);
        assert_eq!((copies.len(), copies[0].as_packet().bytes()[0]), (MAX_COPIES, 1));
        life.keep(service, copies.pop().unwrap());
        assert!(life.heard(false));
        assert!(life.take_copies(service).is_empty() && life.copied_to().is_empty());
    }
}
