//! The files of the tenant's certificate authority: its secret and public key, certificates, and what is revoked. Never
//! half written, the secret refused where others may read it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tencrypt::{
    TextError,
    trust::{AuthorityKey, CertificateAuthority, CertificateError, CertificateFile, Revocation},
};
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure},
    os::files::{self, Access, MakeError, ReadError},
};

/// Longest text file in bytes: a revocation of 13,000 keys.
const MAX_FILE_LEN: u64 = 1 << 20;

/// A file of the authority's that cannot be used, or cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The obstacle.
        source: ReadError,
    },
    /// The content of a text file is wrong.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line and reason.
        source: TextError,
    },
    /// A certificate is wrong.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The rule that it breaks.
        source: CertificateError,
    },
    /// `ca issue` replaces certificates alone.
    #[error("{} exists already and is no certificate; it is left alone", .0.display())]
    NoCertificate(PathBuf),
    /// It cannot be made.
    #[error(transparent)]
    Make(#[from] MakeError),
}

impl AuthorityFileError {
    /// The certificate in the file at `path` breaks a rule.
    pub(crate) fn certificate(path: &Path, source: CertificateError) -> Self {
        Self::Certificate { path: path.to_owned(), source }
    }
}

impl From<AuthorityFileError> for Failure {
    fn from(error: AuthorityFileError) -> Self {
        let exit = if let AuthorityFileError::Make(error) = &error { error.exit() } else { Exit::Usage };
        Self::new(exit, error)
    }
}

/// Makes the two files of a new authority: its secret at `path`, and beside it the public key, with `.pub` behind the
/// name.
///
/// # Errors
/// Either is there already, or cannot be made; then neither is left behind.
pub(crate) fn create_authority(
    path: &Path,
    authority: &CertificateAuthority,
) -> Result<(), AuthorityFileError> {
    let public = public_path(path);
    // Asked first, so that no secret is left without its public key.
    if fs::symlink_metadata(path).is_ok() {
        return Err(MakeError::Exists(path.to_owned()).into());
    }
    files::write_new(&public, authority.public_key().write().as_bytes())?;
    files::write_new(path, authority.write().as_bytes()).inspect_err(|_| {
        // Of an authority that never was.
        let _ = fs::remove_file(&public);
    })?;
    Ok(())
}

/// Reads the authority's secret in the file at `path`.
///
/// # Errors
/// It cannot be read, others than its owner may read it, or it is malformed.
pub(crate) fn read_authority(path: &Path) -> Result<CertificateAuthority, AuthorityFileError> {
    let text = read_text(path, Access::OwnerAlone)?;
    CertificateAuthority::parse(&text).map_err(|source| malformed(path, source))
}

/// Reads the authority's public key in the file at `path`.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read_public_key(path: &Path) -> Result<AuthorityKey, AuthorityFileError> {
    let text = read_text(path, Access::Anyone)?;
    AuthorityKey::parse(&text).map_err(|source| malformed(path, source))
}

/// Reads the revocation in the file at `path`.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read_revocation(path: &Path) -> Result<Revocation, AuthorityFileError> {
    let text = read_text(path, Access::Anyone)?;
    Revocation::parse(&text).map_err(|source| malformed(path, source))
}

/// Reads the certificate in the file at `path`. It may be one that does not count.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read_certificate(path: &Path) -> Result<CertificateFile, AuthorityFileError> {
    let wrong = |source| AuthorityFileError::certificate(path, source);
    match files::read_regular(path, CertificateFile::LEN as u64, Access::Anyone) {
        Ok(bytes) => CertificateFile::parse(&bytes).map_err(wrong),
        Err(ReadError::TooLong { .. }) => Err(wrong(CertificateError::NotAFile)),
        Err(source) => Err(AuthorityFileError::Read { path: path.to_owned(), source }),
    }
}

/// Writes a certificate to the file at `path`, in place of another one if there is one.
///
/// # Errors
/// Something else is there, or the file cannot be made.
pub(crate) fn write_certificate(
    path: &Path,
    certificate: &CertificateFile,
) -> Result<(), AuthorityFileError> {
    if fs::symlink_metadata(path).is_ok() {
        let there = files::read_regular(path, CertificateFile::LEN as u64, Access::Anyone);
        if !there.is_ok_and(|bytes| CertificateFile::is_one(&bytes)) {
            return Err(AuthorityFileError::NoCertificate(path.to_owned()));
        }
    }
    files::replace(path, &certificate.to_bytes(), 0o644)
        .map_err(|source| MakeError::Write { path: path.to_owned(), source }.into())
}

/// `FILE.pub`.
fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn read_text(path: &Path, access: Access) -> Result<Zeroizing<String>, AuthorityFileError> {
    files::read_text(path, MAX_FILE_LEN, access)
        .map_err(|source| AuthorityFileError::Read { path: path.to_owned(), source })
}

fn malformed(path: &Path, source: TextError) -> AuthorityFileError {
    AuthorityFileError::Content { path: path.to_owned(), source }
}
