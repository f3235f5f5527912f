//! One query on its way.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use super::{ClientKey, Transport};
use crate::message::{Mismatch, Query, Reply};

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) client: ClientKey,
    pub(super) transport: Transport,
    pub(super) query: Query,
    /// Servers asked so far; the index of an attempt is its place here.
    attempts: Vec<Attempt>,
    /// Servers to ask next.
    servers: VecDeque<SocketAddr>,
    give_up: Instant,
    /// Time at which the next server is asked.
    next_try: Option<Instant>,
    /// The time under which the query stands in the list of deadlines.
    scheduled: Instant,
    stage: Stage,
}

#[derive(Debug)]
struct Attempt {
    server: SocketAddr,
    open: bool,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    /// A server said SERVFAIL or REFUSED while others could still be asked.
    Refused(Arc<[u8]>),
    /// The answer waits for its facts.
    Held(Arc<[u8]>),
    /// A part of the answer has been passed on.
    UnderWay,
}

impl Pending {
    pub(super) const fn new(
        client: ClientKey,
        transport: Transport,
        query: Query,
        servers: VecDeque<SocketAddr>,
        give_up: Instant,
    ) -> Self {
        Self {
            client,
            transport,
            query,
            attempts: Vec::new(),
            servers,
            give_up,
            next_try: None,
            scheduled: give_up,
            stage: Stage::Waiting,
        }
    }

    /// Bytes that are kept for it.
    pub(super) fn bytes(&self) -> usize {
        let kept = match &self.stage {
            Stage::Waiting | Stage::UnderWay => 0,
            Stage::Refused(reply) | Stage::Held(reply) => reply.len(),
        };
        self.query.bytes().len() + kept
    }

    pub(super) const fn scheduled(&self) -> Instant {
        self.scheduled
    }

    /// Returns when it is next to be looked at.
    pub(super) fn deadline(&self) -> Instant {
        self.next_try.map_or(self.give_up, |next_try| next_try.min(self.give_up))
    }

    /// Notes and returns [`deadline`](Self::deadline).
    pub(super) fn schedule(&mut self) -> Instant {
        self.scheduled = self.deadline();
        self.scheduled
    }

    pub(super) fn gives_up(&self, now: Instant) -> bool {
        now >= self.give_up || (!self.has_next() && !self.is_waiting())
    }

    /// Tells if a further server can be asked.
    pub(super) fn has_next(&self) -> bool {
        !self.servers.is_empty() && !matches!(self.stage, Stage::Held(_))
    }

    /// Tells if something is yet to come: a reply, or the word that facts stand.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Held(_)) || self.attempts.iter().any(|attempt| attempt.open)
    }

    /// Tells if a server other than that of attempt `index` may still answer.
    pub(super) fn has_other(&self, index: u8) -> bool {
        let others = self.attempts.iter().enumerate().filter(|(at, _)| *at != usize::from(index));
        self.has_next() || others.into_iter().any(|(_, attempt)| attempt.open)
    }

    /// The server of an attempt that is open.
    pub(super) fn server(&self, index: u8) -> Option<SocketAddr> {
        self.attempts.get(usize::from(index)).filter(|attempt| attempt.open).map(|attempt| attempt.server)
    }

    /// Begins an attempt with the next server; the one after it has its turn at `next_try`.
    pub(super) fn next_attempt(&mut self, next_try: Instant) -> Option<(u8, SocketAddr)> {
        let index = u8::try_from(self.attempts.len()).ok()?;
        let server = self.servers.pop_front()?;
        self.attempts.push(Attempt { server, open: true });
        self.next_try = self.has_next().then_some(next_try);
        Some((index, server))
    }

    /// Closes the attempt. Tells if it was open until now.
    pub(super) fn close(&mut self, index: u8) -> bool {
        self.attempts
            .get_mut(usize::from(index))
            .is_some_and(|attempt| std::mem::replace(&mut attempt.open, false))
    }

    /// Closes what is open.
    pub(super) fn close_all(&mut self) -> impl Iterator<Item = u8> {
        (0_u8..)
            .zip(&mut self.attempts)
            .filter_map(|(index, attempt)| std::mem::replace(&mut attempt.open, false).then_some(index))
    }

    /// Tells if a part of the answer has been passed on.
    pub(super) const fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::UnderWay)
    }

    /// Takes `bytes` for the reply, or for a further message of one that is under way.
    ///
    /// # Errors
    /// As [`Query::verify`].
    pub(super) fn verify<'a>(&'a self, bytes: &'a [u8]) -> Result<Reply<'a>, Mismatch> {
        if self.is_under_way() { self.query.verify_further(bytes) } else { self.query.verify(bytes) }
    }

    /// Closes what is open but attempt `index`, and asks nobody else.
    pub(super) fn settle_on(&mut self, index: u8) -> impl Iterator<Item = u8> {
        self.servers.clear();
        self.next_try = None;
        let others = (0_u8..).zip(&mut self.attempts).filter(move |(at, _)| *at != index);
        others.filter_map(|(at, attempt)| std::mem::replace(&mut attempt.open, false).then_some(at))
    }

    /// Notes that a part of the answer is passed on, and until when the next is waited for; returns how many bytes a
    /// refusal kept before no longer takes.
    pub(super) fn pass_part(&mut self, give_up: Instant) -> usize {
        self.give_up = give_up;
        match std::mem::replace(&mut self.stage, Stage::UnderWay) {
            Stage::Refused(refusal) => refusal.len(),
            Stage::Waiting | Stage::Held(_) | Stage::UnderWay => 0,
        }
    }

    /// Keeps the first refusal; returns by how many bytes more are kept.
    pub(super) fn keep_refusal(&mut self, reply: &[u8]) -> usize {
        match self.stage {
            Stage::Waiting => {
                self.stage = Stage::Refused(reply.into());
                reply.len()
            }
            Stage::Refused(_) | Stage::Held(_) | Stage::UnderWay => 0,
        }
    }

    /// The refusal to answer with, if there is one. It stays counted in [`bytes`](Self::bytes).
    pub(super) fn refusal(&self) -> Option<Arc<[u8]>> {
        match &self.stage {
            Stage::Refused(reply) => Some(Arc::clone(reply)),
            Stage::Waiting | Stage::Held(_) | Stage::UnderWay => None,
        }
    }

    /// Holds the answer; returns how many bytes a refusal kept before no longer takes.
    pub(super) fn hold(&mut self, reply: Arc<[u8]>) -> usize {
        self.next_try = None;
        match std::mem::replace(&mut self.stage, Stage::Held(reply)) {
            Stage::Refused(refusal) => refusal.len(),
            Stage::Waiting | Stage::Held(_) | Stage::UnderWay => 0,
        }
    }

    /// The held answer. It stays counted in [`bytes`](Self::bytes).
    pub(super) fn held(&self) -> Option<Arc<[u8]>> {
        match &self.stage {
            Stage::Held(reply) => Some(Arc::clone(reply)),
            Stage::Waiting | Stage::Refused(_) | Stage::UnderWay => None,
        }
    }
}
