//! `tencrypt demo`: the prototype's figure in namespaces of its own, and what a sniffer on its bridge reads.
//!
//! Everything that is said was observed: each step checks what it shows, and the first observation that fails ends the
//! demonstration with its name.

mod cluster;
mod observe;
mod report;
mod scratch;

use std::{fmt, io::Write as _, time::Duration};

use clap::ValueEnum;
use tencrypt_lab::{self as lab, Entered};

use crate::{
    demo::{report::Report, scratch::Scratch},
    failure::{Exit, Failure},
};

/// When the demonstration is taken for stuck and its world killed. It takes some 15 s.
const LIMIT: Duration = Duration::from_secs(120);

/// How to demonstrate.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// One JSON object at the end, in place of text.
    pub json: bool,
    /// For tests: what to spoil, so that observing it must fail.
    pub spoil: Option<Observation>,
}

/// What has to be observed, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Observation {
    /// Without tencrypt the sniffer reads the request.
    Readable,
    /// With it, the request arrives and the sniffer reads nothing.
    Unreadable,
    /// The other project answers still, in plain.
    OtherProject,
    /// Plaintext of a pod that is not of the tenant is refused and counted.
    Intruder,
    /// So is plaintext of a tenant's application that binds its socket to `eth0`.
    Bypass,
    /// A measured bulk transfer, plain and encrypted.
    Throughput,
    /// After `down` the pods are as they were.
    Restored,
}

impl Observation {
    /// The name on the command line and in the report.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Readable => "readable",
            Self::Unreadable => "unreadable",
            Self::OtherProject => "other-project",
            Self::Intruder => "intruder",
            Self::Bypass => "bypass",
            Self::Throughput => "throughput",
            Self::Restored => "restored",
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something was not as it has to be.
#[derive(Debug)]
struct Unseen {
    observation: Observation,
    because: String,
}

impl From<Unseen> for Failure {
    fn from(unseen: Unseen) -> Self {
        // One line, as every failure; the sniffer's report has one for each leak.
        let because = unseen.because.replace("\n  ", "; ");
        Self::runtime(format_args!("demo: observation `{}` failed: {because}", unseen.observation))
    }
}

/// Runs the demonstration. The process that the user started only waits for the one that has namespaces of its own, and
/// ends with that one's exit code if it is not zero.
///
/// # Errors
/// A [`Failure`]: an observation failed, or this machine has no namespaces for this user.
pub(crate) fn run(options: Options) -> Result<(), Failure> {
    // The resolver of the pods is this program too, and does not return from here.
    lab::init();
    let scratch = if lab::inside() { None } else { Some(Scratch::create()?) };
    let entered = lab::enter(LIMIT);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_called_the_same_in_the_report_and_on_the_command_line() {
        for observation in Observation::value_variants() {
            assert_eq!(observation.to_possible_value().unwrap().get_name(), observation.name());
        }
    }
}
