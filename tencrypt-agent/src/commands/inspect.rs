//! `tencrypt inspect`: the content of a file of tencrypt's, without its secrets.

use std::{fmt, io::Read as _, path::Path};

use tencrypt::trust::CertificateFile;
use zeroize::Zeroizing;

use crate::{
    commands::output,
    failure::{Exit, Failure},
    hex::to_hex,
    keys::{
        certificates::{self, AuthorityFileError},
        file as keyfile,
    },
    os::files::{self, ReadError},
    report::{
        CertificateReport,
        inspected::{Inspected, KeyFileReport},
    },
};

/// Bytes at the beginning of a file that say what it is: some comments, and its first line.
const HEAD: usize = 4 << 10;

/// The kinds of files, by the beginning of the first line that is no comment.
const KINDS: [(&[u8], Kind); 5] = [
    (b"tencrypt-key-v1", Kind::Keys),
    (b"tencrypt-cert-v1", Kind::Certificate),
    (b"tencrypt-ca-public-v1", Kind::AuthorityKey),
    (b"tencrypt-ca-v1", Kind::Authority),
    (b"tencrypt-revoked-v1", Kind::Revocation),
];

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keys,
    Certificate,
    AuthorityKey,
    Authority,
    Revocation,
}

/// Shows the content of the file at `path`; a certificate verified, if the file of an authority's public key is given.
///
/// # Errors
/// A [`Failure`] of one line: it cannot be read, a secret is open to others, or it is none of these files.
pub(crate) fn inspect(path: &Path, ca: Option<&Path>, json: bool) -> Result<(), Failure> {
    output::print(&output::inspected(&read(path, ca)?, json))
}

fn read(path: &Path, ca: Option<&Path>) -> Result<Inspected, Failure> {
    let kind = kind(path)?;
    if ca.is_some() && kind != Kind::Certificate {
        let reason = "only a certificate is verified by an authority";
        return Err(Failure::new(Exit::Usage, format_args!("--ca: {} is none: {reason}", path.display())));
    }
    Ok(match kind {
        Kind::Keys => Inspected::Keys(KeyFileReport::from(&keyfile::read(path)?)),
        Kind::Certificate => {
            let file = certificates::read_certificate(path)?;
            verify(path, &file, ca)?;
            Inspected::Certificate { certificate: CertificateReport::from(&file), verified: ca.is_some() }
        }
        Kind::Authority => {
            let key = certificates::read_authority(path)?.public_key();
            Inspected::Authority { public_key: to_hex(key.as_bytes()) }
        }
        Kind::AuthorityKey => {
            let key = certificates::read_public_key(path)?;
            Inspected::AuthorityKey { public_key: to_hex(key.as_bytes()) }
        }
        Kind::Revocation => {
            let revocation = certificates::read_revocation(path)?;
            Inspected::Revocation {
                minimum_generation: revocation.minimum_generation(),
                denied: revocation.denied(),
            }
        }
    })
}

fn verify(path: &Path, file: &CertificateFile, ca: Option<&Path>) -> Result<(), Failure> {
    let Some(ca) = ca else { return Ok(()) };
    let authority = certificates::read_public_key(ca)?;
    let verified = file.certificate.verify(&authority, &file.subject);
    Ok(verified.map_err(|source| AuthorityFileError::certificate(path, source))?)
}

/// Finds out what the file is. Its own reader reads it anew, and refuses a secret that others may read.
fn kind(path: &Path) -> Result<Kind, Failure> {
    let refused =
        |reason: &dyn fmt::Display| Failure::new(Exit::Usage, format_args!("{}: {reason}", path.display()));
    let file = files::open_regular(path).map_err(|error| refused(&error))?;
    let mut head = Zeroizing::new(Vec::with_capacity(HEAD));
    file.take(HEAD as u64).read_to_end(&mut head).map_err(|error| refused(&ReadError::from(error)))?;
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#")).unwrap_or_default();
    let found = KINDS.iter().find(|(beginning, _)| first.starts_with(beginning));
    found
        .map(|(_, kind)| *kind)
        .ok_or_else(|| refused(&"is not a certificate file, nor one of keys, an authority or a revocation"))
}
