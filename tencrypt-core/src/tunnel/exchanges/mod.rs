//! Handshakes under way: destinations that are asked, with the packets that wait for them, those that did not answer, and
//! the INITs of others that were answered.

mod attempt;
mod context;
mod cookie;
mod half_open;
mod intake;
mod load;

use std::{
    collections::VecDeque,
    mem,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use self::{
    attempt::{Attempt, Attempts, Initiation, Unresponsive},
    half_open::HalfOpens,
    load::Load,
};
pub(super) use self::{
    attempt::{HoldOutcome, Purpose},
    context::{Context, Queued},
    cookie::repeat_with_cookie,
};
use super::{
    index::{IndexTable, IndexUse, OwnedIndex},
    limits::{ASK_WAIT, RETRY_FIRST, RETRY_MOST},
    packet::{HeldPacket, TunPacket},
    peer_key::PeerKey,
    timer::{Timers, backoff},
};
use crate::{
    handshake::{self, Confirmed, Established, Initiator, Responder},
    record::{self, CONF_LEN, SessionIndex},
    stats::DropReason,
};

/// The owner of all handshakes, their indices, their timers, and what waits for them.
#[derive(Debug)]
pub(super) struct Exchanges {
    attempts: Attempts,
    unresponsive: Unresponsive,
    half_open: HalfOpens,
    /// Messages behind mac1 that wait for their turn.
    queue: VecDeque<Queued>,
    load: Load,
    indices: IndexTable,
    timers: Timers<Due>,
}

/// Something whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A destination that is asked: repeat INIT, or give up.
    Attempt(IpAddr),
    /// The oldest half-open handshake.
    HalfOpen,
}

/// Reason for which a destination is not asked any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It answered, or its own INIT led to a session.
    Answered,
    /// It did not, and is not asked again for a while.
    Unanswered,
    /// It is this pod itself.
    OwnAddress,
    /// It asks itself, and is answered instead.
    GaveWay,
}

/// A destination that is not asked any more.
#[derive(Debug)]
pub(super) struct Ended {
    /// Destination of INIT.
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    /// Packets that waited for it.
    pub(super) held: VecDeque<HeldPacket>,
    /// Index of the INIT in flight; dropped, it is free.
    index: Option<OwnedIndex>,
}

/// A RESP that was read.
pub(super) enum Answer {
    /// Of a member, which may answer there: the handshake is over but for CONF.
    Member(Box<MemberAnswer>),
    /// Of a holder of the tenant's key that must not speak for this destination.
    Stranger(IpAddr),
}

/// The answer of a member.
pub(super) struct MemberAnswer {
    pub(super) established: Established,
    pub(super) index: OwnedIndex,
    pub(super) conf: Box<[u8; CONF_LEN]>,
    /// Destination that was asked, and what for.
    pub(super) asked: IpAddr,
    pub(super) purpose: Purpose,
    /// Packets that waited for it.
    pub(super) held: VecDeque<HeldPacket>,
}

/// A CONF of a member that was read: there is a session.
pub(super) struct Confirmation {
    pub(super) established: Established,
    pub(super) index: OwnedIndex,
    /// Address that the other side asked.
    pub(super) asked: IpAddr,
    /// Time at which its INIT was answered first.
    pub(super) born: Instant,
}

impl Exchanges {
    pub(super) fn new(hash_key: u64) -> Self {
        Self {
            attempts: Attempts::default(),
            unresponsive: Unresponsive::default(),
            half_open: HalfOpens::default(),
            queue: VecDeque::new(),
            load: Load::default(),
            indices: IndexTable::new(hash_key),
            timers: Timers::default(),
        }
    }

    /// Forgets every handshake under way, and the cookies handed out. Messages that wait stay, and what is counted of
    /// others. Returns how many packets are dropped with that.
    pub(super) fn clear(&mut self, hash_key: u64) -> u64 {
        let held = self.attempts.held_packets();
        let mut load = mem::take(&mut self.load);
        load.forget_secret();
        *self = Self { queue: mem::take(&mut self.queue), load, ..Self::new(hash_key) };
        held
    }

    /// Use of an index of this side's.
    pub(super) fn index(&mut self, index: SessionIndex, now: Instant) -> Option<IndexUse> {
        self.indices.find(index, now)
    }

    /// Makes an index that of a session with this peer.
    pub(super) fn bind_session(&mut self, index: &mut OwnedIndex, peer: PeerKey) {
        self.indices.bind_session(index, peer);
    }

    /// Tells if keys of sessions were erased since this was asked last.
    pub(super) fn take_erased(&mut self, now: Instant) -> bool {
        self.indices.take_erased(now)
    }

    /// Tells if messages wait for their turn.
    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(super) fn next_queued(&mut self) -> Option<Queued> {
        self.queue.pop_front()
    }

    /// Tells if a destination is being asked.
    #[cfg(test)]
    pub(super) fn is_asked(&self, destination: IpAddr) -> bool {
        self.attempts.find(destination).is_some()
    }

    /// Tells if the destination left INIT unanswered and is not to be asked yet.
    pub(super) fn is_unresponsive(&self, destination: IpAddr, now: Instant) -> bool {
        self.unresponsive.contains(destination, now)
    }

    /// Notes that somebody is there after all.
    pub(super) fn note_responsive(&mut self, destination: IpAddr) {
        self.unresponsive.forget(destination);
    }

    /// Sees to it that `destination` is being asked. False if there is no room for one more.
    pub(super) fn ask(
        &mut self,
        destination: IpAddr,
        purpose: Purpose,
        internal: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        if let Some(attempt) = self.attempts.find_mut(destination) {
            attempt.internal |= internal;
            if attempt.purpose == Purpose::Rekey && purpose == Purpose::Traffic {
                // The session is over before it was replaced: from here on packets wait.
                attempt.started = cx.now;
                if let Some(initiation) = &mut attempt.initiation {
                    (initiation.attempt, initiation.repeat_at) = (0, cx.now);
                }
                self.timers.arm(Due::Attempt(destination), cx.now);
            }
            attempt.purpose = attempt.purpose.max(purpose);
            return true;
        }
        if self.attempts.is_full() || cx.membership.lacks_certificate() {
            return false;
        }
        let Some(initiation) = self.initiate(destination, cx) else { return false };
        let to = SocketAddr::new(destination, cx.policy.config().port);
        self.attempts.start(to, purpose, internal, initiation, cx.now);
        self.arm(destination);
        true
    }

    /// Sends INIT to a destination. `None` if no index is free.
    fn initiate(&mut self, destination: IpAddr, cx: &mut Context<'_>) -> Option<Initiation> {
        let index = self.indices.take(cx.lane, IndexUse::Attempt(destination), cx.rng, cx.now)?;
        let local = cx.membership.local(cx.policy);
        let (initiator, init) = Initiator::start(&local, index.get(), destination, cx.rng);
        let to = SocketAddr::new(destination, cx.policy.config().port);
        cx.outbox.datagram(to, init.clone(), false);
        let repeat_at = cx.now + backoff(0, RETRY_FIRST, RETRY_MOST, cx.rng.u32());
        Some(Initiation { initiator, index, init, attempt: 0, repeat_at, cookie: None })
    }

    /// Replaces the INIT to a destination by one under the epoch that is sent now.
    fn initiate_anew(&mut self, destination: IpAddr, cx: &mut Context<'_>) {
        if self.attempts.find(destination).is_none() {
            return;
        }
        let Some(initiation) = self.initiate(destination, cx) else { return };
        if let Some(attempt) = self.attempts.find_mut(destination) {
            attempt.initiation = Some(initiation);
        }
    }

    /// Repeats INIT at once if it was repeated before: whoever was asked can answer now.
    pub(super) fn ask_again(&mut self, destination: IpAddr, now: Instant) {
        let attempt = self.attempts.find_mut(destination);
        if let Some(initiation) = attempt.and_then(|attempt| attempt.initiation.as_mut())
            && initiation.attempt > 0
        {
            (initiation.attempt, initiation.repeat_at) = (0, now);
            self.timers.arm(Due::Attempt(destination), now);
        }
    }

    /// Has a packet wait for the answer of a destination that is being asked.
    pub(super) fn hold(&mut self, destination: IpAddr, packet: &TunPacket<'_>) -> HoldOutcome {
        self.attempts.hold(destination, packet)
    }

    /// Makes a destination that is asked one that is of the tenant, and expected to come up.
    pub(super) fn expect(&mut self, destination: IpAddr) {
        if let Some(attempt) = self.attempts.find_mut(destination) {
            attempt.internal = true;
        }
    }

    /// Ends the asking of a destination: the one way in which it ends.
    pub(super) fn end(&mut self, destination: IpAddr, end: End, now: Instant) -> Option<Ended> {
        let (attempt, held) = self.attempts.take(destination)?;
        self.timers.cancel(Due::Attempt(destination));
        let Attempt { to, purpose, internal, initiation, .. } = attempt;
        match end {
            End::Answered => self.unresponsive.forget(destination),
            End::Unanswered => self.unresponsive.note(destination, internal, now),
            End::OwnAddress | End::GaveWay => {}
        }
        Some(Ended { to, purpose, held, index: initiation.map(|initiation| initiation.index) })
    }

    /// Gives up the INIT to a destination in favour of the destination's own; what is held keeps waiting.
    fn give_way(&mut self, destination: IpAddr, now: Instant) {
        let Some(attempt) = self.attempts.find_mut(destination) else { return };
        attempt.initiation = None;
        if attempt.has_held() || attempt.purpose == Purpose::Traffic {
            self.timers.arm(Due::Attempt(destination), now + ASK_WAIT);
        } else {
            self.end(destination, End::GaveWay, now);
        }
    }

    /// Takes what waits for a destination, after a handshake by the peer there made a session under `epoch`. An INIT under
    /// the same epoch is not needed any more; one under another epoch goes on, for it leads to the epoch that this side
    /// sends, and its answer may be on the way.
    pub(super) fn answered_by_init(
        &mut self,
        destination: IpAddr,
        epoch: u8,
        now: Instant,
    ) -> VecDeque<HeldPacket> {
        let initiation = self.attempts.find(destination).and_then(|attempt| attempt.initiation.as_ref());
        if initiation.is_some_and(|initiation| initiation.initiator.epoch() != epoch) {
            return self.attempts.become_rekey(destination);
        }
        self.end(destination, End::Answered, now).map(|ended| ended.held).unwrap_or_default()
    }

    /// Answers an INIT. Returns the destination if it was our own: then that is a VIP that this pod itself serves.
    pub(super) fn handle_init(
        &mut self,
        from: SocketAddr,
        init: &record::Init<'_>,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Option<IpAddr>, DropReason> {
        let mac1 = record::mac1(bytes).ok_or(DropReason::Malformed)?;
        if let Some(answered) = self.answer_known(&mac1, from, cx) {
            return answered.map(|()| None);
        }
        if let Some(destination) = self.own_init(init.sender, &mac1, cx.now) {
            return Ok(Some(destination));
        }
        // INIT from lane N is answered by lane N of the peer, if it has one; its other lanes know nothing of it. Of an
        // INIT under another epoch it is not known whether the other side can answer it: both go on.
        if init.sender.lane() == cx.lane
            && let Some(initiation) = self.attempts.find(from.ip()).and_then(|it| it.initiation.as_ref())
            && initiation.initiator.epoch() == init.epoch
        {
            if record::mac1(&initiation.init).is_some_and(|ours| ours > mac1) {
                // Simultaneous start: the other side drops its own INIT and answers ours.
                return Ok(None);
            }
            self.give_way(from.ip(), cx.now);
        }
        if cx.membership.lacks_certificate() {
            return Err(DropReason::Certificate);
        }
        let (lane, shown) = (init.sender.lane(), self.shows_source(from, bytes, cx.now));
        if !shown && self.half_open.is_full((from.ip(), lane)) {
            // Somebody who repeats INITs from that address must not keep the one who has it from being answered.
            self.hand_out_cookie(from, (bytes, init.sender), cx);
            return Err(DropReason::RateLimited);
        }
        let index = self.indices.take(cx.lane, IndexUse::HalfOpen, cx.rng, cx.now);
        let index = index.ok_or(DropReason::RateLimited)?;
        self.load.worked(cx.now);
        let (responder, resp) = Responder::accept(&cx.membership.local(cx.policy), init, index.get(), cx.rng)
            .map_err(|error| error.drop_reason())?;
        self.half_open.insert(mac1, (from, lane, shown), index, responder, resp.clone(), cx.now);
        self.arm_half_open();
        cx.outbox.datagram(from, resp, true);
        Ok(None)
    }

    /// Reads a RESP. Of a member, the destination is not asked any more.
    pub(super) fn handle_resp(
        &mut self,
        resp: &record::Resp<'_>,
        cx: &Context<'_>,
    ) -> Result<Answer, DropReason> {
        let Some(IndexUse::Attempt(destination)) = self.indices.find(resp.receiver, cx.now) else {
            return Err(DropReason::UnknownIndex);
        };
        let attempt = self.attempts.find_mut(destination).ok_or(DropReason::UnknownIndex)?;
        let initiation = attempt.initiation.as_mut().ok_or(DropReason::UnknownIndex)?;
        let cookie = initiation.cookie;
        let Confirmed { established, mut conf, .. } =
            initiation.initiator.handle_resp(resp).map_err(|error| error.drop_reason())?;
        if let Some((cookie, _)) = &cookie {
            handshake::set_mac2(&mut conf, cookie);
        }
        if !cx.membership.may_answer(&established, destination) {
            attempt.initiation = None;
            return Ok(Answer::Stranger(destination));
        }
        let ended = self.end(destination, End::Answered, cx.now).ok_or(DropReason::UnknownIndex)?;
        let Ended { purpose, held, index, .. } = ended;
        let (index, conf) = (index.ok_or(DropReason::UnknownIndex)?, Box::new(conf));
        Ok(Answer::Member(Box::new(MemberAnswer {
            established,
            index,
            conf,
            asked: destination,
            purpose,
            held,
        })))
    }

    /// Reads the CONF for a half-open handshake.
    pub(super) fn handle_conf(
        &mut self,
        conf: &record::Conf<'_>,
        cx: &Context<'_>,
    ) -> Result<Confirmation, DropReason> {
        // Whatever becomes of it, the half-open handshake is gone: a forged payload spoils its state.
        let half_open = self.half_open.take(conf.receiver).ok_or(DropReason::UnknownIndex)?;
        let (asked, born, index) = (half_open.responder.asked(), half_open.born, half_open.index);
        self.load.worked(cx.now);
        let established = half_open.responder.handle_conf(conf).map_err(|error| error.drop_reason())?;
        if !cx.membership.is_member(&established) {
            return Err(DropReason::Certificate);
        }
        Ok(Confirmation { established, index, asked, born })
    }

    /// Ends what is under epochs that are not held any more: no answer can come to it. Whatever waits is asked for anew,
    /// with all of its time. Returns how many messages are dropped.
    pub(super) fn revoke(&mut self, cx: &mut Context<'_>) -> u64 {
        let keys = cx.membership.keys().clone();
        let queued = self.queue.len();
        let held = |bytes: &[u8]| record::covered_by_mac1(bytes).is_some_and(|(epoch, ..)| keys.holds(epoch));
        self.queue.retain(|message| held(&message.bytes));
        let dropped = (queued - self.queue.len()) as u64;
        self.half_open.end_revoked(&keys);
        for destination in self.attempts.revoked(&keys) {
            self.initiate_anew(destination, cx);
            if let Some(attempt) = self.attempts.find_mut(destination) {
                attempt.started = cx.now;
            }
            self.arm(destination);
        }
        dropped
    }

    /// Returns when [`take_due`](Self::take_due) has something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next thing whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        self.timers.take_due(now)
    }

    /// Repeats INIT if it is time. True: the destination is to be given up; a rekey is once its session, whose end
    /// `has_session` tells, is over.
    pub(super) fn attempt_due(
        &mut self,
        destination: IpAddr,
        has_session: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        let random = cx.rng.u32();
        let Some(attempt) = self.attempts.find_mut(destination) else { return false };
        if attempt.gives_up_at().map_or(!has_session, |end| cx.now >= end) {
            return true;
        }
        let sent = cx.membership.keys().send_epoch();
        if let Some(initiation) = attempt.initiation.as_mut().filter(|it| it.repeat_at <= cx.now) {
            if initiation.initiator.epoch() != sent || initiation.initiator.is_over() {
                // It was not answered under the epoch that was sent when it began, or by a member that said what none may.
                self.initiate_anew(destination, cx);
            } else {
                initiation.attempt += 1;
                initiation.repeat_at = cx.now + backoff(initiation.attempt, RETRY_FIRST, RETRY_MOST, random);
                cx.outbox.datagram(attempt.to, initiation.init.clone(), false);
            }
        }
        self.arm(destination);
        false
    }

    /// Forgets half-open handshakes past their time.
    pub(super) fn half_open_due(&mut self, now: Instant) {
        self.half_open.end_expired(now);
        self.arm_half_open();
    }

    fn arm(&mut self, destination: IpAddr) {
        if let Some(at) = self.attempts.find(destination).and_then(Attempt::next_due) {
            self.timers.arm(Due::Attempt(destination), at);
        }
    }

    fn arm_half_open(&mut self) {
        if let Some(at) = self.half_open.next_expiry() {
            self.timers.arm(Due::HalfOpen, at);
        }
    }
}
