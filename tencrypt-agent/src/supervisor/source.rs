//! The source of later changes, and how often a program looks that has them from there.

use std::{os::unix::net::UnixStream, time::Duration};

use tencrypt::directory::Fact;
use tencrypt_tun::NetNsId;
use tokio::sync::mpsc;

use super::{
    agent_channel::{About, AgentChannel},
    errors::io_failure,
    inputs::Inputs,
    namespace::TICK,
    told::Told,
};
use crate::{
    config::Files,
    control::server::Asked,
    failure::{Exit, Failure},
    keys::followed::FollowedFiles,
    lane::pod_status::Shared,
    node::{self, Pod},
    report::IdentityReport,
};

/// The source of later changes.
pub(crate) enum Source {
    /// Files that are followed.
    Files(Files),
    /// The agent of the node.
    Agent {
        /// Its channel.
        channel: UnixStream,
        /// The pod, as it calls it.
        pod: Pod,
        /// Its facts about the tenant.
        facts: Vec<Fact>,
    },
}

impl Source {
    /// Returns another handle of the agent's channel, to tell a failure by.
    pub(crate) fn channel(&self) -> Option<UnixStream> {
        match self {
            Self::Files(_) => None,
            Self::Agent { channel, .. } => channel.try_clone().ok(),
        }
    }
}

/// Intervals of a program that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Looks at what tells nothing of itself: the device's settings, clocks, the end of the pod.
    pub(super) look: Duration,
    /// Readings of the chains' counters.
    pub(super) count: Duration,
}

impl Pace {
    /// Of a program of its own.
    const ALONE: Self = Self { look: TICK, count: Duration::from_secs(5) };
    /// Of one among a hundred on a node, whose agent looks at clocks and pods for all. It looks twelve times within the minute
    /// that counts as a pause, and twice within the interval at which leases are renewed.
    const SUPERVISED: Self = Self { look: Duration::from_secs(5), count: Duration::from_secs(30) };
}

/// A source whose first words were heard.
pub(super) struct Later {
    from: Origin,
    /// The source of keys, in messages.
    pub(super) keys: String,
    /// The pace of a program with this source.
    pub(super) pace: Pace,
}

enum Origin {
    Files(Files),
    Agent { channel: UnixStream, pod: Pod, namespace: String },
}

impl Later {
    /// Separates what an agent has told of the tenant from what comes later. The pod's namespace is `id`.
    ///
    /// # Errors
    /// A [`Failure`]: it has told too much.
    pub(super) fn split(source: Source, id: NetNsId) -> Result<(Self, Told), Failure> {
        match source {
            Source::Files(files) => {
                let keys = format!("key file {}", files.keys.display());
                Ok((Self { from: Origin::Files(files), keys, pace: Pace::ALONE }, Told::default()))
            }
            Source::Agent { channel, pod, facts } => {
                let told = Told::new(facts).map_err(|error| Failure::new(Exit::Usage, error))?;
                let (keys, namespace) = (node::KEYS.to_owned(), id.to_string());
                Ok((
                    Self { from: Origin::Agent { channel, pod, namespace }, keys, pace: Pace::SUPERVISED },
                    told,
                ))
            }
        }
    }

    /// Follows the source. Later agents come by the control socket, where `asked` answers. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// A [`Failure`]: the channel cannot be waited for.
    pub(super) fn follow(
        self,
        identity: Shared<IdentityReport>,
        asked: Asked,
    ) -> Result<(Inputs, Asked), Failure> {
        match self.from {
            Origin::Files(files) => Ok((Inputs::Files(Box::new(FollowedFiles::new(&files))), asked)),
            Origin::Agent { channel, pod, namespace } => {
                let (adopt, adoptions) = mpsc::channel(1);
                let channel = AgentChannel::new(About { pod, namespace, identity }, channel, adoptions)
                    .map_err(|error| io_failure("agent's channel", error))?;
                Ok((Inputs::Agent(channel), asked.with_adoptions(adopt)))
            }
        }
    }
}
