//! A Tunnel's parts, before it is one.

use std::sync::Arc;

use super::LaneId;
use crate::{
    config::TunnelConfig,
    crypto::{CipherSuite, Identity, KeyRing},
    directory::Directory,
    trust::{Certificate, Trust},
};

/// Parts of a [`Tunnel`](crate::Tunnel) to be; from [`Tunnel::builder`](crate::Tunnel::builder).
#[derive(Debug)]
#[must_use]
pub struct TunnelBuilder {
    pub(super) config: Arc<TunnelConfig>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) identity: Identity,
    pub(super) lane: LaneId,
    pub(super) directory: Option<Arc<Directory>>,
    pub(super) trust: Arc<Trust>,
    pub(super) certificate: Option<Certificate>,
}

impl TunnelBuilder {
    pub(super) fn new(config: Arc<TunnelConfig>, keys: Arc<KeyRing>, identity: Identity) -> Self {
        Self {
            config,
            keys,
            identity,
            lane: LaneId::ZERO,
            directory: None,
            trust: Arc::new(Trust::key_only()),
            certificate: None,
        }
    }

    /// Sets the facts that are known from the start. Default: none.
    pub fn directory(mut self, directory: impl Into<Arc<Directory>>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Sets what makes another a member of the tenant. Default: the tenant's key alone, without certificates.
    pub fn trust(mut self, trust: impl Into<Arc<Trust>>) -> Self {
        self.trust = trust.into();
        self
    }

    /// Sets the certificate that this side presents, once it counts: see [`Tunnel::own_certificate`](crate::Tunnel::own_certificate). Default: none.
    pub fn certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Sets the lane of the pod that this is. Default: the first. Further lanes are made by [`Tunnel::sibling`](crate::Tunnel::sibling).
    pub fn lane(mut self, lane: LaneId) -> Self {
        self.lane = lane;
        self
    }

    /// Checks that the parts fit each other.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        let (suite, max_datagram) = (self.config.suite, self.config.max_datagram);
        let needs = longest_message(suite);
        if needs > usize::from(max_datagram) {
            return Err(BuildError::SuiteTooLong { suite, needs, max_datagram });
        }
        Ok(())
    }
}

/// A [`Tunnel`](crate::Tunnel) that could never do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The handshake of this suite does not fit the transport.
    #[error(
        "{suite} has handshake messages of {needs} bytes, and datagrams are limited to {max_datagram}: \
         choose a suite without ML-KEM, whose longest has {}, for all members, or raise the limit",
        longest_message(CipherSuite::Aes256Gcm)
    )]
    SuiteTooLong {
        /// The suite.
        suite: CipherSuite,
        /// Bytes of its longest handshake message.
        needs: usize,
        /// Bytes of the longest datagram: [`TunnelConfig::max_datagram`].
        max_datagram: u16,
    },
}

/// Returns the bytes of a suite's longest handshake message.
const fn longest_message(suite: CipherSuite) -> usize {
    if suite.init_len() > suite.resp_len() { suite.init_len() } else { suite.resp_len() }
}
