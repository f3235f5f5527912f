//! This side as a member of the tenant: keys, identity, certificate, and whom it takes for a member.

use std::{mem, net::IpAddr, sync::Arc};

use super::policy::Policy;
use crate::{
    crypto::{Identity, KeyRing, KeyRingError, PeerId},
    handshake::{Established, Local, PeerIdentity},
    trust::{Certificate, CertificateError, Trust},
};

/// The owner of keys, identity and trust.
#[derive(Debug)]
pub(super) struct Membership {
    keys: Arc<KeyRing>,
    identity: Identity,
    trust: Arc<Trust>,
    certificate: Option<Certificate>,
    /// The certificate counts under this side's own trust.
    counts: bool,
    /// Grows with each change that a decision of the data path may depend on.
    revision: u64,
}

impl Membership {
    pub(super) fn new(
        keys: Arc<KeyRing>,
        identity: Identity,
        trust: Arc<Trust>,
        certificate: Option<Certificate>,
    ) -> Self {
        let mut new = Self { keys, identity, trust, certificate, counts: false, revision: 0 };
        new.judge();
        new
    }

    pub(super) fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Grows with each change that a decision of the data path may depend on.
    #[inline]
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn peer_id(&self) -> PeerId {
        self.identity.peer_id()
    }

    /// Replaces the keys, and returns those before.
    pub(super) fn set_keys(&mut self, keys: Arc<KeyRing>) -> Result<Arc<KeyRing>, KeyRingError> {
        self.keys.check_change(&keys)?;
        Ok(mem::replace(&mut self.keys, keys))
    }

    pub(super) fn set_trust(&mut self, trust: Arc<Trust>) {
        self.trust = trust;
        self.judge();
    }

    /// Replaces the certificate. False: it is the one there was.
    pub(super) fn set_certificate(&mut self, certificate: Option<Certificate>) -> bool {
        if certificate == self.certificate {
            return false;
        }
        self.certificate = certificate;
        self.judge();
        true
    }

    /// Becomes somebody else, without a certificate: it is for one static key.
    pub(super) fn set_identity(&mut self, identity: Identity) {
        self.identity = identity;
        self.certificate = None;
        self.judge();
    }

    fn judge(&mut self) {
        self.counts = self.check().is_ok();
        self.revision += 1;
    }

    /// Checks that this side itself is a member under what it trusts.
    pub(super) fn check(&self) -> Result<(), CertificateError> {
        self.trust.admit(self.keys.tenant_id(), &self.peer_id(), self.certificate.as_ref())
    }

    /// Tells if certificates are asked for.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.trust.authority().is_some()
    }

    /// Tells if certificates are asked for and this side has none that counts.
    pub(super) fn lacks_certificate(&self) -> bool {
        self.asks_for_certificates() && (self.certificate.is_none() || !self.counts)
    }

    /// This side as it enters a handshake.
    pub(super) fn local<'a>(&'a self, policy: &'a Policy) -> Local<'a> {
        let config = policy.config();
        Local::new(&self.keys, config.suite, &self.identity, policy.addresses(), config.vnet)
            .presenting(self.certificate.as_ref().filter(|_| self.counts))
    }

    /// Tells if a peer with this certificate is a member.
    pub(super) fn admits(&self, id: PeerId, certificate: Option<&Certificate>) -> bool {
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
            && (!self.asks_for_certificates()
                || is_listed(established, asked)
                || self.trust.is_service(asked))
    }

    /// Tells if an address may belong to a peer with this certificate: with certificates, one in its own, or a service's.
    pub(super) fn may_own(&self, certificate: Option<&Certificate>, address: IpAddr) -> bool {
        !self.asks_for_certificates()
            || certificate.is_some_and(|certificate| {
                certificate.prefix_of(address).is_some() || self.trust.is_service(address)
            })
    }
}

/// A member, with what it says of itself.
#[derive(Clone, Copy)]
pub(super) struct Claimant<'a> {
    pub(super) member: PeerId,
    pub(super) addresses: &'a [IpAddr],
    pub(super) certificate: Option<&'a Certificate>,
}

impl<'a> Claimant<'a> {
    pub(super) fn new(member: PeerId, identity: &'a PeerIdentity) -> Self {
        Self { member, addresses: &identity.addresses, certificate: identity.certificate.as_ref() }
    }

    /// A member that says nothing but what its certificate does.
    pub(super) fn certified(member: PeerId, certificate: Option<&'a Certificate>) -> Self {
        Self { member, addresses: &[], certificate }
    }

    /// Tells if it names this address as its own: alone, or by a range of its certificate.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
            || self.certificate.is_some_and(|certificate| certificate.prefix_of(address).is_some())
    }
}

/// Tells if the other side names this address: alone, or by a range of its certificate.
pub(super) fn is_listed(established: &Established, address: IpAddr) -> bool {
    Claimant::new(established.peer, &established.identity).names(address)
}
