//! How the control plane talks to the lane: commands through a bounded queue, and a descriptor that wakes its poll.
//!
//! The lane is one thread that owns device, transport and tunnel, and never waits for anything but its poll. It drains
//! its [`Inbox`] when woken and answers through the sender that each question carries.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tencrypt_core::{
    KeyRing, Trust,
    directory::{Directory, FactChange},
    trust::Certificate,
};
use tokio::sync::oneshot;

use crate::{
    control::{ExplainReport, PeerReport, StatusReport},
    sys,
};

/// Commands that wait for a busy lane; more make the askers wait.
const QUEUE: usize = 64;

/// How long an asker waits for the lane. A lane that runs answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause between attempts to queue a command.
const RETRY: Duration = Duration::from_millis(1);

/// What the control plane wants of the lane.
#[derive(Debug)]
#[non_exhaustive]
pub enum Command {
    /// Counters and peers.
    Status(oneshot::Sender<StatusReport>),
    /// Peers alone.
    Peers(oneshot::Sender<Vec<PeerReport>>),
    /// What would happen to a packet.
    Explain {
        /// Its source; `None`: this pod.
        source: Option<IpAddr>,
        /// Its destination.
        destination: IpAddr,
        /// Where the answer goes.
        reply: oneshot::Sender<ExplainReport>,
    },
    /// New facts. Answered once they stand, so that a DNS answer can wait for them.
    Facts {
        /// The changes.
        changes: Vec<FactChange>,
        /// Answered when they stand.
        done: oneshot::Sender<()>,
    },
    /// A new base, which holds the facts sent so far.
    Directory(Arc<Directory>),
    /// Whom to take for a member, from now on.
    Trust(Arc<Trust>),
    /// This pod's certificate.
    Certificate(Box<Certificate>),
    /// The pod's own addresses have changed.
    Addresses(Vec<IpAddr>),
    /// Other keys, which may take the place of those before.
    Keys(Arc<KeyRing>),
    /// The chains let the answers of an external destination in, or never will: what waited for that leaves.
    ExternalOpened(IpAddr),
    /// A destination no longer leads around the tunnel.
    ExternalEnded(IpAddr),
    /// End.
    Stop,
}

/// The lane does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// Its thread has ended.
    #[error("the data path has ended")]
    Gone,
    /// It took too long.
    #[error("the data path does not answer")]
    Busy,
}

/// The control plane's end.
#[derive(Debug, Clone)]
pub struct LaneHandle {
    commands: SyncSender<Command>,
    wake: Arc<File>,
}

/// The lane's end.
#[derive(Debug)]
pub struct Inbox {
    commands: Receiver<Command>,
    wake: Arc<File>,
}

/// Both ends.
///
/// # Errors
/// What the kernel says of one more descriptor.
pub fn channel() -> io::Result<(LaneHandle, Inbox)> {
    let wake = Arc::new(sys::event_counter()?);
    let (sender, receiver) = sync_channel(QUEUE);
    Ok((LaneHandle { commands: sender, wake: wake.clone() }, Inbox { commands: receiver, wake }))
}

impl LaneHandle {
    /// Asks the lane; `command` is given the sender for the answer.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, LaneError> {
        let (sender, receiver) = oneshot::channel();
        let exchange = async {
            self.send(command(sender)).await?;
            receiver.await.map_err(|_| LaneError::Gone)
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(LaneError::Busy))
    }

    /// Queues a command, waiting for room.
    ///
    /// # Errors
    /// [`LaneError::Gone`].
    pub async fn send(&self, mut command: Command) -> Result<(), LaneError> {
        loop {
            match self.commands.try_send(command) {
                Ok(()) => {
                    self.wake();
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(LaneError::Gone),
                Err(TrySendError::Full(back)) => command = back,
            }
            self.wake();
            tokio::time::sleep(RETRY).await;
        }
    }

    fn wake(&self) {
        // WouldBlock: the counter is full, the lane is as awake as it can be.
        let _ = (&*self.wake).write(&1_u64.to_ne_bytes());
    }
}

impl Inbox {
    /// Clears the wake-up, then hands every waiting command to `each`; at most the queue's length, so that the data
    /// path gets its turn.
    pub fn drain(&self, mut each: impl FnMut(Command)) {
        let _ = (&*self.wake).read(&mut [0; 8]);
        for command in self.commands.try_iter().take(QUEUE) {
            each(command);
        }
    }
}

impl AsFd for Inbox {
    /// Readable when commands wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_question_wakes_the_lane_and_gets_its_answer() {
        let (handle, inbox) = channel().unwrap();
        let lane = std::thread::spawn(move || {
            let mut stopped = false;
            while !stopped {
                let [ready] = sys::poll([Some(inbox.as_fd())], Some(Duration::from_secs(5))).unwrap();
                assert!(ready.readable, "not woken within 5 s");
                inbox.drain(|command| match command {
                    Command::Facts { changes, done } => {
                        assert!(changes.is_empty());
                        let _ = done.send(());
                    }
                    Command::Stop => stopped = true,
                    other => panic!("{other:?}"),
                });
            }
        });
        block_on(async {
            // More than the queue takes.
            for _ in 0..3 * QUEUE {
                handle.ask(|done| Command::Facts { changes: vec![], done }).await.unwrap();
            }
            handle.send(Command::Stop).await.unwrap();
        });
        lane.join().unwrap();
        assert_eq!(block_on(handle.ask(Command::Peers)), Err(LaneError::Gone));
    }

    #[test]
    fn a_lane_that_does_not_look_is_busy_not_for_ever() {
        let (handle, _inbox) = channel().unwrap();
        block_on(async {
            tokio::time::pause();
            assert_eq!(handle.ask(Command::Peers).await, Err(LaneError::Busy));
            for _ in 1..QUEUE {
                handle.send(Command::Stop).await.unwrap();
            }
            assert_eq!(handle.ask(Command::Peers).await, Err(LaneError::Busy));
        });
    }
}
