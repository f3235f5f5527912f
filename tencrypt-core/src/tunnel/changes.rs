//! Changes of what makes a member: keys, trust, certificates.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Tunnel, limits::CHANGE_SPREAD, peer_key::PeerKey};
use crate::{
    crypto::{DEEP, KeyRing, KeyRingError, wipe_stack},
    stats::DropReason,
    trust::{Certificate, CertificateError, Trust},
};

impl Tunnel {
    /// Replaces the keys. Sessions and handshakes under epochs that are no longer held end at once; sessions under one
    /// that is held and no longer sent are replaced within 4 s of traffic, before they end.
    ///
    /// # Errors
    /// [`KeyRingError::OtherTenant`] or [`KeyRingError::OtherKey`] (for an epoch that is in use). Those before
    /// stay in force.
    pub fn set_keys(&mut self, keys: Arc<KeyRing>, now: Instant) -> Result<(), KeyRingError> {
        let before = self.membership.set_keys(keys)?;
        self.now = now;
        self.change_keys(&before, now);
        wipe_stack::<DEEP>();
        Ok(())
    }

    /// Ends at once what is under an epoch that is no longer held; sessions under one that is no longer sent are
    /// replaced soon, each in its own time, while they go on.
    #[inline(never)]
    fn change_keys(&mut self, before: &KeyRing, now: Instant) {
        let keys = self.membership.keys().clone();
        if before.epochs().any(|epoch| !keys.holds(epoch)) {
            self.revoke(&keys, now);
        }
        if before.send_epoch() != keys.send_epoch() {
            self.exchanges.forget_given_up();
            for key in self.peers.keys() {
                let random = self.rng.u32();
                self.peers.hasten(key, |session| {
                    let outdated = session.epoch() != keys.send_epoch();
                    outdated.then(|| now + spread(session.is_initiator(), random))
                });
            }
        }
    }

    fn revoke(&mut self, keys: &KeyRing, now: Instant) {
        for key in self.peers.keys() {
            self.peers.end_sessions(key, |session| !keys.holds(session.epoch()), now, &mut self.outbox);
        }
        let (exchanges, mut cx) = self.exchanging(now);
        let dropped = exchanges.revoke(&mut cx);
        self.stats.drop_many(DropReason::OtherEpoch, dropped);
    }

    /// Replaces what this side trusts. A peer that is no member under it loses its sessions at once, in both directions,
    /// with the packets that wait for it; so do all peers if this side itself is none any more.
    pub fn set_trust(&mut self, trust: Arc<Trust>, now: Instant) {
        self.now = now;
        self.membership.set_trust(trust);
        self.judge_peers(now);
        wipe_stack::<DEEP>();
    }

    #[inline(never)]
    fn judge_peers(&mut self, now: Instant) {
        let none_counts = self.membership.lacks_certificate();
        for key in self.peers.keys() {
            let Some(peer) = self.peers.find(key) else { continue };
            if none_counts || !self.membership.admits(peer.id(), peer.certificate()) {
                self.expel(key, now);
            } else {
                self.keep_certified(key, now);
            }
        }
    }

    /// Replaces the certificate that this side presents. It need not count yet: it is presented once it does. Sessions
    /// are replaced as they are sent on, so that peers learn of it.
    ///
    /// # Errors
    /// [`CertificateError`]: under what this side trusts it does not count, and nothing is presented.
    pub fn set_certificate(
        &mut self,
        certificate: Option<Certificate>,
        now: Instant,
    ) -> Result<(), CertificateError> {
        self.now = now;
        if self.membership.set_certificate(certificate) {
            self.exchanges.forget_given_up();
            self.present_anew(now);
        }
        wipe_stack::<DEEP>();
        self.own_certificate()
    }

    #[inline(never)]
    fn present_anew(&mut self, now: Instant) {
        for key in self.peers.keys() {
            if self.membership.lacks_certificate() {
                self.expel(key, now);
            } else {
                self.peers.hasten(key, |_| Some(now));
            }
        }
    }

    /// Checks that this side itself is a member under what it trusts. If not, nothing of the tenant leaves or comes in.
    ///
    /// # Errors
    /// [`CertificateError`], the reason.
    pub fn own_certificate(&self) -> Result<(), CertificateError> {
        self.membership.check()
    }

    /// Tells if an address may belong to this peer: with certificates, one in its own, or a service's.
    pub(super) fn may_own(&self, key: PeerKey, address: IpAddr) -> bool {
        let certificate = self.peers.find(key).and_then(|peer| peer.certificate());
        self.membership.may_own(certificate, address)
    }

    /// Ends all that there is with a peer that is no member.
    fn expel(&mut self, key: PeerKey, now: Instant) {
        self.stats.drop_many(DropReason::Certificate, self.outbox.drop_for(key));
        if let Some(member) = self.peers.find(key).map(|peer| peer.id()) {
            self.take_all_from(member, now);
        }
        self.peers.refuse(key, now, &mut self.outbox);
    }
}

/// Time after a change for which a session goes on before it is replaced: the responder leaves its initiator the
/// chance.
pub(super) fn spread(initiated: bool, random: u32) -> Duration {
    let drawn = CHANGE_SPREAD.mul_f64(f64::from(random) / f64::from(u32::MAX));
    if initiated { drawn } else { CHANGE_SPREAD + drawn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_responder_leaves_its_initiator_the_chance() {
        assert_eq!((spread(true, 0), spread(true, u32::MAX)), (Duration::ZERO, CHANGE_SPREAD));
        assert_eq!((spread(false, 0), spread(false, u32::MAX)), (CHANGE_SPREAD, 2 * CHANGE_SPREAD));
    }
}
