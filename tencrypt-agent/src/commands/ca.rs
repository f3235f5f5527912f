//! `tencrypt ca`: the tenant's certificate authority and its files. Never half written, the secret refused where others
//! may read it.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tencrypt::{
    Seed,
    crypto::{PeerId, TENANT_LEN, from_hex},
    trust::{
        AuthorityKey, CERTIFICATE_FILE_LEN, CertificateAuthority, CertificateError, CertificateFile, PodName,
        Request, Revocation, TextError,
    },
};
use zeroize::Zeroizing;

use crate::{
    commands::cli::CaCommand,
    commands::output,
    control::{self, Reply},
    failure::{Exit, Failure},
    keys::file as keyfile,
    os::files::{self, ReadError},
    os::netns::NetNsRef,
    report::CertificateReport,
};

/// Longest text file in bytes: a revocation of 13,000 keys.
const LIMIT: u64 = 1 << 20;

/// What is wrong with a file of the authority's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// It cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Others than its owner may read or write the secret.
    #[error("{}: mode {mode:04o} lets others than the owner at it; use `chmod 600`", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A text file's content is wrong.
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
        /// What is wrong.
        source: CertificateError,
    },
    /// `ca init` does not overwrite.
    #[error("{} exists already; an authority's file is never overwritten", .0.display())]
    Exists(PathBuf),
    /// `ca issue` replaces certificates alone.
    #[error("{} exists already and is no certificate; it is left alone", .0.display())]
    NoCertificate(PathBuf),
    /// It cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel gives no randomness.
    #[error("the kernel gives no randomness")]
    Random,
}

impl From<ReadError> for AuthorityError {
    fn from(error: ReadError) -> Self {
        Self::Read { path: PathBuf::new(), reason: error.to_string() }
    }
}

/// `tencrypt ca`.
///
/// # Errors
/// A [`Failure`] of one line; what was to be written is not there then.
pub(crate) fn run(command: CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Init { file } => Ok(init(&file)?),
        CaCommand::Inspect { file, ca, json } => inspect(&file, ca.as_deref(), json),
        CaCommand::Issue { ca, netns, public_key, address, pod, tenant_key, generation, out } => {
            let authority = read_authority(&ca)?;
            let pod = pod.parse().map_err(|error| usage("--pod", error))?;
            let told = address.iter().map(|text| prefix(text)).collect::<Result<Vec<_>, _>>()?;
            let (subject, tenant, own) = match (netns, public_key, tenant_key) {
                (Some(netns), ..) => running(&netns)?,
                (None, Some(key), Some(tenant_key)) => {
                    let wrong = "expected 64 hexadecimal digits";
                    let key = from_hex(&key).ok_or_else(|| usage("--public-key", wrong))?;
                    let tenant = *keyfile::read(&tenant_key)?.tenant_id();
                    (PeerId::from_bytes(key), tenant, Vec::new())
                }
                _ => return Err(Failure::new(Exit::Usage, "--public-key needs --tenant-key")),
            };
            let prefixes = if told.is_empty() { own } else { told };
            issue(&authority, tenant, subject, pod, generation, &prefixes, &out)
        }
    }
}

fn usage(option: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format_args!("{option}: {reason}"))
}

fn init(path: &Path) -> Result<(), AuthorityError> {
    let seed = Seed::try_filled(|seed| getrandom::fill(seed)).map_err(|_| AuthorityError::Random)?;
    let authority = CertificateAuthority::from_seed(&seed);
    let public = public_path(path);
    let write = |path: &Path, text: &str| {
        files::write_new(path, text.as_bytes()).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => AuthorityError::Exists(path.to_owned()),
            _ => AuthorityError::Write { path: path.to_owned(), source },
        })
    };
    // Asked first, so that no secret is left without its public key.
    if fs::symlink_metadata(path).is_ok() {
        return Err(AuthorityError::Exists(path.to_owned()));
    }
    write(&public, &authority.public_key().write())?;
    write(path, &authority.write()).inspect_err(|_| {
        // Of an authority that never was.
        let _ = fs::remove_file(&public);
    })
}

/// `FILE.pub`.
fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Static key, tenant and addresses of the pod that a running program protects.
fn running(netns: &str) -> Result<(PeerId, [u8; TENANT_LEN], Vec<IpNet>), Failure> {
    let status = match control::client::ask(&NetNsRef::open(netns)?, &control::Request::Status)? {
        Reply::Status(status) => status.identity,
        _ => return Err(Failure::runtime("the running tencrypt answered something else: another version?")),
    };
    let read = from_hex(&status.public_key).zip(from_hex(&status.tenant));
    let (key, tenant) = read.ok_or_else(|| Failure::runtime("the running tencrypt is of another version"))?;
    let first = |v4: bool| status.addresses.iter().find(|address| address.is_ipv4() == v4);
    let own = [first(true), first(false)].into_iter().flatten().map(|address| IpNet::from(*address));
    Ok((PeerId::from_bytes(key), tenant, own.collect()))
}

/// An address, or a range whose host bits are zero.
fn prefix(text: &str) -> Result<IpNet, Failure> {
    let parsed = text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok());
    parsed.ok_or_else(|| usage("--address", format_args!("expected an address, found {text:?}")))
}

fn issue(
    authority: &CertificateAuthority,
    tenant: [u8; TENANT_LEN],
    subject: PeerId,
    pod: PodName,
    generation: u32,
    prefixes: &[IpNet],
    out: &Path,
) -> Result<(), Failure> {
    let request = Request { tenant, subject, pod: &pod, generation, prefixes };
    let certificate = authority.issue(&request).map_err(|error| usage("--address", error))?;
    let file = CertificateFile { subject, pod, certificate };
    if fs::symlink_metadata(out).is_ok() {
        let there = files::read_regular::<ReadError>(out, CERTIFICATE_FILE_LEN as u64, |_| Ok(()));
        if !there.is_ok_and(|bytes| CertificateFile::is_one(&bytes)) {
            return Err(AuthorityError::NoCertificate(out.to_owned()).into());
        }
    }
    files::replace(out, &file.to_bytes(), 0o644)
        .map_err(|source| AuthorityError::Write { path: out.to_owned(), source }.into())
}

fn inspect(path: &Path, ca: Option<&Path>, json: bool) -> Result<(), Failure> {
    let file = read_certificate(path)?;
    if let Some(ca) = ca {
        let authority = read_public_key(ca)?;
        let wrong = |source| AuthorityError::Certificate { path: path.to_owned(), source };
        file.certificate.verify(&authority, &file.subject).map_err(wrong)?;
    }
    output::print(&output::certificate(&CertificateReport::from(&file), ca.is_some(), json))
}

fn read_text(
    path: &Path,
    admit: impl FnOnce(&fs::Metadata) -> Result<(), AuthorityError>,
) -> Result<Zeroizing<String>, AuthorityError> {
    let wrong = |reason: &str| AuthorityError::Read { path: path.to_owned(), reason: reason.to_owned() };
    let bytes = files::read_regular(path, LIMIT, admit).map_err(|error| match error {
        AuthorityError::Read { reason, .. } => wrong(&reason),
        AuthorityError::Exposed { mode, .. } => AuthorityError::Exposed { path: path.to_owned(), mode },
        other => other,
    })?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        wrong("is not text")
    })
}

fn read_authority(path: &Path) -> Result<CertificateAuthority, AuthorityError> {
    let text = read_text(path, |metadata| match metadata.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(AuthorityError::Exposed { path: PathBuf::new(), mode }),
        _ => Ok(()),
    })?;
    CertificateAuthority::parse(&text)
        .map_err(|source| AuthorityError::Content { path: path.to_owned(), source })
}

/// The authority's public key in the file at `path`.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read_public_key(path: &Path) -> Result<AuthorityKey, AuthorityError> {
    let text = read_text(path, |_| Ok(()))?;
    AuthorityKey::parse(&text).map_err(|source| AuthorityError::Content { path: path.to_owned(), source })
}

/// What the file at `path` revokes.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read_revocation(path: &Path) -> Result<Revocation, AuthorityError> {
    let text = read_text(path, |_| Ok(()))?;
    Revocation::parse(&text).map_err(|source| AuthorityError::Content { path: path.to_owned(), source })
}

/// The certificate in the file at `path`; whether it counts is not looked at.
///
/// # Errors
/// It cannot be read, or is malformed.
pub(crate) fn read_certificate(path: &Path) -> Result<CertificateFile, AuthorityError> {
    let wrong = |source| AuthorityError::Certificate { path: path.to_owned(), source };
    match files::read_regular::<ReadError>(path, CERTIFICATE_FILE_LEN as u64, |_| Ok(())) {
        Ok(bytes) => CertificateFile::parse(&bytes).map_err(wrong),
        Err(ReadError::TooLong { .. }) => Err(wrong(CertificateError::NotAFile)),
        Err(error) => Err(AuthorityError::Read { path: path.to_owned(), reason: error.to_string() }),
    }
}
