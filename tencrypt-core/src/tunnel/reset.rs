//! RESET: a peer that lost its sessions says so, and is asked for new ones at once.
//!
//! A RESET proves that some member of the tenant did not know an index, at some time. So it ends nothing: what it can do
//! at most is to start one handshake a second with a peer that packets are sent to anyway. Nothing answers a RESET, and a
//! RESET answers nothing but DATA, which is never shorter.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{
    Tunnel,
    ask::Purpose,
    limits::RESET_TAKEN,
    peer::{Peer, PeerKey},
    timer::Timer,
};
use crate::{
    directory::Standing, handshake, packet::is_tunnel_address, record::SessionIndex, stats::DropReason,
};

impl Tunnel {
    /// Tells the sender of a record, if it may be a member, that this side does not know its session.
    pub(super) fn disclaim(&mut self, index: SessionIndex, from: SocketAddr, now: Instant) {
        // Another lane's sessions are not known here, and there all the same.
        if index.lane() != self.lane.0 || !is_tunnel_address(from.ip()) || self.lacks_certificate() {
            return;
        }
        let standing = self.view().classify(from.ip(), now).standing;
        let of_the_tenant = matches!(standing, Standing::Internal | Standing::Unknown | Standing::Claimed);
        if of_the_tenant && self.resets.may_send(from.ip(), now) {
            let reset = handshake::write_reset(&self.keys, index, self.rng.u64());
            self.send(from, reset);
        }
    }

    /// A peer does not know the session that it is sent records on: it is asked for another. This one goes on until
    /// that is proven.
    pub(super) fn handle_reset(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let index = handshake::verify_reset(&self.keys, datagram)?;
        let key = self.sends_on(index, from.ip(), now)?;
        let peer = self.peers.find_mut(key).ok_or(DropReason::UnknownIndex)?;
        if peer.reset_at.is_some_and(|at| now.saturating_duration_since(at) < RESET_TAKEN) {
            return Err(DropReason::RateLimited);
        }
        peer.reset_at = Some(now);
        let Some(endpoint) = peer.any_endpoint().map(|endpoint| endpoint.ip()) else { return Ok(()) };
        // Its own address, and not a service's that others answer for as well: only that says who is there now.
        let own = peer.asserted.contains(&endpoint);
        if self.has_heir(key, endpoint, now) {
            // What was sent here went to another of its addresses.
            self.disinherit(key);
            return Ok(());
        }
        let known = self.peers.find(key).and_then(|peer| self.peers.where_to_ask(peer));
        let asked = if own { endpoint } else { known.unwrap_or(endpoint) };
        self.ask(asked, SocketAddr::new(asked, self.config.port), Purpose::Rekey, true, now);
        if let Some(flight) = self.asks.find_mut(asked).and_then(|ask| ask.flight.as_mut())
            && flight.attempt > 0
        {
            // It was asked before it could answer. Now it can.
            (flight.attempt, flight.repeat_at) = (0, now);
            self.timers.arm(Timer::Ask(asked), now);
        }
        Ok(())
    }

    /// `key` proved to be at `address`. Others that were there and were reset are gone, and all of their addresses are
    /// to be asked for again: services would stay with them until their sessions end.
    pub(super) fn succeed(&mut self, key: PeerKey, address: IpAddr) {
        if self.peers.owner(address) != Some(key) {
            return;
        }
        let was_here = |peer: &Peer| peer.any_endpoint().is_some_and(|endpoint| endpoint.ip() == address);
        let mut gone = self.peers.keys();
        gone.retain(|other| {
            let reset = self.peers.find(*other).is_some_and(|peer| peer.reset_at.is_some() && was_here(peer));
            reset && !self.peers.are_one_pod(*other, key)
        });
        gone.into_iter().for_each(|key| self.disinherit(key));
    }

    /// Tells if somebody else has proven to be at the address that records to this peer go to, and can be sent to.
    pub(super) fn has_heir(&self, key: PeerKey, endpoint: IpAddr, now: Instant) -> bool {
        let heir = self.peers.owner(endpoint).filter(|heir| !self.peers.are_one_pod(*heir, key));
        heir.and_then(|heir| self.peers.find(heir)).and_then(|heir| heir.sending(now)).is_some()
    }

    pub(super) fn disinherit(&mut self, key: PeerKey) {
        self.recent.forget();
        self.peers.disown(key, |_| false);
    }

    /// The peer that is sent records under its index `index`: first the one that owns `source`, then any, for sources
    /// may change on the way.
    fn sends_on(&mut self, index: SessionIndex, source: IpAddr, now: Instant) -> Result<PeerKey, DropReason> {
        let sends = |peer: &Peer| peer.sending(now).is_some_and(|session| session.sealer.receiver() == index);
        let owner = self.peers.owner(source);
        if let Some(owner) = owner.filter(|owner| self.peers.find(*owner).is_some_and(sends)) {
            return Ok(owner);
        }
        if !self.resets.may_search(now) {
            return Err(DropReason::RateLimited);
        }
        let mut keys = self.peers.keys().into_iter();
        keys.find(|key| self.peers.find(*key).is_some_and(sends)).ok_or(DropReason::UnknownIndex)
    }
}
