//! The tunnels of a machine, as `list` shows them.

use std::net::IpAddr;

use serde::Serialize;

use super::StatusReport;

/// All that `list` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Listed {
    /// By the names of their namespaces.
    pub tunnels: Vec<Tunnel>,
    /// Namespaces that could not be looked into: closed ones, and tunnels of others, may be among them.
    pub unseen: usize,
}

/// A namespace in which a tunnel runs, or that one has left closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Tunnel {
    /// A name or path of the namespace that `--netns` takes; else its number.
    pub netns: String,
    /// Its state.
    pub state: State,
    /// The program's own words; null: it was not asked, or does not answer.
    pub status: Option<Box<Summary>>,
}

/// State of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It runs, and answers.
    Running,
    /// It runs, and does not answer.
    Silent,
    /// It runs, and is another user's, or has another run directory.
    Others,
    /// Its program has gone, and tenant traffic gets an error.
    Closed,
}

/// The part of a status that a list has room for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// The project, where it is known.
    pub project: Option<String>,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Pods with which there is a session.
    pub peers: usize,
    /// Everything that is not as it ought to be, in words.
    pub problems: Vec<String>,
}

impl Summary {
    /// Takes the part out of `status`.
    pub(crate) fn new(status: StatusReport) -> Self {
        let mut problems = status.problems();
        problems.extend(status.keys.error.iter().map(|error| format!("key file NOT in force: {error}")));
        Self {
            problems,
            pid: status.program.pid,
            uptime_s: status.program.uptime_s,
            project: status.project,
            addresses: status.identity.addresses,
            peers: status.peers.len(),
        }
    }
}
