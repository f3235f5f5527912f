//! Certificates: who is a member, and who speaks for which address.

use std::{net::IpAddr, sync::Arc, time::Instant};

use super::{
    Tunnel,
    peer::{IndexUse, PeerKey},
    timer::Timer,
};
use crate::{
    crypto::{DEEP, wipe_stack},
    event::Event,
    handshake::Established,
    stats::DropReason,
    trust::{Certificate, CertificateError, Trust},
};

impl Tunnel {
    /// Replaces what this side trusts. A peer that is no member under it loses its sessions at once, in both directions,
    /// with the packets that wait for it; so do all peers if this side itself is none any more.
    pub fn set_trust(&mut self, trust: Arc<Trust>, now: Instant) {
        self.judge_anew(trust, now);
        wipe_stack::<DEEP>();
    }

    #[inline(never)]
    fn judge_anew(&mut self, trust: Arc<Trust>, now: Instant) {
        self.now = now;
        self.recent.forget();
        self.trust = trust;
        self.judge_own();
        let none_counts = self.lacks_certificate();
        for key in self.peers.keys() {
            let Some(peer) = self.peers.find(key) else { continue };
            if none_counts || !self.admits(peer.id, peer.certificate.as_ref()) {
                self.expel(key, now);
            } else {
                self.keep_certified(key);
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
        let own = self.present(certificate, now);
        wipe_stack::<DEEP>();
        own
    }

    #[inline(never)]
    fn present(&mut self, certificate: Option<Certificate>, now: Instant) -> Result<(), CertificateError> {
        self.now = now;
        self.recent.forget();
        if certificate == self.own.certificate {
            return self.own_certificate();
        }
        self.own.certificate = certificate;
        self.judge_own();
        for key in self.peers.keys() {
            if self.lacks_certificate() {
                self.expel(key, now);
            } else if let Some(peer) = self.peers.find_mut(key) {
                peer.sessions.iter_mut().for_each(|session| session.rekey_at = now);
            }
        }
        self.own_certificate()
    }

    /// Checks that this side itself is a member under what it trusts. If not, nothing of the tenant leaves or comes in.
    ///
    /// # Errors
    /// [`CertificateError`], the reason.
    pub fn own_certificate(&self) -> Result<(), CertificateError> {
        let certificate = self.own.certificate.as_ref();
        self.trust.admit(self.keys.tenant_id(), &self.identity.peer_id(), certificate)
    }

    pub(super) fn judge_own(&mut self) {
        self.own.counts = self.own_certificate().is_ok();
    }

    /// Tells if certificates are asked for and this side has none that counts.
    pub(super) fn lacks_certificate(&self) -> bool {
        self.trust.authority().is_some() && self.own.presented().is_none()
    }

    fn admits(&self, id: crate::crypto::PeerId, certificate: Option<&Certificate>) -> bool {
        self.trust.admit(self.keys.tenant_id(), &id, certificate).is_ok()
    }

    /// Tells if the other side of a finished handshake is a member.
    pub(super) fn is_member(&self, established: &Established) -> bool {
        !self.lacks_certificate() && self.admits(established.peer, established.identity.certificate.as_ref())
    }

    /// Tells if it may also answer for the address that was asked: with certificates, for one in its own, or a
    /// service's.
    pub(super) fn may_answer(&self, established: &Established, asked: IpAddr) -> bool {
        self.is_member(established)
            && (self.trust.authority().is_none()
                || is_listed(established, asked)
                || self.trust.is_service(asked))
    }

    /// Refuses an answer of a holder of the tenant's key that must not speak for `asked`: the handshake is over, and
    /// the address is of the tenant all the same, so that nothing goes there in plain.
    pub(super) fn refuse_answer(&mut self, destination: IpAddr, asked: IpAddr, now: Instant) {
        if let Some(flight) = self.asks.find_mut(destination).and_then(|ask| ask.flight.take()) {
            self.peers.release_index(flight.index);
        }
        if let Some(ask) = self.asks.find_mut(destination) {
            ask.internal = true;
        }
        if self.view().is_protected(asked) {
            self.recent.forget();
            self.delta.stick(asked);
            self.announced.remove(&asked);
            self.push_event(Event::Internal { destination: asked });
        }
        self.gave_up(destination, now);
    }

    /// Tells if an address may belong to this peer: with certificates, one in its own, or a service's.
    pub(super) fn may_own(&self, key: PeerKey, address: IpAddr) -> bool {
        if self.trust.authority().is_none() {
            return true;
        }
        let certificate = self.peers.find(key).and_then(|peer| peer.certificate.as_ref());
        certificate.is_some_and(|certificate| {
            certificate.prefix_of(address).is_some() || self.trust.is_service(address)
        })
    }

    /// Gives `address` to a peer whose certificate lists it, unless somebody else's lists it as narrowly: the certificate
    /// is the proof.
    pub(super) fn claim_certified(&mut self, key: PeerKey, address: IpAddr) {
        if self.trust.authority().is_none() {
            return;
        }
        let length = |key: PeerKey| {
            let certificate = self.peers.find(key)?.certificate.as_ref()?;
            certificate.prefix_of(address).map(|prefix| prefix.prefix_len())
        };
        let owner = self.peers.owner(address);
        if owner != Some(key) && length(key) > owner.and_then(length) {
            self.make_owner(key, address);
        }
    }

    /// Takes from a peer what its certificate does not list.
    pub(super) fn keep_certified(&mut self, key: PeerKey) {
        if self.trust.authority().is_none() {
            return;
        }
        let Some(peer) = self.peers.find(key) else { return };
        let kept: Vec<IpAddr> =
            peer.owned.iter().copied().filter(|address| self.may_own(key, *address)).collect();
        if kept.len() < peer.owned.len() {
            self.recent.forget();
            self.peers.disown(key, |address| kept.contains(&address));
        }
    }

    /// Ends all that there is with a peer that is no member.
    fn expel(&mut self, key: PeerKey, now: Instant) {
        self.stats.drop_many(DropReason::Certificate, self.outbox.drop_for(key));
        self.timers.cancel(Timer::Peer(key));
        let Some(peer) = self.peers.remove(key, now) else { return };
        for session in &peer.sessions {
            self.peers.bind_index(session.local, IndexUse::Refused);
        }
        if self.peers.lanes(peer.id).next().is_none() {
            self.push_event(Event::PeerDown { peer: peer.id });
        }
    }
}

/// Tells if the other side names this address: alone, or by a range of its certificate.
pub(super) fn is_listed(established: &Established, address: IpAddr) -> bool {
    let identity = &established.identity;
    identity.addresses.contains(&address)
        || identity.certificate.as_ref().is_some_and(|certificate| certificate.prefix_of(address).is_some())
}
