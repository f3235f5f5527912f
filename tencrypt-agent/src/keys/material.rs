//! Keys, certificates and revocations on their way to a running program.

use tencrypt::{
    KeyRing,
    trust::{CertificateFile, Revocation},
};

/// Something new for a running program, from a file or from the node's agent; or why there is none, in a line for `status`.
#[derive(Debug)]
pub(crate) enum Material {
    /// The tenant's keys.
    Keys(Result<KeyRing, String>),
    /// This pod's certificate, the revocation, or both, which were changed together.
    Credentials {
        /// The certificate.
        certificate: Option<Result<CertificateFile, String>>,
        /// The revocation.
        revocation: Option<Result<Revocation, String>>,
    },
}

impl Material {
    /// A certificate alone.
    pub(crate) fn certificate(came: Result<CertificateFile, String>) -> Self {
        Self::Credentials { certificate: Some(came), revocation: None }
    }

    /// A revocation alone.
    pub(crate) fn revocation(came: Result<Revocation, String>) -> Self {
        Self::Credentials { certificate: None, revocation: Some(came) }
    }
}
