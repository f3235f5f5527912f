//! The content of a file, as `inspect` shows it.

use std::collections::BTreeMap;

use serde::Serialize;
use tencrypt::KeyRing;

use super::{CertificateReport, fingerprints};
use crate::hex::to_hex;

/// The content of a file, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Inspected {
    /// A tenant's keys.
    Keys(KeyFileReport),
    /// A certificate.
    Certificate {
        /// Its content.
        #[serde(flatten)]
        certificate: CertificateReport,
        /// True if its signature is that of the authority that was named.
        verified: bool,
    },
    /// An authority's secret.
    Authority {
        /// Its public key in hex.
        public_key: String,
    },
    /// An authority's public key.
    AuthorityKey {
        /// The key in hex.
        public_key: String,
    },
    /// A revocation.
    Revocation {
        /// The least generation that counts.
        minimum_generation: u32,
        /// Keys and pods that are denied.
        denied: usize,
    },
}

/// Keys of a tenant, as `inspect` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KeyFileReport {
    /// The tenant id in hex.
    pub tenant: String,
    /// The epoch that new sessions start under.
    pub send: u8,
    /// The epochs that are accepted, with the fingerprint of each one's key in hex.
    pub fingerprints: BTreeMap<u8, String>,
}

impl From<&KeyRing> for KeyFileReport {
    fn from(keys: &KeyRing) -> Self {
        let (tenant, send) = (to_hex(keys.tenant_id()), keys.send_epoch());
        Self { tenant, send, fingerprints: fingerprints(keys) }
    }
}
