//! Services: addresses with other pods behind them. A pod takes packets to one from a peer that has asked it on behalf of
//! that, and such a question goes to the pod's own address, so that flows stay with the pod that they were with.

use std::{collections::VecDeque, net::IpAddr, time::Instant};

use super::{
    HeldPacket, Tunnel,
    exchanges::{Purpose, Question},
    peer_key::PeerKey,
    routes::Route,
};
use crate::crypto::PeerId;

impl Tunnel {
    /// The way to a service, proven by a pod behind it.
    fn service_route(&self, address: IpAddr, now: Instant) -> Option<Route> {
        self.routes.route(address, now).filter(|route| !route.is_named)
    }

    /// The peer to send to, for a member that an address belongs to: one that takes packets to it, as far as is known. A
    /// session that the peer has begun says nothing of services.
    pub(super) fn peer_for(&self, member: PeerId, address: IpAddr, now: Instant) -> Option<PeerKey> {
        let is_v4 = address.is_ipv4();
        // A way that may be lost is better than none: nobody answers at the address itself.
        let old =
            || self.peers.pick_any(member, is_v4, now).filter(|_| self.exchanges.is_silent(address, now));
        let key = self.peers.pick(member, is_v4, now).or_else(old)?;
        let peer = self.peers.find(key)?;
        let is_service = self.service_route(address, now).is_some_and(|route| route.member == member);
        (self.may_own(key, address) && (!is_service || peer.is_told(address))).then_some(key)
    }

    /// The peer that packets to an address can be sent to where nothing else is left: the way there may be lost, or the peer
    /// not told of the service.
    pub(super) fn last_way(&self, address: IpAddr, now: Instant) -> Option<PeerKey> {
        let (member, _) = self.owner(address, now)?;
        let is_v4 = address.is_ipv4();
        let key = self.peers.pick(member, is_v4, now).or_else(|| self.peers.pick_any(member, is_v4, now));
        key.filter(|key| self.may_own(*key, address))
    }

    /// Tells if all that there is for packets to an address is a way that may be lost.
    pub(super) fn has_old_way(&self, address: IpAddr, now: Instant) -> bool {
        let way = self.last_way(address, now).and_then(|key| self.peers.find(key));
        way.is_some_and(|peer| peer.is_way_lost(now))
    }

    /// Has the pod that a service's packets go to asked itself on behalf of that: its sessions are over, or were begun by it,
    /// or the way to it may be lost. Returns the address that it is asked at, if it is.
    pub(super) fn resume(&mut self, service: IpAddr, now: Instant) -> Option<IpAddr> {
        let Route { member, .. } = self.service_route(service, now)?;
        let is_v4 = service.is_ipv4();
        let to = match self.peers.pick_any(member, is_v4, now) {
            Some(key) => self.where_to_ask(key, now),
            None if self.peers.any_lane(member).is_some() => None,
            None => self.peers.last_address(member, is_v4),
        };
        let to = to.filter(|to| *to != service && to.is_ipv4() == is_v4)?;
        let question = Question { to, named: service, purpose: Purpose::Proof, internal: true };
        let (exchanges, mut cx) = self.exchanging(now);
        exchanges.ask(question, &mut cx).then_some(to)
    }

    /// Has a peer that there is a session with now told of the services whose packets wait for it. They need no other pod.
    pub(super) fn tell_services(&mut self, key: PeerKey, now: Instant) {
        let Some(member) = self.peers.find(key).map(|peer| peer.id()) else { return };
        for address in self.routes.routed(member, now) {
            if self.exchanges.is_waited_for(address)
                && self.peer_for(member, address, now).is_none()
                && let Some(to) = self.resume(address, now)
            {
                self.exchanges.ask_after_its_own(to, now);
                self.exchanges.give_way(address, now);
            }
        }
    }

    /// A question on behalf of a service is over, and its pod did not answer it: packets go there all the same, for it may
    /// know of it from before.
    pub(super) fn end_telling(&mut self, service: IpAddr, now: Instant) {
        let Some(route) = self.service_route(service, now) else { return };
        let lanes: Vec<PeerKey> = self.peers.lanes(route.member).collect();
        lanes.into_iter().for_each(|key| self.peers.note_told(key, service));
    }

    /// Sends what waited for an address, after whoever `answered` there: to the pod that it leads to, where that lives.
    pub(super) fn release(
        &mut self,
        address: IpAddr,
        answered: PeerKey,
        held: VecDeque<HeldPacket>,
        now: Instant,
    ) {
        self.end_telling(address, now);
        let to = self.last_way(address, now).unwrap_or(answered);
        let copies = self.peers.take_copies(address, to);
        copies.into_iter().chain(held).for_each(|packet| self.queue_packet(to, packet));
    }

    /// A peer did not answer, or somebody else is where it was: services behind it are asked for anew, and the packets
    /// whose copies were kept go to whoever answers there. Its sessions go on opening.
    pub(super) fn died(&mut self, key: PeerKey, now: Instant) {
        for service in self.peers.copied_to(key) {
            self.ask(service, Purpose::Traffic, true, now);
        }
    }
}
