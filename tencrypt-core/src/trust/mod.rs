//! Whom this side takes for a member: certificates, the authority that signs them, and what was revoked.
//!
//! Without an authority a peer is a member because it holds the tenant's key, and an address is its own by what it has
//! shown (`Tunnel`). With one it also needs a [`Certificate`] of the tenant, and speaks for the addresses in it alone.
//! docs/wire-format.md, a file of this package, has the bytes.

mod authority;
mod authority_key;
mod certificate;
mod error;
mod file;
mod revocation;
mod text;

use std::net::IpAddr;

use ipnet::IpNet;

pub(crate) use self::certificate::KIND_CERTIFICATE;
pub use self::{
    authority::{CertificateAuthority, Request},
    authority_key::AuthorityKey,
    certificate::{Certificate, PodId, PodName},
    error::CertificateError,
    file::CertificateFile,
    revocation::Revocation,
};
use crate::crypto::{PeerId, TENANT_LEN};

/// Whom this side takes for a member, shared by all lanes. Start from [`key_only`](Self::key_only) or
/// [`certificates`](Self::certificates).
#[derive(Debug, Clone, Default)]
pub struct Trust {
    authority: Option<AuthorityKey>,
    services: Box<[IpNet]>,
    revocation: Revocation,
}

impl Trust {
    /// Whoever holds the tenant's key.
    #[must_use]
    pub fn key_only() -> Self {
        Self::default()
    }

    /// Of those who hold the tenant's key, the ones with a certificate by `authority`.
    ///
    /// `services` are the ranges of service addresses. A pod that answers at one of those may serve it though its
    /// certificate does not list it; everywhere else whoever answers must be certified for the address.
    pub fn certificates(authority: AuthorityKey, services: impl IntoIterator<Item = IpNet>) -> Self {
        let services = services.into_iter().map(|range| range.trunc()).collect();
        Self { authority: Some(authority), services, revocation: Revocation::default() }
    }

    /// The same with this revocation, in place of the one before.
    #[must_use]
    pub fn with_revocation(self, revocation: Revocation) -> Self {
        Self { revocation, ..self }
    }

    /// The authority's key; `None`: certificates are not asked for.
    #[must_use]
    pub fn authority(&self) -> Option<&AuthorityKey> {
        self.authority.as_ref()
    }

    /// Returns the revocation in force.
    #[must_use]
    pub fn revocation(&self) -> &Revocation {
        &self.revocation
    }

    /// Checks that a pod that holds the static key `subject` and presents `certificate` is a member of `tenant`.
    ///
    /// # Errors
    /// [`CertificateError`]; never without an authority.
    pub fn admit(
        &self,
        tenant: &[u8; TENANT_LEN],
        subject: &PeerId,
        certificate: Option<&Certificate>,
    ) -> Result<(), CertificateError> {
        let Some(authority) = &self.authority else { return Ok(()) };
        let certificate = certificate.ok_or(CertificateError::Missing)?;
        certificate.verify(authority, subject)?;
        self.still_admits(tenant, subject, certificate)
    }

    /// The same for a certificate whose signature was verified before, under the same authority.
    pub(crate) fn still_admits(
        &self,
        tenant: &[u8; TENANT_LEN],
        subject: &PeerId,
        certificate: &Certificate,
    ) -> Result<(), CertificateError> {
        if certificate.tenant() != tenant {
            return Err(CertificateError::OtherTenant);
        }
        self.revocation.admits(subject, certificate)
    }

    /// Tells if `address` is a service's, which no certificate lists.
    pub(crate) fn is_service(&self, address: IpAddr) -> bool {
        self.services.iter().any(|range| range.contains(&address))
    }
}

#[cfg(test)]
mod tests;
