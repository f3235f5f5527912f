//! Starting over, as somebody else: for when the state of this side may exist twice, or is from another time.

use std::{collections::BTreeSet, time::Instant};

use super::{
    OwnCertificate, Tunnel, ask::Asks, half_open::HalfOpens, members::Members, timer::Timer, timer::Timers,
    transmit::Queue,
};
use crate::{
    crypto::{DEEP, Identity, Seed, wipe_stack},
    directory::PeerId,
    event::Event,
    stats::DropReason,
};

impl Tunnel {
    /// Mixes a fresh seed in: after a virtual machine was cloned or restored, and before
    /// [`forget_sessions`](Self::forget_sessions). Copies of one state that are given different seeds draw different
    /// ephemeral keys, indices and nonces from here on; without one they draw the same.
    pub fn reseed(&mut self, seed: Seed) {
        self.rng.reseed(seed);
    }

    /// Drops every session and every handshake under way with their keys, the secret of the cookies, and whatever other
    /// lanes told of theirs, and takes a new identity: nothing that was sealed before can be sealed again. This side's
    /// certificate goes too, since it is for one static key. Lanes of one pod are given the same identity
    /// ([`Identity::for_another_lane`]).
    ///
    /// Facts stay, translated flows too, and an address that was seen internal is never spoken to in plain. So do
    /// handshake messages that wait: a member's INIT is answered by the new identity. Packets that waited for a
    /// handshake are dropped, as [`DropReason::HeldTimeout`]. Sessions come back with traffic: packets to a destination
    /// have it asked, and a peer's record on a session that is gone is answered by RESET.
    pub fn forget_sessions(&mut self, identity: Identity, now: Instant) {
        self.forget(identity, now);
        wipe_stack::<DEEP>();
    }

    #[inline(never)]
    fn forget(&mut self, identity: Identity, now: Instant) {
        self.now = now;
        self.recent.forget();
        let queued = self.transmits.iter().filter(|queued| matches!(queued, Queue::Packet { .. })).count();
        self.stats.drop_many(DropReason::HeldTimeout, self.asks.held_packets() + queued as u64);
        self.stats.untold += self.peers.take_lost_news();
        let gone: BTreeSet<PeerId> = self.peers.iter().map(|peer| peer.id).collect();

        self.identity = identity;
        self.own = OwnCertificate::default();
        let hash_key = self.rng.u64();
        self.peers = self.peers.renewed(hash_key);
        self.members = Members::default();
        self.asks = Asks::default();
        self.half_open = HalfOpens::default();
        self.load.forget_secret();
        self.own_vips.clear();
        self.transmits.clear();
        self.timers = Timers::default();
        if let Some(at) = self.nat.poll_timeout() {
            self.timers.arm(Timer::Nat, at);
        }
        gone.into_iter().for_each(|peer| self.push_event(Event::PeerDown { peer }));
    }
}
