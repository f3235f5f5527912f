//! Authority that signs certificates, and the key that they are verified with.

use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{AuthorityKey, Certificate, CertificateError, PodName, certificate::PodId, text};
use crate::{
    crypto::{PeerId, Seed, TENANT_LEN},
    text::{TextError, TrustFileProblem},
};

const SECRET_FILE: text::Format = text::Format { first_line: "tencrypt-ca-v1", field: "secret" };

/// Statement that an authority is to certify.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "the caller says all of it")]
pub struct Request<'a> {
    /// The tenant's 16 bytes.
    pub tenant: [u8; TENANT_LEN],
    /// The static key.
    pub subject: PeerId,
    /// The pod's name.
    pub pod: &'a PodName,
    /// The generation: raised when what was issued before is to lose its worth.
    pub generation: u32,
    /// One or two addresses or ranges, none within the other, host bits zero.
    pub prefixes: &'a [IpNet],
}

/// The tenant's certificate authority: an Ed25519 key pair. It belongs where certificates are issued, and nowhere near a
/// pod. Not `Clone`, printed redacted, erased on drop.
pub struct CertificateAuthority(Box<SigningKey>);

impl CertificateAuthority {
    /// The authority whose secret is `seed`, which must be fresh and used for nothing else.
    #[must_use]
    pub fn from_seed(seed: &Seed) -> Self {
        Self(Box::new(SigningKey::from_bytes(seed.expose())))
    }

    /// The authority in the text of its file:
    ///
    /// ```text
    /// tencrypt-ca-v1
    /// secret <32 bytes in hex>
    /// ```
    ///
    /// # Errors
    /// [`TextError`], with the line and what is wrong there; never with any of the text.
    pub fn parse(text: &str) -> Result<Self, TextError> {
        let (secret, line) = SECRET_FILE.parse(text)?;
        if secret.iter().all(|byte| *byte == secret[0]) {
            return Err(TrustFileProblem::WeakSecret.at(line));
        }
        Ok(Self(Box::new(SigningKey::from_bytes(&secret))))
    }

    /// The text of its file.
    #[must_use]
    pub fn write(&self) -> Zeroizing<String> {
        SECRET_FILE.write(self.0.as_bytes())
    }

    /// Returns the key that its signatures are verified with.
    #[must_use]
    pub fn public_key(&self) -> AuthorityKey {
        AuthorityKey::new(self.0.verifying_key())
    }

    /// Signs a certificate.
    ///
    /// # Errors
    /// [`CertificateError::Count`], [`CertificateError::Prefix`] or [`CertificateError::Overlap`]: the addresses cannot
    /// stand in one.
    pub fn issue(&self, request: &Request<'_>) -> Result<Certificate, CertificateError> {
        let unsigned = Certificate::unsigned(
            request.tenant,
            PodId::of(request.pod),
            request.generation,
            request.prefixes,
        )?;
        Ok(unsigned.signed(|message| self.0.sign(message), &request.subject))
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}
