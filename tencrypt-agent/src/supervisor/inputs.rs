//! Sources of changes for a running program: its files, or the agent of the node.

use super::agent_channel::{AgentChannel, Word};
use crate::{control::server::Asked, keys::followed::FollowedFiles, node::said::Said};

/// The one or the other.
pub(super) enum Inputs {
    /// Files that are followed.
    Files(Box<FollowedFiles>),
    /// The agent's channel.
    Agent(AgentChannel),
}

impl Inputs {
    /// Waits for the next word. May be cancelled.
    pub(super) async fn next(&mut self) -> Word {
        match self {
            Self::Files(files) => Word::Material(Box::new(files.next().await)),
            Self::Agent(channel) => channel.next().await,
        }
    }

    /// Says something to the agent, if there is one.
    pub(super) fn say(&self, said: &Said) {
        if let Self::Agent(channel) = self {
            channel.say(said);
        }
    }

    /// Has the status said to the agent. False: it has not read the one before.
    pub(super) fn say_status(&mut self, asked: &Asked) -> bool {
        match self {
            Self::Files(_) => true,
            Self::Agent(channel) => channel.say_status(asked),
        }
    }

    /// Returns true if there is an agent, who tells of clones and pauses of the machine.
    pub(super) fn is_attended(&self) -> bool {
        matches!(self, Self::Agent(channel) if channel.is_connected())
    }

    /// Returns true for a program of an agent's, whether that is there or not.
    pub(super) fn is_supervised(&self) -> bool {
        matches!(self, Self::Agent(_))
    }

    /// Says the last word.
    pub(super) async fn end(self, said: &Said) {
        if let Self::Agent(channel) = self {
            channel.end(said).await;
        }
    }
}
