//! `tencrypt ca`: the tenant's certificate authority.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tencrypt::{
    KeyRing, Seed,
    crypto::PeerId,
    trust::{CertificateAuthority, CertificateFile, PodName, Request},
};
use tencrypt_tun::NetNs;

use crate::{
    control::{self, Reply},
    failure::{Exit, Failure},
    hex::from_hex,
    keys::{
        certificates::{self, AuthorityFileError},
        file as keyfile,
    },
    os::files::MakeError,
};

/// Arguments of `ca issue`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["netns", "public_key"]))]
pub(crate) struct IssueArguments {
    /// The authority's file, with its secret
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The pod's network namespace, in which `tencrypt up` runs: a name below /run/netns, a path, a process id, or an id that `list` prints
    #[arg(long, value_name = "NAME|PATH|PID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    netns: Option<String>,
    /// The pod's public key, as `tencrypt status` shows it
    #[arg(long, value_name = "HEX", requires_all = ["tenant_key", "address"])]
    public_key: Option<String>,
    /// An address of the pod, or a range it stands for; two at most [default with --netns: the pod's own]
    #[arg(long, value_name = "ADDRESS")]
    address: Vec<String>,
    /// The pod's name
    #[arg(long, value_name = "NAME")]
    pod: String,
    /// The tenant's key file, for the tenant id
    #[arg(long, value_name = "FILE", conflicts_with = "netns")]
    tenant_key: Option<PathBuf>,
    /// Generation of the certificate
    #[arg(long, value_name = "N", default_value_t = 1)]
    generation: u32,
    /// The file for the certificate
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// A pod as its certificate is to name it.
struct Subject {
    key: PeerId,
    tenant: [u8; KeyRing::TENANT_LEN],
    /// The pod's own addresses, if they are known.
    addresses: Vec<IpNet>,
}

/// Makes an authority: the secret at `path`, the public key beside it.
///
/// # Errors
/// A [`Failure`] of one line; nothing is written then.
pub(crate) fn init(path: &Path) -> Result<(), Failure> {
    let seed = Seed::try_filled(|seed| getrandom::fill(seed));
    let seed = seed.map_err(|_| AuthorityFileError::from(MakeError::Random))?;
    Ok(certificates::create_authority(path, &CertificateAuthority::from_seed(&seed))?)
}

/// Issues a certificate.
///
/// # Errors
/// A [`Failure`] of one line; nothing is written then.
pub(crate) fn issue(arguments: &IssueArguments) -> Result<(), Failure> {
    let authority = certificates::read_authority(&arguments.ca)?;
    let pod: PodName = arguments.pod.parse().map_err(|error| usage("--pod", error))?;
    let given = arguments.address.iter().map(|text| prefix(text)).collect::<Result<Vec<_>, _>>()?;
    let subject = arguments.subject()?;
    let request = Request {
        tenant: subject.tenant,
        subject: subject.key,
        pod: &pod,
        generation: arguments.generation,
        prefixes: if given.is_empty() { &subject.addresses } else { &given },
    };
    let certificate = authority.issue(&request).map_err(|error| usage("--address", error))?;
    let file = CertificateFile { subject: subject.key, pod, certificate };
    Ok(certificates::write_certificate(&arguments.out, &file)?)
}

impl IssueArguments {
    /// The pod of the running program in `--netns`, or the one of `--public-key`.
    fn subject(&self) -> Result<Subject, Failure> {
        match (&self.netns, &self.public_key, &self.tenant_key) {
            (Some(netns), ..) => Subject::of_running(&NetNs::open(netns)?),
            (None, Some(key), Some(tenant_key)) => {
                let key =
                    from_hex(key).ok_or_else(|| usage("--public-key", "expected 64 hexadecimal digits"))?;
                let tenant = *keyfile::read(tenant_key)?.tenant_id();
                Ok(Subject { key: PeerId::from_bytes(key), tenant, addresses: Vec::new() })
            }
            _ => Err(Failure::new(Exit::Usage, "--public-key needs --tenant-key")),
        }
    }
}

impl Subject {
    /// The pod that a running program protects.
    fn of_running(namespace: &NetNs) -> Result<Self, Failure> {
        let status = match control::client::ask(namespace, &control::Request::Status)? {
            Reply::Status(status) => status.identity,
            other => return Err(other.unexpected()),
        };
        let read = from_hex(&status.public_key).zip(from_hex(&status.tenant));
        let (key, tenant) =
            read.ok_or_else(|| Failure::runtime("the running tencrypt is of another version"))?;
        let first = |v4: bool| status.addresses.iter().find(|address| address.is_ipv4() == v4);
        let own = [first(true), first(false)].into_iter().flatten().map(|address| IpNet::from(*address));
        Ok(Self { key: PeerId::from_bytes(key), tenant, addresses: own.collect() })
    }
}

fn usage(option: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, format_args!("{option}: {reason}"))
}

/// An address, or a range whose host bits are zero.
fn prefix(text: &str) -> Result<IpNet, Failure> {
    let parsed = text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse().ok());
    parsed.ok_or_else(|| usage("--address", format_args!("expected an address, found {text:?}")))
}
