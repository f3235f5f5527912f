//! The state machine between the pod's applications and the nameservers. No sockets, no clock.
//!
//! ```text
//! handle_query ──> poll_transmit: the same bytes, on a socket that carries no other query of that id
//!                      │ nothing for `fallback_after`, refused, or SERVFAIL: the next server is asked too
//! handle_reply ──> checked against attempt, server, id, question; read on the side
//!                      │ facts? poll_event: Event::Facts, the answer is held until facts_applied
//!                      └ poll_event: Event::Answer, the same bytes
//! ```
//!
//! Every query that [`handle_query`](Interceptor::handle_query) accepts ends in exactly one [`Event::Answer`]: the
//! reply of a server, or SERVFAIL; unless its client [has gone](Interceptor::handle_gone). A zone transfer by TCP has
//! a [`Event::Part`] before for each message but the last, and its end is [`Event::End`] where no last one was seen. A reply that gives a name of the project's own an address outside of
//! [`Config::ranges`] is withheld, whether it came by UDP or TCP, is truncated, signed or neither; so is one that cannot be
//! read, if addresses of such a name were asked for. Any other that belongs to its query but cannot be read is forwarded,
//! since the application would have got it without tencrypt: it leaves no fact.
//!
//! ```
//! use std::{net::IpAddr, time::Instant};
//! use tencrypt_dns::{
//!     Interceptor, Name, Project, Ranges,
//!     interceptor::{ClientKey, Config, Event, Transport},
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (nameserver, now) = (IpAddr::from([10, 96, 0, 10]), Instant::now());
//! let project = Project::new("shop", Name::from_text("cluster.local")?)?;
//! let ranges = Ranges { protected: vec!["10.96.0.0/12".parse()?], exempt: vec![] };
//! let mut interceptor = Interceptor::new(Config::new(project, vec![nameserver], ranges));
//!
//! // A of web.shop.svc.cluster.local, asked by an application.
//! let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x04shop\x03svc\x07cluster\x05local\0\0\x01\0\x01";
//! assert_eq!(interceptor.handle_query(ClientKey(7), Transport::Udp, nameserver, query, now), Ok(()));
//! let asked = interceptor.poll_transmit().ok_or("nobody is asked")?;
//! assert_eq!((asked.to.ip(), &asked.bytes[..]), (nameserver, &query[..]));
//!
//! // The server's reply: 10.96.0.80, for 30 s.
//! let mut reply = [&query[..], b"\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\x0a\x60\0\x50"].concat();
//! (reply[2], reply[7]) = (0x85, 1);
//! assert_eq!(interceptor.handle_reply(asked.attempt, asked.to, &reply, now), Ok(()));
//! let mut answers = 0;
//! while let Some(event) = interceptor.poll_event() {
//!     match event {
//!         Event::Facts { ticket, .. } => interceptor.facts_applied(ticket), // once the directory has them
//!         Event::Answer { bytes, .. } => answers += usize::from(bytes[..] == reply),
//!         _ => {} // close the attempt's socket
//!     }
//! }
//! assert_eq!(answers, 1);
//! # Ok(())
//! # }
//! ```

mod actions;
mod client;
mod config;
mod pending;
mod reading;
mod stats;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

pub use actions::{AttemptId, Event, Ticket, Transmit};
pub use client::{ClientKey, Transport};
pub use config::Config;
use pending::Pending;
use reading::Reading;
pub use stats::Stats;

use crate::{
    ForeignAddress,
    message::{MessageError, NOTIMP, Query, REFUSED, SERVFAIL},
};

/// Reason for which a query is dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a query. Answering a response could go on for ever between two that do (RUSTSEC-2023-0041).
    #[error("not a query")]
    Malformed(#[source] MessageError),
    /// Longer than [`Config::max_query`].
    #[error("longer than a query may be")]
    TooLong,
    /// It was sent to an address that is no nameserver of the pod: not from the pod's resolver.
    #[error("sent to an address that is no nameserver of the pod")]
    NotNameserver,
    /// More queries than [`Config::rate`].
    #[error("more queries than the rate allows")]
    RateLimited,
}

/// Reason for which a datagram is not taken for a reply. The wait goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unaccepted {
    /// Nothing is outstanding there: late, or a second one.
    #[error("nothing is outstanding there")]
    NoAttempt,
    /// Not from the server that was asked.
    #[error("not from the server that was asked")]
    Source,
    /// Not the reply to the query.
    #[error("not the reply to the query")]
    Mismatch(#[source] crate::message::Mismatch),
}

/// See the [module](self).
#[derive(Debug)]
pub struct Interceptor {
    config: Config,
    pending: BTreeMap<u64, Pending>,
    /// Time at which each pending query is to be looked at, one entry each.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Zone transfers of which a part has been passed on.
    transfers: BTreeSet<(ClientKey, u64)>,
    next_query: u64,
    /// Attempts whose socket is open.
    open: usize,
    /// Bytes of queries and held replies.
    held_bytes: usize,
    /// Time at which the bucket of the rate limit would be full again.
    refilled: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    stats: Stats,
    /// The last one, withheld or not.
    foreign_address: Option<ForeignAddress>,
}

impl Interceptor {
    /// An interceptor without queries.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            pending: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            transfers: BTreeSet::new(),
            next_query: 0,
            open: 0,
            held_bytes: 0,
            refilled: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::new(),
            foreign_address: None,
        }
    }

    /// Uses another configuration from the next query on, as when `resolv.conf` changed.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// The configuration in use.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Takes in a query that `client` sent to the nameserver `asked`.
    ///
    /// # Errors
    /// It is dropped, and there will be no answer.
    pub fn handle_query(
        &mut self,
        client: ClientKey,
        transport: Transport,
        asked: IpAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Refusal> {
        let query = self.admit(asked, bytes, now).inspect_err(|refusal| match refusal {
            Refusal::RateLimited => self.stats.rate_limited += 1,
            _ => self.stats.refused += 1,
        })?;
        self.stats.queries += 1;
        let id = self.next_query;
        self.next_query += 1;
        // Only a plain question may be asked twice: an UPDATE could take effect twice.
        let servers = if query.question().is_some() { Config::MAX_SERVERS } else { 1 };
        let servers = self.config.servers_for(asked).take(servers).collect();
        self.make_room(bytes.len());
        self.held_bytes += bytes.len();
        let pending = Pending::new(client, transport, query, servers, now + self.config.give_up_after);
        self.deadlines.insert((pending.deadline(), id));
        self.pending.insert(id, pending);
        self.start_attempt(id, now);
        Ok(())
    }

    /// Takes in what came from `from` to the socket of `attempt`.
    ///
    /// # Errors
    /// It is not the reply, and changes nothing.
    pub fn handle_reply(
        &mut self,
        attempt: AttemptId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Unaccepted> {
        let accepted = self.accept(attempt, from, bytes, now);
        if accepted.is_err() {
            self.stats.forged += 1;
        }
        accepted
    }

    /// Something came to a socket on which nothing that it could answer is outstanding: late, or forged.
    pub const fn handle_stray(&mut self) {
        self.stats.forged += 1;
    }

    /// The socket of `attempt` failed or could not be opened: refused, unreachable, closed by the server. It is closed.
    pub fn handle_failure(&mut self, attempt: AttemptId, now: Instant) {
        let Some(pending) = self.pending.get_mut(&attempt.query) else { return };
        if pending.close(attempt.index) {
            self.open -= 1;
            self.go_on(attempt.query, now);
        }
    }

    /// The client does not wait any more: its zone transfers end. Its other queries go on, for what their replies tell.
    pub fn handle_gone(&mut self, client: ClientKey) {
        let own = self.transfers.range((client, 0)..=(client, u64::MAX)).map(|(_, id)| *id);
        for id in own.collect::<Vec<_>>() {
            self.close_attempts(id);
            self.forget(id);
        }
    }

    /// The facts of this event stand: their answer may go out.
    pub fn facts_applied(&mut self, ticket: Ticket) {
        if let Some(reply) = self.pending.get(&ticket.0).and_then(Pending::held) {
            self.stats.answered += 1;
            self.finish(ticket.0, reply);
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now) {
            let Some(pending) = self.pending.get(&id) else {
                self.deadlines.remove(&(deadline, id));
                continue;
            };
            if pending.gives_up(now) {
                self.fail(id);
            } else {
                self.start_attempt(id, now);
            }
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due. Changes with every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next message to send. Drain after every call.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event. Drain after [`poll_transmit`](Self::poll_transmit).
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Counters since the beginning.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The last address outside of [`Config::ranges`] that a reply gave a name of the project's own.
    #[must_use]
    pub const fn foreign_address(&self) -> Option<&ForeignAddress> {
        self.foreign_address.as_ref()
    }

    /// Queries without an answer yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    fn admit(&mut self, asked: IpAddr, bytes: &[u8], now: Instant) -> Result<Query, Refusal> {
        if !self.config.nameservers.contains(&asked) {
            return Err(Refusal::NotNameserver);
        }
        if bytes.len() > self.config.max_query {
            return Err(Refusal::TooLong);
        }
        let query = Query::parse(bytes).map_err(Refusal::Malformed)?;
        if self.take_token(now) { Ok(query) } else { Err(Refusal::RateLimited) }
    }

    /// A bucket of one second's queries.
    fn take_token(&mut self, now: Instant) -> bool {
        let (capacity, each) = self.config.bucket();
        let refilled = self.refilled.map_or(now, |refilled| refilled.max(now)) + each;
        let allowed = refilled <= now + capacity;
        if allowed {
            self.refilled = Some(refilled);
        }
        allowed
    }

    fn accept(
        &mut self,
        attempt: AttemptId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), Unaccepted> {
        let id = attempt.query;
        let pending = self.pending.get_mut(&id).ok_or(Unaccepted::NoAttempt)?;
        let server = pending.server(attempt.index).ok_or(Unaccepted::NoAttempt)?;
        if server != from {
            return Err(Unaccepted::Source);
        }
        let is_transfer = pending.transport == Transport::Tcp && pending.query.is_transfer();
        let reply = pending.verify(bytes).map_err(Unaccepted::Mismatch)?;
        let is_refused = matches!(reply.response_code(), SERVFAIL | NOTIMP | REFUSED);
        if is_refused && !pending.is_under_way() && pending.has_other(attempt.index) {
            // Another server may do better; if none does, this is the answer.
            self.held_bytes += pending.keep_refusal(bytes);
            pending.close(attempt.index);
            self.open -= 1;
            self.events.push_back(Event::Close { attempt });
            self.go_on(id, now);
            return Ok(());
        }
        let is_error = reply.response_code() != 0;
        let Reading { facts, foreign } = Reading::of(&reply, &self.config, now);
        let facts = facts.unwrap_or_else(|_| {
            self.stats.unreadable += 1;
            Vec::new()
        });
        if foreign.is_some() {
            self.foreign_address = foreign;
            if !self.config.external_names {
                self.stats.withheld += 1;
                let refusal = pending.query.servfail().into();
                self.finish(id, refusal);
                return Ok(());
            }
            self.stats.external_names += 1;
        }
        if is_transfer && !is_error {
            self.pass_part(attempt, bytes, now);
            return Ok(());
        }
        let bytes = Arc::from(bytes);
        if facts.is_empty() {
            self.stats.answered += 1;
            self.finish(id, bytes);
            return Ok(());
        }
        self.stats.facts += facts.len() as u64;
        self.held_bytes += bytes.len();
        self.held_bytes -= pending.hold(bytes);
        self.close_attempts(id);
        self.reschedule(id);
        self.events.push_back(Event::Facts { ticket: Ticket(id), facts });
        Ok(())
    }

    /// Passes on a message of a zone transfer, which this server alone answers from now on. No fact is made of it: it is
    /// no answer about a name that is about to be used.
    fn pass_part(&mut self, attempt: AttemptId, bytes: &[u8], now: Instant) {
        let id = attempt.query;
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let client = pending.client;
        if self.transfers.insert((client, id)) {
            self.stats.answered += 1;
        }
        for index in pending.settle_on(attempt.index) {
            self.open -= 1;
            self.events.push_back(Event::Close { attempt: AttemptId { query: id, index } });
        }
        self.held_bytes -= pending.pass_part(now + self.config.give_up_after);
        self.reschedule(id);
        self.events.push_back(Event::Part { client, bytes: bytes.into() });
    }

    /// After an attempt ended without an answer: the next server, or the end if there is none and nobody else is awaited.
    fn go_on(&mut self, id: u64, now: Instant) {
        let Some(pending) = self.pending.get(&id) else { return };
        if pending.has_next() {
            self.start_attempt(id, now);
        } else if !pending.is_waiting() {
            self.fail(id);
        }
    }

    /// Asks the next server.
    fn start_attempt(&mut self, id: u64, now: Instant) {
        if self.open >= self.config.max_sockets {
            self.make_room(0);
        }
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let Some((index, to)) = pending.next_attempt(now + self.config.fallback_after) else { return };
        let Pending { client, transport, .. } = *pending;
        let bytes = Arc::from(pending.query.bytes());
        self.open += 1;
        self.stats.fallbacks += u64::from(index > 0);
        let attempt = AttemptId { query: id, index };
        self.transmits.push_back(Transmit { attempt, client, transport, to, bytes });
        self.reschedule(id);
    }

    /// Gives up the oldest queries until a further one of `bytes` bytes fits in.
    fn make_room(&mut self, bytes: usize) {
        while self.open >= self.config.max_sockets
            || self.pending.len() >= self.config.max_sockets
            || self.held_bytes + bytes > self.config.max_bytes
        {
            let Some((&oldest, _)) = self.pending.first_key_value() else { return };
            self.stats.evicted += 1;
            self.fail(oldest);
        }
    }

    /// Ends a query with the best there is: a server's refusal, or SERVFAIL; a transfer under way, without a further word.
    fn fail(&mut self, id: u64) {
        let Some(pending) = self.pending.get(&id) else { return };
        if pending.is_under_way() {
            let client = pending.client;
            self.close_attempts(id);
            self.forget(id);
            self.events.push_back(Event::End { client });
            return;
        }
        let answer = if let Some(refusal) = pending.refusal() {
            self.stats.answered += 1;
            refusal
        } else {
            self.stats.unanswered += 1;
            pending.query.servfail().into()
        };
        self.finish(id, answer);
    }

    fn finish(&mut self, id: u64, answer: Arc<[u8]>) {
        self.close_attempts(id);
        if let Some(client) = self.forget(id) {
            self.events.push_back(Event::Answer { client, bytes: answer });
        }
    }

    /// Forgets a query whose attempts are closed; returns whose it was.
    fn forget(&mut self, id: u64) -> Option<ClientKey> {
        let pending = self.pending.remove(&id)?;
        self.deadlines.remove(&(pending.scheduled(), id));
        self.transfers.remove(&(pending.client, id));
        self.held_bytes -= pending.bytes();
        Some(pending.client)
    }

    fn close_attempts(&mut self, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        for index in pending.close_all() {
            self.open -= 1;
            self.events.push_back(Event::Close { attempt: AttemptId { query: id, index } });
        }
    }

    fn reschedule(&mut self, id: u64) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        self.deadlines.remove(&(pending.scheduled(), id));
        self.deadlines.insert((pending.schedule(), id));
    }
}

#[cfg(test)]
mod lenient_tests;
#[cfg(test)]
mod tests;
