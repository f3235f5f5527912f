//! Starting over, as somebody else: for when the state of this side may exist twice, or is from another time.

use std::time::Instant;

use super::Tunnel;
use crate::{
    crypto::{DEEP, Identity, Seed, wipe_stack},
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
    /// Facts stay, translated flows too, and an address at which a member has answered is not spoken to in plain for as long as without this. So do
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
        let hash_key = self.rng.u64();
        let held = self.exchanges.clear(hash_key) + self.outbox.drop_transmits() + self.waiting.clear();
        self.stats.drop_many(DropReason::HeldTimeout, held);
        self.membership.set_identity(identity);
        self.peers.clear(hash_key, &mut self.outbox);
        self.routes.clear(hash_key);
        self.outbox.drop_findings();
        self.lanes.clear();
        self.resets.started_over(now);
        self.policy.forget_findings();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        config::TunnelConfig,
        crypto::{KeyRing, PeerId},
        testing::start,
        tunnel::{Output, exchanges::Purpose},
    };

    #[test]
    fn what_was_about_to_leave_and_what_others_told_is_gone() {
        let keys =
            KeyRing::parse(&KeyRing::write_file([1; 16], 1, &std::array::from_fn(|at| at as u8))).unwrap();
        let [own, other] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let identity = |number| Identity::generate(Seed::from_bytes([number; 32]), &[own]);
        let config = TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
        let builder = Tunnel::builder(config, keys, identity(3));
        let mut tunnel = builder.build(Seed::from_bytes([5; 32]), start()).unwrap();
        assert!(tunnel.ask(other, Purpose::Traffic, false, start()));
        let member = PeerId::from_bytes([6; 32]);
        assert!(tunnel.lanes.found(other, member, 1, start()));
        tunnel.policy.found_own_vip(other, start());
        assert!(tunnel.next_timeout().is_some());

        tunnel.reseed(Seed::from_bytes([7; 32]));
        tunnel.forget_sessions(identity(8), start());
        assert_eq!(tunnel.peer_id(), identity(8).peer_id());
        assert!(matches!(tunnel.poll_output(&mut [0; 2_048], start()), Output::Timeout(None)));
        assert!(!tunnel.lanes.is_behind(other, member, start()));
        assert!(!tunnel.policy.is_own_vip(other));
        assert_eq!(tunnel.stats().dropped_total(), 0, "an INIT is no packet");
    }
}
