//! The supervisor of a pod: it sets everything up in order, keeps it in line with what changes, and takes it down.

mod by_end;
pub(crate) mod clone_guard;
pub(crate) mod dns;
mod dns_proxy;
mod errors;
pub(crate) mod externals;
pub(crate) mod fact_base;
mod installed;
pub(crate) mod namespace;
mod plan;
mod resolv_conf;
mod rotation;
mod run;
mod setup;
pub(crate) mod suite_fit;
mod tunnels;
pub(crate) mod uevents;

use tencrypt_tun::{Capture, Cleaned};

pub(crate) use self::setup::Protection;
use crate::failure::Failure;

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
    runtime.block_on(async { setup::set_up(protection)?.run().await })
}

/// Removes what a dead `up` left in the calling thread's namespace.
///
/// # Errors
/// A [`Failure`].
pub(crate) fn clean() -> Result<Cleaned, Failure> {
    // The interface and the device are found by what the capture left; these names are for messages.
    Ok(Capture::clean(plan::interface("eth0")?, plan::interface("tenc0")?)?)
}
