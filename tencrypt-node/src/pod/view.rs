//! The state of a pod, as others see it.

use tencrypt_agent::report::StatusReport;

use crate::report::PodState;

/// The state of a pod.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Its state.
    pub(crate) state: PodState,
    /// The process of its data path.
    pub(crate) pid: Option<u32>,
    /// Version of its program.
    pub(crate) version: Option<String>,
    /// The tag of its data path: what it was started with.
    pub(crate) tag: Option<String>,
    /// Its static public key, in hex.
    pub(crate) public_key: Option<String>,
    /// Times that its data path died and was started again.
    pub(crate) restarts: u64,
    /// Starts that failed, in a row.
    pub(crate) failures: u64,
    /// The last reason why a start failed, or why something was refused.
    pub(crate) problem: Option<String>,
    /// Peers with which there is a session.
    pub(crate) peers: u64,
    /// The status that it has said last.
    pub(crate) status: Option<Box<StatusReport>>,
    /// True if the data path was not told all that its tenant's files say.
    pub(crate) is_stale: bool,
    /// True once a data path has protected it: it is closed since, whatever becomes of that.
    pub(crate) was_protected: bool,
    /// Statuses said so far: who has asked for one knows by it that it came.
    pub(crate) said: u64,
}

impl View {
    /// A pod without a data path.
    pub(super) fn new() -> Self {
        Self {
            state: PodState::Starting,
            pid: None,
            version: None,
            tag: None,
            public_key: None,
            restarts: 0,
            failures: 0,
            problem: None,
            peers: 0,
            status: None,
            is_stale: false,
            was_protected: false,
            said: 0,
        }
    }

    /// Notes that there is no data path any more. Returns what it had counted.
    pub(super) fn lose(&mut self, state: PodState) -> Option<Box<StatusReport>> {
        self.state = state;
        self.pid = None;
        self.version = None;
        self.tag = None;
        self.public_key = None;
        self.peers = 0;
        self.status.take()
    }
}
