//! Proofs that a member is at an address, and what follows from them.
//!
//! There is one probe: INIT, sent to the address. Who answers it received it there; and whose CONF comes back to a RESP
//! received that. The source of a datagram, and what a member says of itself, prove nothing.

use std::{net::IpAddr, time::Instant};

use super::{
    Tunnel,
    changes::spread,
    exchanges::{Purpose, Question},
    limits::{LISTED_FOR, MEMBER_BELIEVED, USE_NOTED},
    membership::Claimant,
    peer_key::PeerKey,
    peers::Peer,
    routes::{Change, Proof, Route},
};
use crate::{
    crypto::PeerId,
    directory::{Fact, FactChange, Standing},
    event::Event,
    lane_update::LaneChange,
    packet::is_tunnel_address,
};

/// Kind of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProvenBy {
    /// It answered INIT.
    Answer,
    /// Its CONF came back to RESP. A gateway's address that RESP went to is not its own unless it names it.
    Confirmation,
    /// Its certificate lists the address.
    Certificate,
}

impl Tunnel {
    /// Takes in that a member received what was sent to `address` first `at` that time.
    pub(super) fn proven(
        &mut self,
        claimant: Claimant<'_>,
        address: IpAddr,
        by: ProvenBy,
        at: Instant,
        now: Instant,
    ) {
        let member = claimant.member;
        if !is_tunnel_address(address)
            || !self.policy.is_protected(address)
            || self.policy.is_own(address)
            || !self.membership.may_own(claimant.certificate, address)
        {
            return;
        }
        let is_named = claimant.names(address) && !self.is_service(address, now);
        if !is_named && by != ProvenBy::Answer {
            return;
        }
        let Self { routes, peers, .. } = self;
        let proof = Proof { member, at, is_named };
        let change = routes.prove(address, proof, |other| peers.is_alive(other, now), now);
        self.follow(member, address, change, now);
    }

    /// Tells if an address is a service's, whatever pod says that it is its own.
    fn is_service(&self, address: IpAddr, now: Instant) -> bool {
        self.membership.trust().is_service(address)
            || self.policy.classify(address, now).fact.is_some_and(Fact::is_service)
    }

    /// Does what follows from a change of who is at an address.
    fn follow(&mut self, member: PeerId, address: IpAddr, change: Change, now: Instant) {
        let Change { moved, gained, lost } = change;
        self.tell_gone(address, lost);
        if gained {
            self.outbox.lane_change(LaneChange::Found { address, peer: member });
        }
        if self.routes.speaks_until(address, member, now).is_none() {
            return;
        }
        self.policy.note_internal(address, now + LISTED_FOR);
        self.policy.lost_own_vip(address);
        self.exchanges.note_responsive(address);
        if moved {
            self.outbox.event(Event::Internal { destination: address });
        }
        if moved && self.routes.route(address, now).is_some_and(|route| route.is_named) {
            self.succeed(member, address, now);
        }
    }

    /// A member is at an address that was another's, and that records to that one go to, if they go to an address of its own
    /// and not to a service's or a gateway's: it is gone, and services behind it are asked for anew.
    fn succeed(&mut self, member: PeerId, address: IpAddr, now: Instant) {
        let was_there = |peer: &&Peer| {
            let is_there = peer.has_endpoint(address) || peer.own_endpoint(address.is_ipv4()).is_none();
            peer.id() != member && peer.asserts(address) && is_there
        };
        let mut gone: Vec<PeerId> = self.peers.iter().filter(was_there).map(Peer::id).collect();
        gone.sort_unstable();
        gone.dedup();
        gone.into_iter().for_each(|member| self.bury(member, now));
    }

    /// Declares a member dead.
    fn bury(&mut self, member: PeerId, now: Instant) {
        self.peers.bury(member).into_iter().for_each(|key| self.died(key, now));
    }

    /// Has addresses that a member asserts prove themselves, after a handshake with it at `source`: nothing is accepted from
    /// them before.
    pub(super) fn ask_asserted(&mut self, claimant: Claimant<'_>, source: IpAddr, now: Instant) {
        for address in claimant.addresses {
            if self.may_be_asked_to_prove(claimant.member, *address, now)
                && !self.exchanges.awaits_conf(*address)
            {
                let (exchanges, mut cx) = self.exchanging(now);
                exchanges.ask_proof(*address, source, false, &mut cx);
            }
        }
    }

    /// Tells if an address that a member asserts is worth a question.
    fn may_be_asked_to_prove(&self, member: PeerId, address: IpAddr, now: Instant) -> bool {
        let standing = self.policy.classify(address, now).standing;
        is_tunnel_address(address)
            && self.policy.is_protected(address)
            && !self.policy.is_own(address)
            // Of a family that this pod has none of, nothing comes.
            && self.policy.own_address_beside(address).is_some()
            && matches!(standing, Standing::Internal | Standing::Unknown | Standing::Claimed)
            && self.routes.speaks_until(address, member, now).is_none()
            && !self.lanes.is_behind(address, member, now)
    }

    /// Returns until when a peer may send from `source`, as far as is known now, if it may.
    pub(super) fn speaks_until(&mut self, key: PeerKey, source: IpAddr, now: Instant) -> Option<Instant> {
        if !is_tunnel_address(source) || !self.policy.is_protected(source) || !self.may_own(key, source) {
            return None;
        }
        let member = self.peers.find(key)?.id();
        let told = self.policy.fact_owner(source, now);
        if let Some((owner, true, until)) = told {
            return (owner == member).then(|| until_noted(until, now));
        }
        if let Some(until) = self.routes.speaks_until(source, member, now) {
            self.routes.used(source, member, now);
            return Some(until_noted(Some(until), now));
        }
        if self.lanes.is_behind(source, member, now) {
            // Another lane has asked.
            self.lanes.used(source, member, now);
            return Some(now + MEMBER_BELIEVED);
        }
        let (_, _, until) =
            told.filter(|(owner, ..)| *owner == member && self.routes.route(source, now).is_none())?;
        Some(until_noted(until, now))
    }

    /// Tells if `source` is an address that a peer asserts, and asks it to prove that. A packet may wait for it.
    pub(super) fn is_being_proven(&mut self, key: PeerKey, source: IpAddr, now: Instant) -> bool {
        let Some(peer) = self.peers.find(key).filter(|peer| peer.asserts(source)) else { return false };
        let Some(from) = peer.any_endpoint().map(|to| to.ip()) else { return false };
        if !self.may_own(key, source) || !self.may_be_asked_to_prove(peer.id(), source, now) {
            return false;
        }
        let (exchanges, mut cx) = self.exchanging(now);
        exchanges.ask_proof(source, from, true, &mut cx)
    }

    /// The member that `address` belongs to: by a fact about just this address, by what was proven, or by a fact about a
    /// range. And until when that may be remembered.
    pub(super) fn owner(&self, address: IpAddr, now: Instant) -> Option<(PeerId, Instant)> {
        let route = self.routes.route(address, now);
        match self.policy.fact_owner(address, now) {
            Some((id, is_single, until)) if is_single || route.is_none() => {
                Some((id, until_noted(until, now)))
            }
            _ => Some((route?.member, until_noted(None, now))),
        }
    }

    /// Gives `address` to a peer whose certificate lists it, unless somebody else's lists it as narrowly: the certificate
    /// is the proof.
    pub(super) fn claim_certified(&mut self, key: PeerKey, address: IpAddr, now: Instant) {
        if !self.membership.asks_for_certificates() {
            return;
        }
        let length = |key: PeerKey| {
            let certificate = self.peers.find(key)?.certificate()?;
            certificate.prefix_of(address).map(|prefix| prefix.prefix_len())
        };
        let Some(peer) = self.peers.find(key) else { return };
        let owner = self.routes.route(address, now).map(|route| route.member);
        let is_longer = length(key) > owner.and_then(|owner| self.peers.any_lane(owner)).and_then(length);
        if owner != Some(peer.id()) && is_longer {
            let (member, certificate) = (peer.id(), peer.certificate().cloned());
            let claimant = Claimant::certified(member, certificate.as_ref());
            self.proven(claimant, address, ProvenBy::Certificate, now, now);
        }
    }

    /// Takes from a peer what its certificate does not list.
    pub(super) fn keep_certified(&mut self, key: PeerKey, now: Instant) {
        if !self.membership.asks_for_certificates() {
            return;
        }
        let Some(peer) = self.peers.find(key) else { return };
        let (member, certificate) = (peer.id(), peer.certificate().cloned());
        let Self { routes, membership, .. } = self;
        let lost = routes.take_from(member, |it, _| membership.may_own(certificate.as_ref(), it), now);
        self.tell_lost(member, lost);
    }

    /// Takes from a member what it named before and does not any more.
    pub(super) fn keep_named(&mut self, claimant: Claimant<'_>, now: Instant) {
        let member = claimant.member;
        let is_kept = |address, route: Option<Route>| {
            claimant.names(address) || !route.is_some_and(|route| route.member == member && route.is_named)
        };
        let lost = self.routes.take_from(member, is_kept, now);
        self.tell_lost(member, lost);
    }

    /// Takes every address from a member.
    pub(super) fn take_all_from(&mut self, member: PeerId, now: Instant) {
        let lost = self.routes.take_from(member, |_, _| false, now);
        self.tell_lost(member, lost);
    }

    fn tell_lost(&mut self, peer: PeerId, lost: Vec<IpAddr>) {
        for address in lost {
            self.outbox.lane_change(LaneChange::Lost { address, peer });
        }
    }

    fn tell_gone(&mut self, address: IpAddr, lost: Vec<PeerId>) {
        for peer in lost {
            self.outbox.lane_change(LaneChange::Lost { address, peer });
        }
    }

    /// Tells other lanes anew where this member was found: with each handshake.
    pub(super) fn tell_found(&mut self, member: PeerId) {
        for address in self.routes.addresses(member) {
            self.outbox.lane_change(LaneChange::Found { address, peer: member });
        }
    }

    /// The address to ask a peer at: its own where its records go, if it is still there, or has said so since somebody else
    /// was; or another of its own; or a service's. One that it says is its own is better than a service's, where others
    /// answer, too.
    pub(super) fn where_to_ask(&self, key: PeerKey, now: Instant) -> Option<IpAddr> {
        let peer = self.peers.find(key)?;
        let is_its = |address: &IpAddr| {
            let route = self.routes.route(*address, now);
            route.is_none_or(|it| it.member == peer.id() || it.proved < peer.last_handshake())
        };
        let is_askable = |address: &IpAddr| {
            is_tunnel_address(*address)
                && self.policy.is_protected(*address)
                && !self.policy.is_own(*address)
                && self.policy.own_address_beside(*address).is_some()
        };
        let own = [true, false].into_iter().filter_map(|is_v4| peer.own_endpoint(is_v4)).find(is_its);
        let routed = self.routes.routed(peer.id(), now);
        own.or_else(|| routed.iter().copied().find(|address| peer.asserts(*address)))
            .or_else(|| peer.asserted().iter().copied().filter(is_askable).find(is_its))
            .or_else(|| routed.first().copied())
            .or_else(|| peer.any_endpoint().map(|to| to.ip()).filter(is_its))
    }

    /// Asks a peer if it lives, at its own address, on behalf of the service that it was sent to for. A peer whose every
    /// address is another's now is gone.
    pub(super) fn ask_for_life(&mut self, key: PeerKey, now: Instant) -> Option<IpAddr> {
        let Some(to) = self.where_to_ask(key, now) else {
            if let Some(member) = self.peers.find(key).map(Peer::id) {
                self.bury(member, now);
            }
            return None;
        };
        let vip = self.peers.find(key).and_then(Peer::vip);
        let named = vip.filter(|vip| vip.is_ipv4() == to.is_ipv4()).unwrap_or(to);
        let (exchanges, mut cx) = self.exchanging(now);
        exchanges.ask(Question { to, named, purpose: Purpose::Rekey, internal: true }, &mut cx);
        Some(to)
    }

    /// Has every peer told of this side's addresses, as far as there are sessions, within the time of a change of keys.
    pub(super) fn tell_addresses(&mut self, now: Instant) {
        let Self { peers, rng, .. } = self;
        peers.tell_all(|| spread(true, rng.u32()), now);
    }

    /// Has a peer told whose handshake began `begun`, before this side had its addresses: what was said there is out of date.
    pub(super) fn tell_late(&mut self, key: PeerKey, begun: Instant, now: Instant) {
        let Self { peers, rng, .. } = self;
        peers.tell_late(key, begun, || spread(true, rng.u32()), now);
    }

    /// Tells one peer, by a handshake in each family that it is reached over.
    pub(super) fn tell_peer(&mut self, key: PeerKey, now: Instant) {
        for is_v4 in [true, false] {
            let own = self.peers.find(key).and_then(|peer| peer.own_endpoint(is_v4));
            if let Some(to) = own.filter(|to| to.is_ipv4() == is_v4) {
                self.ask(to, Purpose::Rekey, true, now);
            }
        }
    }

    /// Has a peer asked if it lives by whoever says that nobody listens there. Anybody can: so it is a question, once a
    /// second, and nothing else.
    pub(super) fn doubt_peers_at(&mut self, address: IpAddr, now: Instant) {
        let there: Vec<PeerKey> = self.peers.at_endpoint(address).take(usize::from(u8::MAX)).collect();
        self.doubt(there, now);
    }

    fn doubt(&mut self, peers: Vec<PeerKey>, now: Instant) {
        for key in peers {
            if self.peers.note_reset(key, now).is_ok() {
                self.ask_for_life(key, now);
            }
        }
    }

    /// Has the member that an address leads to asked if it lives: somebody else asks from there.
    pub(super) fn doubt_route(&mut self, address: IpAddr, member: PeerId, now: Instant) {
        let Some(route) = self.routes.route(address, now).filter(|route| route.member != member) else {
            return;
        };
        self.doubt(self.peers.lanes(route.member).collect(), now);
    }

    /// Takes addresses from whoever is not there by the facts: a single address has its owner, a service the pods behind it.
    /// What they say goes before what was proven.
    pub(super) fn prune_by(&mut self, changes: &[FactChange], now: Instant) {
        for change in changes {
            let FactChange::Learn(fact) = change else { continue };
            let address = fact.prefix.addr();
            if fact.prefix.prefix_len() < fact.prefix.max_prefix_len() || !fact.is_live(now) {
                continue;
            }
            let lost = if let Some(owner) = fact.owner {
                self.routes.prune(address, |member| member == owner)
            } else if !fact.is_service() {
                continue;
            } else {
                let behind: Vec<PeerId> =
                    fact.pods().filter_map(|pod| Some(self.routes.route(pod, now)?.member)).collect();
                self.routes.prune(address, |member| behind.contains(&member))
            };
            self.tell_gone(address, lost);
        }
    }
}

/// Returns until when a decision that rests on something of this end may be remembered: its use is noted meanwhile.
fn until_noted(end: Option<Instant>, now: Instant) -> Instant {
    let noted = now + USE_NOTED;
    end.map_or(noted, |end| end.min(noted))
}
