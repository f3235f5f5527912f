//! RESET: a peer that lost its sessions says so, and is asked for new ones at once.
//!
//! A RESET proves that some member of the tenant did not know an index, at some time. So it ends nothing: what it can do
//! at most is to start one handshake a second with a peer that packets are sent to anyway. Nothing answers a RESET, and a
//! RESET answers nothing but DATA, which is never shorter.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{Tunnel, peer_key::PeerKey, peers::Peer};
use crate::{
    directory::Standing, handshake, packet::is_tunnel_address, record::SessionIndex, stats::DropReason,
};

impl Tunnel {
    /// Tells the sender of a record, if it may be a member that had a session, that this side does not know it: an address
    /// that is known to be of the tenant, and for as long as sessions of before this side started can live, any that may be.
    /// Others would learn from it that a member of some tenant is here.
    pub(super) fn disclaim(&mut self, index: SessionIndex, from: SocketAddr, now: Instant) {
        // Another lane's sessions are not known here, and there all the same.
        if index.lane() != self.lanes.own().number()
            || !is_tunnel_address(from.ip())
            || self.membership.lacks_certificate()
        {
            return;
        }
        let may_have_had_one = match self.policy.classify(from.ip(), now).standing {
            Standing::Internal => true,
            Standing::Unknown => {
                self.resets.has_just_started(now) || self.routes.route(from.ip(), now).is_some()
            }
            Standing::Claimed | Standing::External | Standing::Exempt => false,
        };
        if may_have_had_one && self.resets.may_send(from.ip(), now) {
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
        if let Some(asked) = self.ask_for_life(key, now) {
            // It may have been asked before it could answer. Now it can.
            self.exchanges.ask_again(asked, now);
        }
        Ok(())
    }

    /// The peer that is sent records under its index `index`: first the one that owns `source`, then any, for sources
    /// may change on the way.
    fn sends_on(&mut self, index: SessionIndex, source: IpAddr, now: Instant) -> Result<PeerKey, DropReason> {
        let sends = |peer: &Peer| peer.sending(now).is_some_and(|session| session.sealer.receiver() == index);
        if let Some(route) = self.routes.route(source, now) {
            let found = self.peers.lanes(route.member).find(|key| self.peers.find(*key).is_some_and(sends));
            if let Some(key) = found {
                return Ok(key);
            }
        }
        if !self.resets.may_search(now) {
            return Err(DropReason::RateLimited);
        }
        let mut keys = self.peers.keys().into_iter();
        keys.find(|key| self.peers.find(*key).is_some_and(sends)).ok_or(DropReason::UnknownIndex)
    }
}
