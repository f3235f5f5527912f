//! The control protocol: one request and one reply a connection, each one line of JSON, over a Unix socket in the run
//! directory.

pub(crate) mod client;
pub mod line;
pub(crate) mod server;

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    failure::Failure,
    report::{ExplainReport, PeerReport, StatusReport},
};

/// Longest request in bytes.
const REQUEST_LIMIT: u64 = 4 << 10;

/// The time that either side waits for the other's next step: a question, the beginning of a reply, a piece of it. A reply is
/// as long as it has to be, and a line that does not end was cut off.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A question of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Counters and peers.
    Status,
    /// Peers alone.
    Peers,
    /// The fate of a packet.
    Explain {
        /// Its source; absent: this pod.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<IpAddr>,
        /// Its destination.
        destination: IpAddr,
    },
    /// Take this connection for the agent's channel, once the reply has come.
    Adopt,
    /// End, and undo everything.
    Stop,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// To [`Request::Status`].
    Status(Box<StatusReport>),
    /// To [`Request::Peers`].
    Peers(Vec<PeerReport>),
    /// To [`Request::Explain`].
    Explanation(Box<ExplainReport>),
    /// To [`Request::Adopt`]: frames of the agent's channel follow, in both directions.
    Adopting,
    /// To [`Request::Stop`]: it has begun.
    Stopping,
    /// It cannot be done, and why.
    Refused(String),
}

impl Reply {
    /// The failure of whoever asked for another reply than this one.
    pub(crate) fn unexpected(self) -> Failure {
        match self {
            Self::Refused(reason) => Failure::runtime(reason),
            _ => Failure::runtime("the running tencrypt answered something else: another version?"),
        }
    }
}
