//! Handshakes: asking, answering, confirming.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    Tunnel,
    ask::{Flight, Purpose},
    half_open::Queued,
    limits::{
        MESSAGES_A_CALL, OWN_VIP_BELIEVED, REJECT_AFTER, REKEY_AFTER, REKEY_JITTER, REPEAT_INTERVAL,
        RETRY_FIRST, RETRY_MOST,
    },
    live::{Conf, Session},
    peer::{IndexUse, PeerKey},
    timer::{Timer, backoff},
    trust::is_listed,
};
use crate::{
    event::Event,
    handshake::{self, Confirmed, Established, Initiator, Local, Responder},
    packet::is_tunnel_address,
    record::{self, Message, SessionIndex},
    stats::DropReason,
};

impl Tunnel {
    /// Sees to it that `destination` is being asked. False if there is no room for one more.
    pub(super) fn ask(
        &mut self,
        destination: IpAddr,
        to: SocketAddr,
        purpose: Purpose,
        internal: bool,
        now: Instant,
    ) -> bool {
        if let Some(ask) = self.asks.find_mut(destination) {
            ask.internal |= internal;
            if ask.purpose == Purpose::Rekey && purpose == Purpose::Traffic {
                // The session is over before it was replaced: from here on packets wait.
                ask.started = now;
                if let Some(flight) = &mut ask.flight {
                    (flight.attempt, flight.repeat_at) = (0, now);
                }
                self.timers.arm(Timer::Ask(destination), now);
            }
            ask.purpose = ask.purpose.max(purpose);
            return true;
        }
        if self.asks.is_full() || self.lacks_certificate() {
            return false;
        }
        let Some(flight) = self.launch(destination, to, now) else { return false };
        self.asks.start(destination, to, purpose, internal, flight, now);
        self.arm_ask(destination);
        true
    }

    /// Sends INIT to a destination. `None` if no index is free.
    pub(super) fn launch(&mut self, destination: IpAddr, to: SocketAddr, now: Instant) -> Option<Flight> {
        let index = self.free_index()?;
        let local =
            Local::new(&self.keys, self.config.suite, &self.identity, &self.addresses, self.config.vnet)
                .presenting(self.own.presented());
        let (initiator, init) = Initiator::start(&local, index, to.ip(), &mut self.rng);
        let flight = Flight {
            initiator,
            index,
            init: init.clone(),
            attempt: 0,
            repeat_at: now + backoff(0, RETRY_FIRST, RETRY_MOST, self.rng.u32()),
            cookie: None,
        };
        self.peers.bind_index(index, IndexUse::Ask(destination));
        self.send(to, init);
        Some(flight)
    }

    /// Starts to replace the session that is sent on, unless that is under way.
    pub(super) fn rekey(&mut self, key: PeerKey, now: Instant) {
        let Some(address) = self.peers.find(key).and_then(|peer| self.peers.where_to_ask(peer)) else {
            return;
        };
        let to = SocketAddr::new(address, self.config.port);
        self.ask(to.ip(), to, Purpose::Rekey, true, now);
    }

    /// Works off queued handshake messages, a bounded number of them.
    pub(super) fn work_off(&mut self, now: Instant) {
        for _ in 0..MESSAGES_A_CALL {
            let Some(Queued { from, bytes }) = self.queue.pop_front() else { return };
            let outcome = match record::parse(&bytes) {
                Ok(Message::Init(init)) => self.handle_init(from, &init, &bytes, now),
                Ok(Message::Resp(resp)) => self.handle_resp(&resp, now),
                Ok(Message::Conf(conf)) => self.handle_conf(from, &conf, &bytes, now),
                Ok(_) => Err(DropReason::Unsupported),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                self.stats.drop(reason);
            }
        }
    }

    fn handle_init(
        &mut self,
        from: SocketAddr,
        init: &record::Init<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let mac1 = record::mac1(bytes).ok_or(DropReason::Malformed)?;
        if let Some(answered) = self.answer_known(&mac1, from, now) {
            return answered;
        }
        if let Some(IndexUse::Ask(destination)) = self.peers.index(init.sender)
            && self.is_own_init(init.sender, &mac1)
        {
            // Our own INIT came back: the destination is a VIP that this pod itself serves.
            self.found_own_vip(destination, now);
            return Ok(());
        }
        // INIT from lane N is answered by lane N of the peer, if it has one; its other lanes know nothing of it. Of an
        // INIT under another epoch it is not known whether the other side can answer it: both go on.
        if init.sender.lane() == self.lane.0
            && let Some(flight) = self.asks.find(from.ip()).and_then(|ask| ask.flight.as_ref())
            && flight.initiator.epoch() == init.epoch
        {
            let ours = record::mac1(&flight.init);
            if ours.is_some_and(|ours| ours > mac1) {
                // Simultaneous start: the other side drops its own INIT and answers ours.
                return Ok(());
            }
            self.drop_flight(from.ip(), now);
        }
        if self.lacks_certificate() {
            return Err(DropReason::Certificate);
        }
        let (lane, shown) = (init.sender.lane(), self.shows_source(from, bytes, now));
        if !shown && self.half_open.is_full((from.ip(), lane)) {
            // Somebody who repeats INITs from that address must not keep the one who has it from being answered.
            return self.hand_out_cookie(from, (bytes, init.sender), now);
        }
        let index = self.free_index().ok_or(DropReason::RateLimited)?;
        let local =
            Local::new(&self.keys, self.config.suite, &self.identity, &self.addresses, self.config.vnet)
                .presenting(self.own.presented());
        self.load.worked(now);
        let (responder, resp) =
            Responder::accept(&local, init, index, &mut self.rng).map_err(|error| error.drop_reason())?;
        let evicted = self.half_open.insert(mac1, (from, lane, shown), index, responder, resp.clone(), now);
        if let Some(evicted) = evicted {
            self.peers.release_index(evicted);
        }
        self.peers.bind_index(index, IndexUse::HalfOpen);
        if let Some(at) = self.half_open.next_expiry() {
            self.timers.arm(Timer::HalfOpen, at);
        }
        self.answer(from, resp);
        Ok(())
    }

    fn handle_resp(&mut self, resp: &record::Resp<'_>, now: Instant) -> Result<(), DropReason> {
        let Some(IndexUse::Ask(destination)) = self.peers.index(resp.receiver) else {
            return Err(DropReason::UnknownIndex);
        };
        // INIT goes to the tenant's port, everything else to that of the lane that answered.
        let lane = resp.sender.lane();
        let port = self.config.port.checked_add(lane.into()).ok_or(DropReason::Malformed)?;
        let ask = self.asks.find_mut(destination).ok_or(DropReason::UnknownIndex)?;
        let flight = ask.flight.as_mut().ok_or(DropReason::UnknownIndex)?;
        let cookie = flight.cookie;
        let Confirmed { established, mut conf } =
            flight.initiator.handle_resp(resp).map_err(|error| error.drop_reason())?;
        if let Some((cookie, _)) = &cookie {
            handshake::set_mac2(&mut conf, cookie);
        }
        let asked = ask.to;
        if !self.may_answer(&established, asked.ip()) {
            self.refuse_answer(destination, asked.ip(), now);
            return Err(DropReason::Certificate);
        }
        let (finished, held) = self.asks.finish(destination).ok_or(DropReason::UnknownIndex)?;
        self.timers.cancel(Timer::Ask(destination));
        self.asks.answered(destination);

        let peer_id = established.peer;
        let listed = is_listed(&established, asked.ip());
        let endpoint = SocketAddr::new(own_address(&established, asked.ip()), port);
        let key = self.confirm(established, Box::new(conf), endpoint, now);
        // INIT went to this address and this peer answered.
        if finished.purpose != Purpose::Rekey || listed {
            self.make_owner(key, asked.ip());
            self.succeed(key, asked.ip());
        }
        // This is the lane that our INIT goes to: the others are not sent to any more.
        for address in self.peers.held_by_later_lanes(key, self.lane.0) {
            self.make_owner(key, address);
        }
        self.peers.tell_owned(key);
        debug_assert_eq!(self.peers.find(key).map(|peer| peer.id), Some(peer_id));
        for packet in held {
            self.queue_packet(key, packet);
        }
        Ok(())
    }

    /// Sends CONF and installs the session, which repeats CONF until the peer has sent a record.
    fn confirm(
        &mut self,
        established: Established,
        bytes: Box<[u8; record::CONF_LEN]>,
        endpoint: SocketAddr,
        now: Instant,
    ) -> PeerKey {
        let jitter = REKEY_JITTER.mul_f64(f64::from(self.rng.u32()) / f64::from(u32::MAX));
        let conf = Conf {
            bytes,
            to: endpoint,
            attempt: 0,
            repeat_at: now + backoff(0, RETRY_FIRST, RETRY_MOST, self.rng.u32()),
            cookie: None,
        };
        self.send(endpoint, conf.bytes.as_slice());
        let rekey_after = self.replace_soon(established.epoch).unwrap_or(REKEY_AFTER + jitter);
        let key = self.install(established, endpoint, true, now, |session| {
            session.rekey_at = now + rekey_after;
            session.conf = Some(conf);
        });
        if let Some(session) = self.peers.find(key).and_then(|peer| peer.sessions.last()) {
            let at = session.conf.as_ref().map(|conf| conf.repeat_at);
            if let Some(at) = at {
                self.timers.arm(Timer::Peer(key), at);
            }
        }
        key
    }

    fn handle_conf(
        &mut self,
        from: SocketAddr,
        conf: &record::Conf<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let mac1 = record::mac1(bytes).ok_or(DropReason::Malformed)?;
        match self.peers.index(conf.receiver) {
            Some(IndexUse::HalfOpen) => {}
            Some(IndexUse::Session(key)) => return self.repeated_conf(key, conf.receiver, mac1, now),
            Some(IndexUse::Erased) => return Err(DropReason::Expired),
            Some(IndexUse::Refused) => return Err(DropReason::Certificate),
            Some(IndexUse::Ask(_)) | None => return Err(DropReason::UnknownIndex),
        }
        let half_open = self.half_open.take(conf.receiver).ok_or(DropReason::UnknownIndex)?;
        // Whatever becomes of it, the half-open handshake is gone: a forged payload spoils its state.
        self.peers.release_index(conf.receiver);
        let (asked, born) = (half_open.responder.asked(), half_open.born);
        self.load.worked(now);
        let established = half_open.responder.handle_conf(conf).map_err(|error| error.drop_reason())?;
        if !self.is_member(&established) {
            return Err(DropReason::Certificate);
        }
        let (local, epoch) = (established.local_index, established.epoch);
        let listed = is_listed(&established, from.ip());
        let key = self.install(established, from, false, now, |session| {
            session.confirmed_by = Some((mac1, now));
            // Not when CONF came: a late one is no newer for that.
            session.born = born;
            session.seen_from = listed.then(|| from.ip());
        });
        self.resets.came_back(from.ip());
        if !self.addresses.contains(&asked)
            && is_tunnel_address(asked)
            && self.view().is_protected(asked)
            && let Some(peer) = self.peers.find_mut(key)
        {
            peer.serve(asked);
        }
        if listed && !self.peers.has_other_lane_for(key, from.ip(), now) {
            // RESP went to this address and came back as CONF.
            self.make_owner(key, from.ip());
            self.succeed(key, from.ip());
        }
        self.send_empty(key, local);
        self.peers.tell_owned(key);
        // Packets that waited for this very destination, or for any other address of the peer.
        let owned: Vec<IpAddr> = self.peers.find(key).map(|peer| peer.owned.clone()).unwrap_or_default();
        for address in owned {
            self.answered_by_init(address, key, epoch);
        }
        Ok(())
    }

    /// The initiator did not see our answer: it gets another one.
    fn repeated_conf(
        &mut self,
        key: PeerKey,
        local: SessionIndex,
        mac1: [u8; 16],
        now: Instant,
    ) -> Result<(), DropReason> {
        let peer = self.peers.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        let session = peer.session_mut(local).ok_or(DropReason::UnknownIndex)?;
        match &mut session.confirmed_by {
            Some((known, answered)) if *known == mac1 => {
                if now.saturating_duration_since(*answered) < REPEAT_INTERVAL / 2 {
                    return Err(DropReason::RateLimited);
                }
                *answered = now;
                self.send_empty(key, local);
                Ok(())
            }
            _ => Err(DropReason::Replay),
        }
    }

    /// Adds a session to its peer, whose records go to `endpoint`.
    fn install(
        &mut self,
        established: Established,
        endpoint: SocketAddr,
        initiated: bool,
        now: Instant,
        complete: impl FnOnce(&mut Session),
    ) -> PeerKey {
        let own = self.identity.peer_id();
        let local = established.local_index;
        let identity = established.identity.clone();
        let id = established.peer;
        let key = self.peers.admit(established.peer, established.remote_index.lane(), now);
        let mut session = Session::new(established, initiated, now);
        complete(&mut session);
        let fresh = self.peers.find(key).is_some_and(|peer| peer.sessions.is_empty())
            && self.peers.lanes(id).count() == 1;
        self.peers.add_session(key, session, now);
        if let Some(peer) = self.peers.find_mut(key) {
            peer.set_endpoint(endpoint);
            peer.asserted = identity.addresses.clone().into();
            peer.vnet = identity.vnet;
            peer.certificate = identity.certificate;
            peer.unanswered_since = None;
            peer.consider(local, own, now);
            if fresh {
                let event = Event::PeerUp { peer: peer.id, endpoint, addresses: peer.asserted.clone() };
                self.push_event(event);
            }
        }
        self.keep_certified(key);
        self.stats.handshakes += 1;
        self.timers.arm(Timer::Peer(key), now + REJECT_AFTER);
        key
    }

    /// The INIT to `destination` is given up in favour of the destination's own; what is held keeps waiting.
    fn drop_flight(&mut self, destination: IpAddr, now: Instant) {
        if let Some(flight) = self.asks.find_mut(destination).and_then(|ask| ask.flight.take()) {
            self.peers.release_index(flight.index);
        }
        if self.asks.find(destination).is_some_and(|ask| !ask.has_held() && ask.purpose != Purpose::Traffic) {
            self.asks.finish(destination);
            self.timers.cancel(Timer::Ask(destination));
        } else {
            self.timers.arm(Timer::Ask(destination), now + super::limits::ASK_WAIT);
        }
    }

    fn found_own_vip(&mut self, destination: IpAddr, now: Instant) {
        self.cancel_ask(destination);
        if self.own_vips.len() < super::limits::MAX_SERVED || self.own_vips.contains_key(&destination) {
            self.own_vips.insert(destination, now + OWN_VIP_BELIEVED);
        }
    }

    /// Asks again, now and then, whether a VIP leads back here: services change, and an INIT that came back proves
    /// only that somebody on the way sent it. Packets take the way they took until there is an answer.
    pub(super) fn doubt_own_vip(&mut self, destination: IpAddr, now: Instant) {
        if let Some(until) = self.own_vips.get_mut(&destination).filter(|until| **until <= now) {
            *until = now + OWN_VIP_BELIEVED;
            let to = SocketAddr::new(destination, self.config.port);
            self.ask(destination, to, Purpose::Background, false, now);
        }
    }

    /// Ends an ask and drops what it held.
    pub(super) fn cancel_ask(&mut self, destination: IpAddr) {
        if let Some((ask, held)) = self.asks.finish(destination) {
            if let Some(flight) = ask.flight {
                self.peers.release_index(flight.index);
            }
            self.stats.drop_many(DropReason::HeldTimeout, held.len() as u64);
            self.timers.cancel(Timer::Ask(destination));
        }
    }

    pub(super) fn arm_ask(&mut self, destination: IpAddr) {
        if let Some(at) = self.asks.find(destination).and_then(super::ask::Ask::next_due) {
            self.timers.arm(Timer::Ask(destination), at);
        }
    }

    /// Repeats INIT, or gives up.
    pub(super) fn ask_due(&mut self, destination: IpAddr, now: Instant) {
        let random = self.rng.u32();
        let Some(ask) = self.asks.find_mut(destination) else { return };
        let to = ask.to;
        let over = match ask.gives_up_at() {
            Some(end) => now >= end,
            // A rekey lasts as long as there is a session to replace.
            None => {
                let owner = self.peers.owner(destination).and_then(|key| self.peers.find(key));
                owner.and_then(|peer| peer.sending(now)).is_none()
            }
        };
        if over {
            self.gave_up(destination, now);
            return;
        }
        let sent = self.keys.send_epoch();
        let useless = |initiator: &Initiator| initiator.epoch() != sent || initiator.is_over();
        if ask.flight.as_ref().is_some_and(|flight| flight.repeat_at <= now && useless(&flight.initiator)) {
            // It was not answered under the epoch that was sent when it began, or by a member that said what none may.
            self.relaunch(destination, now);
        } else if let Some(flight) = ask.flight.as_mut().filter(|flight| flight.repeat_at <= now) {
            flight.attempt += 1;
            flight.repeat_at = now + backoff(flight.attempt, RETRY_FIRST, RETRY_MOST, random);
            let init = flight.init.clone();
            self.send(to, init);
        }
        self.arm_ask(destination);
    }

    /// No answer: what is held is judged by policy.
    pub(super) fn gave_up(&mut self, destination: IpAddr, now: Instant) {
        let Some((ask, held)) = self.asks.finish(destination) else { return };
        self.timers.cancel(Timer::Ask(destination));
        self.own_vips.remove(&destination);
        if let Some(flight) = ask.flight {
            self.peers.release_index(flight.index);
        }
        let finding = self.view().classify(destination, now);
        let plain = self.may_go_plain(&finding);
        self.asks.fell_silent(destination, ask.internal, now);
        if ask.purpose != Purpose::Background {
            self.push_event(Event::HandshakeFailed { to: ask.to });
        }
        if plain {
            for packet in held {
                if self.outbox.release(packet) {
                    self.stats.opportunistic += 1;
                    self.stats.bypassed += 1;
                } else {
                    self.stats.drop(DropReason::HeldFull);
                }
            }
        } else {
            self.stats.drop_many(DropReason::HeldTimeout, held.len() as u64);
        }
    }

    /// A session index that is not in use, `None` if 16 draws found none.
    fn free_index(&mut self) -> Option<SessionIndex> {
        (0..16)
            .map(|_| SessionIndex::random(self.lane.0, &mut self.rng))
            .find(|index| !self.peers.has_index(*index))
    }
}

/// Returns the address that a session goes to: behind a VIP somebody else answers every time, so it moves to the pod's own
/// address, where the pod names one that can be used.
fn own_address(established: &Established, asked: IpAddr) -> IpAddr {
    if is_listed(established, asked) {
        return asked;
    }
    let mut own = established.identity.addresses.iter().copied();
    own.find(|address| address.is_ipv4() == asked.is_ipv4() && is_tunnel_address(*address)).unwrap_or(asked)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{crypto::CipherSuite, tunnel::tests::pair::Pair};

    /// A copy of a virtual machine, say, or one's own messages sent back by somebody who has the tenant's key.
    #[test]
    fn a_peer_with_our_own_static_key_gets_no_session_and_is_counted() {
        for &suite in CipherSuite::ALL {
            let mut pair = Pair::with_static_keys(suite, [1, 1]);
            pair.send(0);
            pair.run(Duration::from_secs(2));
            let stats = pair.tunnels[0].stats();
            // Each repeat of INIT in the second that a destination is asked for.
            assert!((1..=5).contains(&stats.dropped(DropReason::Policy)), "{suite}");
            assert_eq!(
                stats.dropped_total(),
                stats.dropped(DropReason::Policy) + 1,
                "the packet that waited"
            );
            assert_eq!((pair.delivered, stats.handshakes), ([0, 0], 0), "{suite}");
            assert_eq!(pair.tunnels[1].stats().handshakes, 0, "{suite}");
        }
    }
}
