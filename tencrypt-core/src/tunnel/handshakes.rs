//! Handshakes: what asking, answering and confirming lead to.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    Tunnel,
    changes::spread,
    exchanges::{
        Answer, Confirmation, Context, End, Exchanges, MemberAnswer, Purpose, Question, Queued,
        repeat_with_cookie,
    },
    index::{IndexUse, OwnedIndex},
    limits::{LISTED_FOR, MESSAGES_A_CALL, REKEY_AFTER, REKEY_JITTER},
    membership::{Claimant, is_listed},
    peer_key::PeerKey,
    peers::{NewSession, PendingConf, Role},
    proofs::ProvenBy,
};
use crate::{
    crypto::PeerId,
    event::Event,
    handshake::Established,
    packet::is_tunnel_address,
    record::{self, Message},
    stats::DropReason,
};

impl Tunnel {
    /// The handshakes under way, and all that their messages are made from.
    pub(super) fn exchanging(&mut self, now: Instant) -> (&mut Exchanges, Context<'_>) {
        let Self { exchanges, membership, policy, lanes, rng, outbox, .. } = self;
        (exchanges, Context { membership, policy, lane: lanes.own().number(), rng, outbox, now })
    }

    /// Sees to it that `destination` is being asked. False if there is no room for one more.
    pub(super) fn ask(
        &mut self,
        destination: IpAddr,
        purpose: Purpose,
        internal: bool,
        now: Instant,
    ) -> bool {
        let (exchanges, mut cx) = self.exchanging(now);
        exchanges.ask(Question::new(destination, purpose, internal), &mut cx)
    }

    /// Starts to replace the session that is sent on, unless that is under way.
    pub(super) fn rekey(&mut self, key: PeerKey, now: Instant) {
        if let Some(address) = self.where_to_ask(key, now) {
            self.ask(address, Purpose::Rekey, true, now);
        }
    }

    /// Takes a handshake message in, to be worked off when its turn comes.
    pub(super) fn take_handshake(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let (exchanges, mut cx) = self.exchanging(now);
        exchanges.enqueue(from, message, bytes, &mut cx)
    }

    /// Takes the cookie for an INIT or a CONF in flight, and repeats that with it.
    pub(super) fn handle_cookie(
        &mut self,
        cookie: &record::Cookie<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        match self.exchanges.index(cookie.receiver, now) {
            Some(IndexUse::Attempt(destination)) => {
                let (exchanges, mut cx) = self.exchanging(now);
                exchanges.take_cookie(destination, cookie, &mut cx)
            }
            Some(IndexUse::Session(key)) => {
                let conf = self.peers.pending_conf(key, cookie.receiver).ok_or(DropReason::UnknownIndex)?;
                let (keys, suite) = (self.membership.keys(), self.policy.config().suite);
                repeat_with_cookie(conf.bytes.as_mut_slice(), &mut conf.cookie, cookie, (keys, suite, now))?;
                self.outbox.datagram(conf.to, conf.bytes.as_slice(), false);
                Ok(())
            }
            _ => Err(DropReason::UnknownIndex),
        }
    }

    /// Works off queued handshake messages, a bounded number of them.
    pub(super) fn work_off(&mut self, now: Instant) {
        for _ in 0..MESSAGES_A_CALL {
            let Some(Queued { from, bytes }) = self.exchanges.next_queued() else { return };
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
        let (exchanges, mut cx) = self.exchanging(now);
        if let Some(destination) = exchanges.handle_init(from, init, bytes, &mut cx)? {
            // Our own INIT came back: the destination is a VIP that this pod itself serves.
            if let Some(ended) = self.exchanges.end(destination, End::OwnAddress, now) {
                self.stats.drop_many(DropReason::HeldTimeout, ended.held.len() as u64);
            }
            self.policy.found_own_vip(destination, now);
        }
        Ok(())
    }

    fn handle_resp(&mut self, resp: &record::Resp<'_>, now: Instant) -> Result<(), DropReason> {
        // INIT goes to the tenant's port, everything else to that of the lane that answered.
        let lane = resp.sender.lane();
        let port = self.policy.config().port.checked_add(lane.into()).ok_or(DropReason::Malformed)?;
        let (exchanges, cx) = self.exchanging(now);
        let answer = match exchanges.handle_resp(resp, &cx)? {
            Answer::Member(answer) => *answer,
            Answer::Stranger(destination) => {
                self.refuse_answer(destination, now);
                return Err(DropReason::Certificate);
            }
        };
        let MemberAnswer { established, index, conf, to, named, first_sent, purpose, asserted_from, held } =
            answer;
        let (member, identity) = (established.peer, established.identity.clone());
        let claimant = Claimant::new(member, &identity);
        let is_there = |source: &IpAddr| claimant.names(*source) || self.is_at(member, *source);
        if let Some(source) = asserted_from.filter(|source| !is_there(source)) {
            self.exchanges.refute(source, now);
        }
        if purpose == Purpose::Proof && named == to && claimant.names(to) && self.peers.is_alive(member, now)
        {
            // The address was to be proven, and a session there is. A pod behind a service learns by CONF that it is asked
            // under the service's address.
            self.proven(claimant, to, ProvenBy::Answer, first_sent, now);
            self.let_in(member, to, now);
            return Ok(());
        }
        let endpoint = SocketAddr::new(own_address(&established, to), port);
        let jitter = REKEY_JITTER.mul_f64(f64::from(self.rng.u32()) / f64::from(u32::MAX));
        let conf = PendingConf::new(conf, endpoint, self.rng.u32(), now);
        self.outbox.datagram(endpoint, conf.bytes.as_slice(), false);
        let epoch = established.epoch;
        let rekey_at = now + self.replace_soon(epoch).unwrap_or(REKEY_AFTER + jitter);
        let role = Role::Initiator { conf, rekey_at };
        let key = self.install(established, index, (endpoint, role), now);
        self.tell_late(key, first_sent, now);
        self.peers.note_told(key, named);
        self.proven(claimant, to, ProvenBy::Answer, first_sent, now);
        self.follow_session(key, claimant, to, now);
        self.release(to, key, held, now);
        if named != to && self.routes.route(named, now).is_some_and(|route| route.member == member) {
            let held = self.exchanges.answered_by_init(named, epoch, now);
            self.release(named, key, held, now);
        }
        Ok(())
    }

    /// Tells if records to this member go to an address.
    fn is_at(&self, member: PeerId, address: IpAddr) -> bool {
        let mut lanes = self.peers.lanes(member).filter_map(|key| self.peers.find(key));
        lanes.any(|peer| peer.has_endpoint(address))
    }

    /// Does what every session brings with it: what its member names stays its own, what it does not name any more is not,
    /// and what it asserts is asked. A session that comes late says nothing of all that.
    fn follow_session(&mut self, key: PeerKey, claimant: Claimant<'_>, source: IpAddr, now: Instant) {
        if self.peers.find(key).is_some_and(|peer| peer.asserted() == claimant.addresses) {
            self.keep_named(claimant, now);
            self.ask_asserted(claimant, source, now);
        }
        self.routes.renew(claimant.member, now);
        for address in self.routes.addresses(claimant.member) {
            self.policy.note_internal(address, now + LISTED_FOR);
        }
        self.tell_found(claimant.member);
        self.tell_services(key, now);
        self.let_all_in(key, now);
    }

    /// Time within which a session that this side has just initiated is to be replaced, if its handshake began under an
    /// epoch that is no longer sent.
    ///
    /// Only the initiator's matter. A peer that starts under another epoch than this side sends is behind, or ahead;
    /// two that answer each other's session by a handshake of their own would never end.
    fn replace_soon(&mut self, epoch: u8) -> Option<Duration> {
        let outdated = epoch != self.membership.keys().send_epoch();
        outdated.then(|| spread(true, self.rng.u32()))
    }

    /// Refuses an answer of a holder of the tenant's key that must not speak for `destination`: the handshake is over, and
    /// the address is of the tenant all the same, so that nothing goes there in plain.
    fn refuse_answer(&mut self, destination: IpAddr, now: Instant) {
        self.exchanges.expect(destination);
        if self.policy.is_protected(destination) {
            self.policy.note_internal(destination, now + LISTED_FOR);
            self.outbox.event(Event::Internal { destination });
        }
        self.gave_up(destination, now);
    }

    fn handle_conf(
        &mut self,
        from: SocketAddr,
        conf: &record::Conf<'_>,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let mac1 = record::mac1(bytes).ok_or(DropReason::Malformed)?;
        match self.exchanges.index(conf.receiver, now) {
            Some(IndexUse::HalfOpen) => {}
            Some(IndexUse::Session(key)) => {
                self.peers.repeat_answer(key, conf.receiver, mac1, now)?;
                self.outbox.empty(key, conf.receiver);
                return Ok(());
            }
            Some(IndexUse::Erased) => return Err(DropReason::Expired),
            Some(IndexUse::Refused) => return Err(DropReason::Certificate),
            Some(IndexUse::Attempt(_)) | None => return Err(DropReason::UnknownIndex),
        }
        let (exchanges, cx) = self.exchanging(now);
        let confirmation = exchanges.handle_conf(conf, &cx)?;
        self.confirmed(from, confirmation, mac1, now);
        Ok(())
    }

    /// Installs the session that a CONF has led to, and answers it.
    fn confirmed(&mut self, from: SocketAddr, confirmation: Confirmation, mac1: [u8; 16], now: Instant) {
        let Confirmation { established, index, asked, asked_from, born } = confirmation;
        let (local, epoch) = (index.get(), established.epoch);
        let (member, identity) = (established.peer, established.identity.clone());
        let claimant = Claimant::new(member, &identity);
        let is_vip =
            !self.policy.is_own(asked) && is_tunnel_address(asked) && self.policy.is_protected(asked);
        let role = Role::Responder { born, mac1, vip: is_vip.then_some(asked) };
        let key = self.install(established, index, (from, role), now);
        self.tell_late(key, born, now);
        self.resets.came_back(from.ip());
        // RESP went to that address, wherever CONF came from.
        if let Some(asked_from) = asked_from {
            self.proven(claimant, asked_from, ProvenBy::Confirmation, born, now);
            self.doubt_route(asked_from, member, now);
        }
        self.outbox.empty(key, local);
        self.follow_session(key, claimant, from.ip(), now);
        // Packets that waited for this very destination, or for any other address at which it takes them.
        for address in self.routes.routed(member, now) {
            if self.peer_for(member, address, now).is_some() {
                let held = self.exchanges.answered_by_init(address, epoch, now);
                self.release(address, key, held, now);
            }
        }
    }

    /// Adds a session to its peer, whose records go to this endpoint.
    fn install(
        &mut self,
        established: Established,
        local: OwnedIndex,
        (endpoint, role): (SocketAddr, Role),
        now: Instant,
    ) -> PeerKey {
        let lane = (established.peer, established.remote_index.lane());
        let own_port = self.policy.config().port.checked_add(lane.1.into());
        let is_translated = !is_listed(&established, endpoint.ip()) || own_port != Some(endpoint.port());
        let mut new = NewSession { established, local, endpoint, is_translated, role };
        let most = usize::from(self.policy.config().max_peers).max(1);
        self.peers.make_room_for(lane, new.endpoint.ip(), most, now, &mut self.outbox);
        let key = self.peers.slot_for(&new.established, now);
        self.exchanges.bind_session(&mut new.local, key);
        self.peers.install(key, new, self.membership.peer_id(), now, &mut self.outbox);
        self.keep_certified(key, now);
        self.stats.handshakes += 1;
        key
    }

    /// Asks again, now and then, whether a VIP leads back here: services change, and an INIT that came back proves
    /// only that somebody on the way sent it. Packets take the way they took until there is an answer.
    pub(super) fn doubt_own_vip(&mut self, destination: IpAddr, now: Instant) {
        if self.policy.is_own_vip_in_doubt(destination, now) {
            self.ask(destination, Purpose::Background, false, now);
        }
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
