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
    /// This pod's certificate.
    Certificate(Result<CertificateFile, String>),
    /// The revocation.
    Revocation(Result<Revocation, String>),
}
