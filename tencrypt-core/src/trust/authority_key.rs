//! Public key that certificates are verified with.

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};

use super::{error::CertificateError, text};
use crate::text::{TextError, TrustFileProblem};

const PUBLIC_FILE: text::Format = text::Format { first_line: "tencrypt-ca-public-v1", field: "public" };

/// The public key of a [`CertificateAuthority`](super::CertificateAuthority).
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityKey(VerifyingKey);

impl AuthorityKey {
    pub(super) fn new(key: VerifyingKey) -> Self {
        Self(key)
    }

    /// The key in the text of its file:
    ///
    /// ```text
    /// tencrypt-ca-public-v1
    /// public <32 bytes in hex>
    /// ```
    ///
    /// # Errors
    /// [`TextError`], with the line and what is wrong there. A key of low order, under which anybody can sign, is
    /// refused.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let (bytes, line) = PUBLIC_FILE.parse(text)?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            _ => Err(TrustFileProblem::NoPublicKey.at(line)),
        }
    }

    /// The text of its file.
    #[must_use]
    pub fn write(&self) -> String {
        PUBLIC_FILE.write(self.0.as_bytes()).to_string()
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// As RFC 8032 section 5.1.7 verifies, and strictly: no component of low order, so that a signature is good under one
    /// key and for one message.
    pub(super) fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), CertificateError> {
        self.0.verify_strict(message, signature).map_err(|_| CertificateError::Signature)
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityKey(")?;
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
