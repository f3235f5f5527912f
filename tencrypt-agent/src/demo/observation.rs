//! The observations that the demonstration has to make.

use std::fmt;

use clap::ValueEnum;

use crate::failure::Failure;

/// Options of the demonstration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// One JSON object at the end, in place of text.
    pub json: bool,
    /// For tests: the observation to spoil, so that it must fail.
    pub spoil: Option<Observation>,
}

/// An observation, in the order in which they are made.
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
pub(super) struct Unseen {
    pub(super) observation: Observation,
    pub(super) because: String,
}

impl From<Unseen> for Failure {
    fn from(unseen: Unseen) -> Self {
        // One line, as every failure; the sniffer's report has one for each leak.
        let because = unseen.because.replace("\n  ", "; ");
        Self::runtime(format_args!("demo: observation `{}` failed: {because}", unseen.observation))
    }
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
