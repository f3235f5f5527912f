//! RESET: a peer that lost its sessions says so, and is asked for new ones at once.
//!
//! A RESET proves that some member of the tenant did not know an index, at some time. So it ends nothing: what it can do
//! at most is to start one handshake a second with a peer that packets are sent to anyway. Nothing answers a RESET, and a
//! RESET answers nothing but DATA, which is never shorter.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{Tunnel, exchanges::Purpose, peer_key::PeerKey, peers::Peer};
use crate::{
    directory::Standing, handshake, packet::is_tunnel_address, record::SessionIndex, stats::DropReason,
};

impl Tunnel {
    /// Tells the sender of a record, if it may be a member, that this side does not know its session.
    pub(super) fn disclaim(&mut self, index: SessionIndex, from: SocketAddr, now: Instant) {
        // Another lane's sessions are not known here, and there all the same.
        if index.lane() != self.lanes.own().number()
            || !is_tunnel_address(from.ip())
            || self.membership.lacks_certificate()
        {
            return;
        }
        let standing = self.policy.classify(from.ip(), now).standing;
        let of_the_tenant = matches!(standing, Standing::Internal | Standing::Unknown | Standing::Claimed);
        if of_the_tenant && self.resets.may_send(from.ip(), now) {
            let reset = handshake::write_reset(self.membership.keys(), index, self.rng.u64());
            self.outbox.datagram(from, reset, false);
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
        let index = handshake::verify_reset(self.membership.keys(), datagram)?;
        let key = self.sends_on(index, from.ip(), now)?;
        self.peers.note_reset(key, now)?;
        let peer = self.peers.find(key).ok_or(DropReason::UnknownIndex)?;
        let Some(endpoint) = peer.any_endpoint().map(|endpoint| endpoint.ip()) else { return Ok(()) };
        // Its own address, and not a service's that others answer for as well: only that says who is there now.
        let own = peer.asserts(endpoint);
        if self.peers.has_heir(key, endpoint, now) {
            // What was sent here went to another of its addresses.
            self.peers.disown(key, |_| false);
            return Ok(());
        }
        let known = self.peers.where_to_ask(key);
        let asked = if own { endpoint } else { known.unwrap_or(endpoint) };
        self.ask(asked, Purpose::Rekey, true, now);
        // It may have been asked before it could answer. Now it can.
        self.exchanges.ask_again(asked, now);
        Ok(())
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
