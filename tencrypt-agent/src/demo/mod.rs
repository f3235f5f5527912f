//! `tencrypt demo`: the prototype's figure in namespaces of its own, and what a sniffer on its bridge reads.
//!
//! Everything that is said was observed: each step checks what it shows, and the first observation that fails ends the
//! demonstration with its name.

mod cluster;
mod observation;
mod observe;
mod report;
mod scratch;

use std::{io::Write as _, time::Duration};

use tencrypt_lab::{self as lab, Entered};

pub(crate) use self::observation::{Observation, Options};
use self::{report::Report, scratch::Scratch};
use crate::{
    failure::{Exit, Failure},
    supervisor::try_tun_driver,
};

/// The time after which the demonstration is taken for stuck and its world killed. It takes some 15 s.
const WORLD_LIMIT: Duration = Duration::from_secs(120);

/// Runs the demonstration. The process that the user started only waits for the one that has namespaces of its own, and
/// ends with that one's exit code if it is not zero.
///
/// # Errors
/// A [`Failure`]: an observation failed, or this machine has no namespaces for this user.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    // The resolver of the pods is this program too, and does not return from here.
    lab::init();
    if !lab::inside() {
        // Here, before anything is shown: without it the second step would fail for a reason far from its cause.
        try_tun_driver()?;
    }
    let scratch = if lab::inside() { None } else { Some(Scratch::create()?) };
    let entered = lab::enter(WORLD_LIMIT);
    drop(scratch);
    match entered.map_err(|error| Failure::new(exit_of(&error), format_args!("demo: {error}")))? {
        Entered::Inside => demonstrate(options),
        Entered::Over(0) => Ok(()),
        // It has said why.
        Entered::Over(code) => std::process::exit(code),
    }
}

fn demonstrate(options: Options) -> Result<(), Failure> {
    let mut report = Report::new(options.json);
    let outcome = observe::everything(options, &mut report);
    report.finish(outcome.as_ref().err());
    // What follows on standard error belongs below what was said so far; a reader that has gone away is no failure.
    let _ = std::io::stdout().flush();
    outcome
}

fn exit_of(error: &lab::Error) -> Exit {
    if matches!(error, lab::Error::Forbidden(_)) { Exit::NotPermitted } else { Exit::Runtime }
}
