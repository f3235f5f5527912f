//! The supervisor of a pod: it sets everything up in order, keeps it in line with what changes, and takes it down.

mod agent_channel;
mod by_end;
pub(crate) mod clone_guard;
pub(crate) mod dns;
mod dns_proxy;
mod errors;
pub(crate) mod externals;
pub(crate) mod fact_base;
mod firewall;
mod inputs;
mod installed;
pub(crate) mod namespace;
mod own_addresses;
mod plan;
pub(crate) mod pod_end;
mod resolv_conf;
mod run;
mod setup;
mod source;
pub(crate) mod suite_fit;
mod told;
mod tunnels;
mod words;

use std::{fs::OpenOptions, os::unix::net::UnixStream};

use tencrypt_tun::{Capture, CaptureError, Cleaned, NetNs};

pub(crate) use self::{plan::interface, setup::Protection, source::Source};
use crate::{config::Config, failure::Failure, node::start};

/// The driver of TUN devices.
const TUN_DRIVER: &str = "/dev/net/tun";

/// Protects the calling thread's namespace until a signal, `down`, or the end of the device.
///
/// A signal ends the program and leaves chains and unreachable routes: the namespace stays closed until `down`, or until
/// the next `up` takes over.
///
/// # Errors
/// A [`Failure`]; what it could not finish it has undone.
pub(crate) fn run(protection: Protection) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format_args!("runtime: {error}")))?;
    let agent = protection.source.channel();
    runtime.block_on(async {
        let supervisor =
            setup::set_up(protection).inspect_err(|failure| tell_failure(agent.as_ref(), failure))?;
        drop(agent);
        supervisor.run().await
    })
}

fn tell_failure(agent: Option<&UnixStream>, failure: &Failure) {
    if let Some(channel) = agent {
        start::tell_failure(channel, failure);
    }
}

/// Removes what a dead `up` left in the calling thread's namespace.
///
/// # Errors
/// A [`Failure`].
pub(crate) fn clean() -> Result<Cleaned, Failure> {
    // The interface and the device are found by what the capture left; these names are for messages.
    Ok(Capture::clean(plan::interface("eth0")?, plan::interface("tenc0")?)?)
}

/// Tries to open the driver of TUN devices, as every capture has to.
///
/// # Errors
/// A [`Failure`]: there is none, or it is closed to this user. Its line names the cure.
pub(crate) fn try_tun_driver() -> Result<(), Failure> {
    let opened = OpenOptions::new().read(true).write(true).open(TUN_DRIVER);
    opened.map(drop).map_err(|source| CaptureError::NoTunDriver { source }.into())
}

/// Tries to bind the ports of every lane in `namespace`, and lets go of them again. Returns the first and the last.
///
/// # Errors
/// A [`Failure`]: one is taken, or rights are missing.
pub(crate) fn try_ports(config: &Config, namespace: &NetNs) -> Result<(u16, u16), Failure> {
    let (first, lanes) = (config.network.port, config.network.lanes.get());
    let bind = || (0..lanes).map(|lane| plan::transport(config, lane)).collect::<Result<Vec<_>, _>>();
    // All at a time, as `up` has them.
    drop(namespace.run(bind)??);
    Ok((first, first.saturating_add(u16::from(lanes) - 1)))
}
