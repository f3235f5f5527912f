//! `up` and `down`.

use std::path::Path;

use zeroize::Zeroizing;

use crate::{
    config::Config,
    control::{self, Reply, Request, client::ClientError},
    failure::{Exit, Failure},
    keyfile,
    netns::NetNsRef,
    rundir::{Hold, RunDir},
    sys,
};

/// Everything that is checked before anything is touched.
#[derive(Debug)]
struct Prepared {
    _config: Config,
    _key: Zeroizing<String>,
    _namespace: NetNsRef,
    _hold: Hold,
}

/// Protects the namespace `netns` until the process is told to end.
///
/// # Errors
/// A [`Failure`]; nothing is left behind then.
pub fn up(netns: &str, config: &Path) -> Result<(), Failure> {
    let _prepared = prepare(netns, config)?;
    Err(Failure::runtime("the data path is not part of this build"))
}

/// Ends protection of the namespace `netns`.
///
/// # Errors
/// A [`Failure`].
pub fn down(netns: &str) -> Result<(), Failure> {
    match control::client::ask(&NetNsRef::open(netns)?, &Request::Stop)? {
        Reply::Stopping => Ok(()),
        Reply::Refused(reason) => Err(Failure::runtime(reason)),
        _ => Err(ClientError::Garbled.into()),
    }
}

fn prepare(netns: &str, config: &Path) -> Result<Prepared, Failure> {
    sys::protect_memory()
        .map_err(|error| Failure::runtime(format_args!("cannot keep keys out of core dumps: {error}")))?;
    let config = Config::read(config)?;
    let key = keyfile::read(&config.tenant.key_file)?;
    let namespace = NetNsRef::open(netns)?;
    let own = NetNsRef::open("/proc/self/ns/net")?;
    if namespace.id() == own.id() {
        let reason = "this is the host's own network namespace; name a pod's";
        return Err(Failure::new(Exit::Usage, reason));
    }
    let hold = RunDir::create()?.hold(namespace.id())?;
    Ok(Prepared { _config: config, _key: key, _namespace: namespace, _hold: hold })
}
