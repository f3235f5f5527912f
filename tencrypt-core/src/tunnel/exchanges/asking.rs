//! Asking: how a question begins, repeats and ends.

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Due, End, Ended, Exchanges,
    attempt::{Attempt, HoldOutcome},
    context::Context,
    initiation::{GivenUp, Initiation},
    pace::Contact,
    question::{Purpose, Question},
    silence::Expectation,
};
use crate::{
    crypto::KeyRing,
    handshake::Initiator,
    record::SessionIndex,
    tunnel::{
        index::IndexUse,
        limits::{ASK_WAIT, GIVE_WAY, RETRY_FIRST, RETRY_MOST},
        packet::{HeldPacket, TunPacket},
        timer::backoff,
    },
};

impl Exchanges {
    /// Sees to it that an address is being asked. Where it is already, INIT goes on naming what it named. False if there
    /// is no room for one more.
    pub(in crate::tunnel) fn ask(&mut self, question: Question, cx: &mut Context<'_>) -> bool {
        let Question { to, purpose, internal, .. } = question;
        let Some(attempt) = self.attempts.find_mut(to) else { return self.start(question, None, cx) };
        attempt.internal |= internal;
        if attempt.purpose == Purpose::Rekey && purpose == Purpose::Traffic {
            // The session is over before it was replaced: from here on packets wait.
            attempt.start_over(cx.now);
            self.timers.arm(Due::Attempt(to), cx.now);
        }
        attempt.purpose = attempt.purpose.max(purpose);
        true
    }

    /// The same, but that an address that is not being asked is sent INIT only when one repeated elsewhere would be: whoever
    /// is asked there on its behalf goes before it.
    pub(in crate::tunnel) fn ask_later(&mut self, question: Question, cx: &mut Context<'_>) -> bool {
        if self.attempts.find(question.to).is_some() {
            return self.ask(question, cx);
        }
        self.start_after(RETRY_FIRST, question, None, cx)
    }

    /// Asks an address to prove that it is whose somebody at `source` says it is; packets of its wait for that, or not.
    /// Whoever is there answers. False if it is not asked: it was within the last second, or there were too many such
    /// questions, or what that source said before was not so.
    pub(in crate::tunnel) fn ask_proof(
        &mut self,
        address: IpAddr,
        source: IpAddr,
        waited_for: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.attempts.find(address).is_some() {
            return true;
        }
        self.can_ask(cx)
            && self.proofs.take(address, source, waited_for, cx.now)
            && self.start(Question::new(address, Purpose::Proof, false), Some(source), cx)
    }

    /// Tells if an INIT from this address was answered and CONF is awaited, which proves as much as an answer.
    pub(in crate::tunnel) fn awaits_conf(&self, address: IpAddr) -> bool {
        self.half_open.has_from(address)
    }

    /// Notes that somebody else answered at an address that a peer at `source` had called its own.
    pub(in crate::tunnel) fn refute(&mut self, source: IpAddr, now: Instant) {
        self.proofs.withhold(source, now);
    }

    fn can_ask(&self, cx: &Context<'_>) -> bool {
        !self.attempts.is_full() && !cx.membership.lacks_certificate()
    }

    /// Begins to ask an address that is not being asked: with the INIT of a question like this that was given up not long
    /// ago, if there is one.
    fn start(&mut self, question: Question, asserted_from: Option<IpAddr>, cx: &mut Context<'_>) -> bool {
        self.start_after(Duration::ZERO, question, asserted_from, cx)
    }

    fn start_after(
        &mut self,
        delay: Duration,
        question: Question,
        asserted_from: Option<IpAddr>,
        cx: &mut Context<'_>,
    ) -> bool {
        if !self.can_ask(cx) {
            return false;
        }
        let contact = match question.purpose {
            Purpose::Rekey => Contact::Peer,
            _ if !self.silences.contains(question.to, cx.now) => Contact::First,
            _ if question.internal => Contact::Expected,
            _ => Contact::Silent,
        };
        // Packets wait for their turn in being asked; what nobody waits for is asked another time.
        let waits = contact == Contact::First && question.purpose != Purpose::Proof;
        let send_at = if waits {
            self.pace.reserve(contact, ASK_WAIT, cx.now)
        } else {
            self.pace.take(contact, cx.now).then_some(cx.now)
        };
        let Some(send_at) = send_at.map(|at| at + delay) else { return false };
        let epoch = cx.membership.keys().send_epoch();
        let initiation = self.given_up.take_for(&question, epoch, cx.now);
        let port = cx.policy.config().port;
        let mut attempt = Attempt::new(question, port, contact, send_at);
        (attempt.asserted_from, attempt.initiation) = (asserted_from, initiation);
        self.attempts.start(attempt);
        if send_at <= cx.now && !self.send(question.to, cx) {
            self.attempts.take(question.to);
            return false;
        }
        self.arm(question.to);
        true
    }

    /// Sends the INIT of a question: the one that there is, or one begun anew if that can not be repeated. False: no
    /// index is free.
    fn send(&mut self, to: IpAddr, cx: &mut Context<'_>) -> bool {
        let (epoch, now) = (cx.membership.keys().send_epoch(), cx.now);
        let Some(attempt) = self.attempts.find_mut(to) else { return false };
        let sent = match attempt.initiation.as_mut().filter(|initiation| initiation.is_good(epoch, now)) {
            Some(initiation) => {
                initiation.last_sent = now;
                cx.outbox.datagram(attempt.to, initiation.init.clone(), false);
                true
            }
            None => self.initiate(to, cx),
        };
        if let Some(attempt) = self.attempts.find_mut(to) {
            attempt.send_at = now + backoff(attempt.sent, RETRY_FIRST, RETRY_MOST, cx.rng.u32());
            attempt.sent += 1;
            attempt.gave_way = false;
        }
        sent
    }

    /// Sends another INIT for a question, under the epoch that is sent now. False: no index is free.
    fn initiate(&mut self, to: IpAddr, cx: &mut Context<'_>) -> bool {
        let Some(attempt) = self.attempts.find_mut(to) else { return false };
        let index = self.indices.take(cx.lane, IndexUse::Attempt(to), cx.rng, cx.now);
        let Some(index) = index else { return false };
        let local = cx.membership.local(cx.policy);
        let (initiator, init) = Initiator::start(&local, index.get(), attempt.named, cx.rng);
        cx.outbox.datagram(attempt.to, init.clone(), false);
        let (first_sent, last_sent) = (cx.now, cx.now);
        attempt.initiation = Some(Initiation { initiator, index, init, first_sent, last_sent, cookie: None });
        true
    }

    /// Repeats INIT at once if it was repeated before: whoever was asked can answer now.
    pub(in crate::tunnel) fn ask_again(&mut self, destination: IpAddr, now: Instant) {
        if let Some(attempt) = self.attempts.find_mut(destination).filter(|attempt| attempt.sent > 1) {
            (attempt.sent, attempt.send_at) = (0, now);
            self.timers.arm(Due::Attempt(destination), now);
        }
    }

    /// Repeats INIT at once if that was put off for the destination's own, which has led to a session: of two that crossed it
    /// may have dropped this side's, and can answer now.
    pub(in crate::tunnel) fn ask_after_its_own(&mut self, destination: IpAddr, now: Instant) {
        if let Some(attempt) = self.attempts.find_mut(destination).filter(|attempt| attempt.gave_way) {
            attempt.send_at = now;
            self.timers.arm(Due::Attempt(destination), now);
        }
    }

    /// Has a packet wait for the answer of a destination that is being asked; where there is another way for it, for so long
    /// only.
    pub(in crate::tunnel) fn hold(
        &mut self,
        destination: IpAddr,
        packet: &TunPacket<'_>,
        at_most: Option<Duration>,
    ) -> HoldOutcome {
        if let Some((attempt, wait)) = self.attempts.find_mut(destination).zip(at_most) {
            attempt.release_at = Some(attempt.started + wait);
            self.arm(destination);
        }
        self.attempts.hold(destination, packet)
    }

    /// Tells if packets wait for the answer of a destination.
    pub(in crate::tunnel) fn is_waited_for(&self, destination: IpAddr) -> bool {
        self.attempts.find(destination).is_some_and(Attempt::holds)
    }

    /// Tells if packets to a destination that only DNS calls external wait for it to be asked.
    pub(in crate::tunnel) fn awaits_claimed(&self, destination: IpAddr, now: Instant) -> bool {
        let asked = self.attempts.find(destination);
        !self.is_silent(destination, now) && asked.is_none_or(|attempt| now < attempt.claimed_until())
    }

    /// Tells, once, if it is time that packets which wait for a destination leave by another way.
    pub(in crate::tunnel) fn is_release_due(&mut self, destination: IpAddr, now: Instant) -> bool {
        let attempt = self.attempts.find_mut(destination);
        attempt.and_then(|attempt| attempt.release_at.take_if(|at| *at <= now)).is_some()
    }

    /// Takes the packets that wait for a destination, which goes on being asked.
    pub(in crate::tunnel) fn take_held(&mut self, destination: IpAddr) -> VecDeque<HeldPacket> {
        self.attempts.take_held(destination)
    }

    /// Makes a destination that is asked one that is of the tenant, and expected to come up.
    pub(in crate::tunnel) fn expect(&mut self, destination: IpAddr) {
        if let Some(attempt) = self.attempts.find_mut(destination) {
            attempt.internal = true;
        }
    }

    /// Ends the asking of a destination: the one way in which it ends. An INIT that was not answered can be for the rest of
    /// its life.
    pub(in crate::tunnel) fn end(&mut self, destination: IpAddr, end: End, now: Instant) -> Option<Ended> {
        let (mut attempt, held) = self.attempts.take(destination)?;
        self.timers.cancel(Due::Attempt(destination));
        let initiation = attempt.initiation.take();
        match end {
            End::Answered => {
                self.pace.give_back(attempt.contact, attempt.counted);
                self.answered(destination);
            }
            End::Unanswered(expectation) => self.unanswered(&attempt, initiation, expectation, now),
            End::OwnAddress => {}
        }
        let Attempt { to, named, purpose, .. } = attempt;
        Some(Ended { to, named, purpose, held })
    }

    /// Notes that somebody is there.
    pub(super) fn answered(&mut self, destination: IpAddr) {
        self.silences.forget(destination);
        self.given_up.forget(destination);
    }

    fn unanswered(
        &mut self,
        attempt: &Attempt,
        initiation: Option<Initiation>,
        expectation: Expectation,
        now: Instant,
    ) {
        if let Some(source) = attempt.asserted_from {
            self.proofs.withhold(source, now);
        }
        if attempt.purpose == Purpose::Proof {
            // What somebody says makes no address silent, and takes no other INIT's place.
            return;
        }
        let expectation = if attempt.internal { Expectation::Internal } else { expectation };
        let last_sent = initiation.as_ref().map_or(now, |initiation| initiation.last_sent);
        let (to, named, purpose) = (attempt.to.ip(), attempt.named, attempt.purpose);
        self.silences.note(to, expectation, (attempt.started, last_sent), now);
        if let Some(initiation) = initiation {
            self.given_up.keep(to, GivenUp { named, purpose, initiation }, now);
            self.arm_given_up();
        }
    }

    /// The INIT in flight, or given up, that an answer for `index` is to.
    pub(super) fn initiation_mut(
        &mut self,
        to: IpAddr,
        index: SessionIndex,
        now: Instant,
    ) -> Option<&mut Initiation> {
        let Self { attempts, given_up, .. } = self;
        let open = attempts.find_mut(to).and_then(|attempt| attempt.initiation.as_mut());
        open.filter(|open| open.index.get() == index).or_else(|| given_up.find_mut(to, index, now))
    }

    /// Takes out the INIT of a question that was answered, with what the question was, and the source of the word that led
    /// to it.
    pub(super) fn take_initiation(&mut self, to: IpAddr) -> Option<(GivenUp, Option<IpAddr>)> {
        let open = self.attempts.find_mut(to);
        if let Some((initiation, open)) = open.and_then(|open| Some((open.initiation.take()?, open))) {
            let (named, purpose) = (open.named, open.purpose);
            return Some((GivenUp { named, purpose, initiation }, open.asserted_from));
        }
        self.given_up.take(to).map(|given_up| (given_up, None))
    }

    /// Puts the next repetition of INIT off, once: the destination's own INIT was answered, and may lead to a session.
    pub(in crate::tunnel) fn give_way(&mut self, destination: IpAddr, now: Instant) {
        if let Some(attempt) = self.attempts.find_mut(destination).filter(|attempt| !attempt.gave_way) {
            attempt.gave_way = true;
            attempt.send_at = attempt.send_at.max(now + GIVE_WAY);
        }
    }

    /// Repeats INIT if it is time. True: the destination is to be given up; a rekey is once its session, whose end
    /// `has_session` tells, is over.
    pub(in crate::tunnel) fn attempt_due(
        &mut self,
        destination: IpAddr,
        has_session: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(attempt) = self.attempts.find_mut(destination) else { return false };
        if attempt.gives_up_at().map_or(!has_session, |end| cx.now >= end) {
            return true;
        }
        if attempt.send_at <= cx.now {
            // The first one has its place already.
            let is_counted = attempt.sent > 0 && self.pace.take(attempt.contact, cx.now);
            attempt.counted += u32::from(is_counted);
            if is_counted || attempt.sent == 0 {
                self.send(destination, cx);
            } else {
                attempt.send_at = cx.now + backoff(attempt.sent, RETRY_FIRST, RETRY_MOST, cx.rng.u32());
            }
        }
        self.arm(destination);
        false
    }

    /// Begins what is asked under an epoch that is no longer held anew, with all of its time, and forgets what was.
    pub(super) fn revoke_questions(&mut self, keys: &KeyRing, cx: &mut Context<'_>) {
        self.given_up.retain(|initiation| keys.holds(initiation.initiator.epoch()));
        for destination in self.attempts.revoked(keys) {
            if let Some(attempt) = self.attempts.find_mut(destination) {
                attempt.start_over(cx.now);
            }
            self.send(destination, cx);
            self.arm(destination);
        }
    }

    /// Forgets INITs whose questions were given up: what this side says of itself, or the epoch that it sends, is
    /// another now.
    pub(in crate::tunnel) fn forget_given_up(&mut self) {
        self.given_up.retain(|_| false);
    }

    /// Forgets INITs past their life whose questions were given up.
    pub(in crate::tunnel) fn given_up_due(&mut self, now: Instant) {
        self.given_up.end_expired(now);
        self.arm_given_up();
    }

    fn arm(&mut self, destination: IpAddr) {
        if let Some(at) = self.attempts.find(destination).map(Attempt::next_due) {
            self.timers.arm(Due::Attempt(destination), at);
        }
    }

    fn arm_given_up(&mut self) {
        if let Some(at) = self.given_up.next_expiry() {
            self.timers.arm(Due::GivenUp, at);
        }
    }
}
