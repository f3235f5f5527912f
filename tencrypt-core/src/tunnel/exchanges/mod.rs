//! Handshakes under way: destinations that are asked, with the packets that wait for them, those that did not answer, and
//! the INITs of others that were answered.

mod asking;
mod attempt;
mod bucket;
mod context;
mod cookie;
mod half_open;
mod initiation;
mod intake;
mod load;
mod pace;
mod proofs;
mod question;
mod silence;

use std::{
    collections::VecDeque,
    mem,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use self::{
    attempt::Attempts,
    half_open::HalfOpens,
    initiation::{GivenUp, GivenUps, Initiation},
    load::Load,
    pace::Pace,
    proofs::Proofs,
    silence::Silences,
};
pub(super) use self::{
    context::{Context, Queued},
    cookie::repeat_with_cookie,
    question::{Purpose, Question},
    silence::Expectation,
};
use super::{
    index::{IndexTable, IndexUse, OwnedIndex},
    limits::SIMULTANEOUS_START,
    packet::HeldPacket,
    peer_key::PeerKey,
    timer::Timers,
};
use crate::{
    handshake::{self, Confirmed, Established, Responder},
    record::{self, CONF_LEN, SessionIndex},
    stats::DropReason,
};

/// The owner of all handshakes, their indices, their timers, and what waits for them.
#[derive(Debug)]
pub(super) struct Exchanges {
    attempts: Attempts,
    /// INITs of questions that were given up.
    given_up: GivenUps,
    silences: Silences,
    pace: Pace,
    half_open: HalfOpens,
    /// Messages behind mac1 that wait for their turn.
    queue: VecDeque<Queued>,
    load: Load,
    proofs: Proofs,
    indices: IndexTable,
    timers: Timers<Due>,
}

/// Something whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A destination that is asked: repeat INIT, or give up.
    Attempt(IpAddr),
    /// The oldest INIT whose question was given up.
    GivenUp,
    /// The oldest half-open handshake.
    HalfOpen,
}

/// Reason for which a destination is not asked any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It answered, or its own INIT led to a session.
    Answered,
    /// It did not, and is not asked again for a while.
    Unanswered(Expectation),
    /// It is this pod itself.
    OwnAddress,
}

/// A destination that is not asked any more.
#[derive(Debug)]
pub(super) struct Ended {
    /// Destination of INIT.
    pub(super) to: SocketAddr,
    /// Address that INIT named.
    pub(super) named: IpAddr,
    pub(super) purpose: Purpose,
    /// Packets that waited for it.
    pub(super) held: VecDeque<HeldPacket>,
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
    /// Address that INIT went to.
    pub(super) to: IpAddr,
    /// Address that INIT named.
    pub(super) named: IpAddr,
    /// Time at which INIT left first: the answer proves that the peer received there then.
    pub(super) first_sent: Instant,
    pub(super) purpose: Purpose,
    /// Source of the word that the address is somebody's, if that is why it was asked.
    pub(super) asserted_from: Option<IpAddr>,
    /// Packets that waited for it.
    pub(super) held: VecDeque<HeldPacket>,
}

/// A CONF of a member that was read: there is a session.
pub(super) struct Confirmation {
    pub(super) established: Established,
    pub(super) index: OwnedIndex,
    /// Address that the other side asked.
    pub(super) asked: IpAddr,
    /// Address that its INIT came from and RESP went to, if there was no other one.
    pub(super) asked_from: Option<IpAddr>,
    /// Time at which its INIT was answered first.
    pub(super) born: Instant,
}

impl Exchanges {
    pub(super) fn new(hash_key: u64) -> Self {
        Self {
            attempts: Attempts::default(),
            given_up: GivenUps::default(),
            silences: Silences::default(),
            pace: Pace::default(),
            half_open: HalfOpens::default(),
            queue: VecDeque::new(),
            load: Load::default(),
            proofs: Proofs::default(),
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

    /// Number of INITs that can still be answered although their questions were given up.
    #[cfg(test)]
    pub(super) fn given_up_len(&self) -> usize {
        self.given_up.len()
    }

    /// Tells if no INIT counts that went to an address where nobody answered.
    #[cfg(test)]
    pub(super) fn has_all_places(&self, now: Instant) -> bool {
        self.pace.is_full(now)
    }

    /// Tells if the destination left INIT unanswered, not long ago.
    pub(super) fn is_silent(&self, destination: IpAddr, now: Instant) -> bool {
        self.silences.contains(destination, now)
    }

    /// Tells if the destination may be asked: it was not silent, or long enough.
    pub(super) fn may_ask(&self, destination: IpAddr, now: Instant) -> bool {
        self.silences.may_ask(destination, now)
    }

    /// Tells if somebody who has a reason may have it asked: it was not, for a while.
    pub(super) fn may_ask_early(&self, destination: IpAddr, now: Instant) -> bool {
        self.silences.may_ask_early(destination, now)
    }

    /// Notes that somebody is there after all.
    pub(super) fn note_responsive(&mut self, destination: IpAddr) {
        self.silences.forget(destination);
    }

    /// Takes what waits for a destination, after a handshake by the peer there made a session under `epoch`. An INIT under
    /// the same epoch is not needed any more; one under another epoch goes on, for it leads to the epoch that this side
    /// sends, and its answer may be on the way. So does one that names a service, which the peer has to learn of.
    pub(super) fn answered_by_init(
        &mut self,
        destination: IpAddr,
        epoch: u8,
        now: Instant,
    ) -> VecDeque<HeldPacket> {
        let attempt = self.attempts.find(destination);
        if attempt.is_some_and(|attempt| attempt.named != destination) {
            return self.attempts.take_held(destination);
        }
        let initiation = attempt.and_then(|attempt| attempt.initiation.as_ref());
        if initiation.is_some_and(|initiation| initiation.initiator.epoch() != epoch) {
            if let Some(attempt) = self.attempts.find_mut(destination) {
                attempt.purpose = Purpose::Rekey;
            }
            return self.attempts.take_held(destination);
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
        if self.goes_first((from.ip(), init.sender.lane(), init.epoch), &mac1, cx) {
            // Simultaneous start: the other side answers ours.
            return Ok(None);
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
        // Whoever sent it may have no more of that address than its name: our own question goes on.
        if lane == cx.lane {
            self.give_way(from.ip(), cx.now);
        }
        Ok(None)
    }

    /// Tells if a question of our own to that address and lane, begun just now, goes before an INIT with this mac1 from
    /// there: of two that begin at once, both sides take the larger one, and one handshake is enough. Later on ours may
    /// have been lost. INIT from lane N is answered by lane N of the peer, if it has one; its other lanes know nothing of
    /// it. Of an INIT under another epoch it is not known whether the other side can answer it: both go on. A question for
    /// proof alone makes no session, so it is no answer to what the other side asks.
    fn goes_first(&self, (from, lane, epoch): (IpAddr, u8, u8), mac1: &[u8; 16], cx: &Context<'_>) -> bool {
        let attempt = self.attempts.find(from).filter(|it| lane == cx.lane && it.purpose != Purpose::Proof);
        let Some(attempt) = attempt else { return false };
        let just_now = cx.now.saturating_duration_since(attempt.started) < SIMULTANEOUS_START;
        let Some(ours) = attempt.initiation.as_ref().filter(|_| just_now) else { return false };
        ours.initiator.epoch() == epoch && record::mac1(&ours.init).is_some_and(|ours| ours > *mac1)
    }

    /// Reads a RESP. Of a member, the destination is not asked any more.
    pub(super) fn handle_resp(
        &mut self,
        resp: &record::Resp<'_>,
        cx: &Context<'_>,
    ) -> Result<Answer, DropReason> {
        let Some(IndexUse::Attempt(to)) = self.indices.find(resp.receiver, cx.now) else {
            return Err(DropReason::UnknownIndex);
        };
        let initiation = self.initiation_mut(to, resp.receiver, cx.now).ok_or(DropReason::UnknownIndex)?;
        let cookie = initiation.cookie;
        let Confirmed { established, mut conf, .. } =
            initiation.initiator.handle_resp(resp).map_err(|error| error.drop_reason())?;
        if let Some((cookie, _)) = &cookie {
            handshake::set_mac2(&mut conf, cookie);
        }
        let (answered, asserted_from) = self.take_initiation(to).ok_or(DropReason::UnknownIndex)?;
        let GivenUp { named, purpose, initiation } = answered;
        if !cx.membership.may_answer(&established, to) {
            return Ok(Answer::Stranger(to));
        }
        let held = self.end(to, End::Answered, cx.now).map(|ended| ended.held).unwrap_or_default();
        self.answered(to);
        let Initiation { index, first_sent, .. } = initiation;
        Ok(Answer::Member(Box::new(MemberAnswer {
            established,
            index,
            conf: Box::new(conf),
            to,
            named,
            first_sent,
            purpose,
            asserted_from,
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
        let is_of_one = half_open.answered_elsewhere.is_none();
        let (asked, asked_from) = (half_open.responder.asked(), is_of_one.then(|| half_open.from.ip()));
        let (born, index) = (half_open.born, half_open.index);
        self.load.worked(cx.now);
        let established = half_open.responder.handle_conf(conf).map_err(|error| error.drop_reason())?;
        if !cx.membership.is_member(&established) {
            return Err(DropReason::Certificate);
        }
        Ok(Confirmation { established, index, asked, asked_from, born })
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
        self.revoke_questions(&keys, cx);
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

    /// Forgets half-open handshakes past their time.
    pub(super) fn half_open_due(&mut self, now: Instant) {
        self.half_open.end_expired(now);
        self.arm_half_open();
    }

    fn arm_half_open(&mut self) {
        if let Some(at) = self.half_open.next_expiry() {
            self.timers.arm(Due::HalfOpen, at);
        }
    }
}
