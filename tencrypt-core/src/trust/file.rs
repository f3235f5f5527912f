//! A certificate on disk: with the static key it is for, and the pod's whole name.

use super::{Certificate, CertificateError, PodId, PodName};
use crate::{crypto::PeerId, record::IDENTITY_LEN};

const MAGIC: &[u8; 16] = b"tencrypt-cert-v1";
/// Bytes of the name's place: its length, then the name, then zeros.
const NAME_LEN: usize = 1 + PodName::MAX_LEN;
const PADDING: usize = 2;

/// Bytes of a certificate file. None of them is without meaning.
pub(crate) const CERTIFICATE_FILE_LEN: usize = MAGIC.len() + 32 + IDENTITY_LEN + NAME_LEN + PADDING;

const _: () = assert!(CERTIFICATE_FILE_LEN == 448);

/// Content of a certificate file. The name is the one that was signed, by its id; the rest
/// [`Trust::admit`](super::Trust::admit) has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the caller takes it apart")]
pub struct CertificateFile {
    /// The static key.
    pub subject: PeerId,
    /// The pod's name.
    pub pod: PodName,
    /// The certificate.
    pub certificate: Certificate,
}

impl CertificateFile {
    /// Bytes of a certificate file. None of them is without meaning.
    pub const LEN: usize = CERTIFICATE_FILE_LEN;

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`CertificateError`]: any byte is not as docs/wire-format.md says.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let bytes: &[u8; CERTIFICATE_FILE_LEN] = bytes.try_into().map_err(|_| CertificateError::NotAFile)?;
        let (magic, rest) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(CertificateError::NotAFile);
        }
        let (subject, rest) = rest.split_first_chunk().ok_or(CertificateError::NotAFile)?;
        let (slot, rest) = rest.split_first_chunk().ok_or(CertificateError::NotAFile)?;
        let (certificate, vnet) = Certificate::decode(slot)?;
        if vnet {
            return Err(CertificateError::Layout);
        }
        let (&len, rest) = rest.split_first().ok_or(CertificateError::NotAFile)?;
        let (name, zeros) = rest.split_at_checked(len.into()).ok_or(CertificateError::Name)?;
        if zeros.len() < PADDING {
            return Err(CertificateError::Name);
        }
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(CertificateError::Layout);
        }
        let name = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        let pod: PodName = name.ok_or(CertificateError::Name)?;
        if PodId::of(&pod) != certificate.pod() {
            return Err(CertificateError::Name);
        }
        Ok(Self { subject: PeerId::from_bytes(*subject), pod, certificate })
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CERTIFICATE_FILE_LEN] {
        let mut bytes = [0; CERTIFICATE_FILE_LEN];
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        magic.copy_from_slice(MAGIC);
        let (subject, rest) = rest.split_at_mut(32);
        subject.copy_from_slice(self.subject.as_bytes());
        let (slot, rest) = rest.split_at_mut(IDENTITY_LEN);
        slot.copy_from_slice(&self.certificate.encode(false));
        let name = self.pod.as_str().as_bytes();
        rest[0] = name.len() as u8;
        rest[1..=name.len()].copy_from_slice(name);
        bytes
    }

    /// Tells if bytes begin as a certificate file does: what may be replaced by a newer one.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.len() == CERTIFICATE_FILE_LEN && bytes.starts_with(MAGIC)
    }
}
