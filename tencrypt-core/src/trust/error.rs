//! Reasons for which a certificate is refused.

/// Reason for which a certificate is refused. On the wire it is a drop: `malformed` for one that is not spelt right,
/// `certificate` for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file that does not begin as one, or is not as long as one.
    #[error("not a certificate file of this version")]
    NotAFile,
    /// A byte that has to be zero is not, or a kind, flag or count has no meaning.
    #[error("a byte that has to be zero is not, or a field has no meaning")]
    Layout,
    /// Neither one nor two prefixes.
    #[error("it has to list one or two addresses")]
    Count,
    /// A prefix that is not spelt as such: family, length, bits behind it, or an address that no pod has.
    #[error("address {0} is none that a pod may have")]
    Prefix(u8),
    /// One prefix lies in the other.
    #[error("one address lies within the other")]
    Overlap,
    /// The pod's name is none, or not the one the id is of.
    #[error("the pod's name is not the one that was signed")]
    Name,
    /// It is for another static key.
    #[error("it is for another key")]
    OtherKey,
    /// The signature does not verify under the authority's key.
    #[error("the signature is not this authority's, or something was changed")]
    Signature,
    /// It is for another tenant.
    #[error("it is for another tenant")]
    OtherTenant,
    /// Its generation is below the minimum.
    #[error("generation {found} is below the minimum of {minimum}")]
    Generation {
        /// The certificate's.
        found: u32,
        /// The least that is accepted.
        minimum: u32,
    },
    /// Its static key or its pod is on the deny list.
    #[error("it was revoked")]
    Denied,
    /// There is none.
    #[error("no certificate")]
    Missing,
}
