//! This side's certificate.

use crate::trust::Certificate;

/// This side's certificate, and whether it counts under this side's own trust.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnCertificate {
    pub(super) certificate: Option<Certificate>,
    pub(super) counts: bool,
}

impl OwnCertificate {
    /// Returns the certificate if it counts.
    pub(super) fn presented(&self) -> Option<&Certificate> {
        self.certificate.as_ref().filter(|_| self.counts)
    }
}
