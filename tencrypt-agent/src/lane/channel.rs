//! The way from the control plane to a lane: commands through a bounded queue, and a descriptor that wakes its poll.
//!
//! A lane is one thread that owns device, transport and tunnel, and never waits for anything but its poll. It drains
//! its [`Inbox`] when woken and answers through the sender that each question carries.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    time::Duration,
};

use tencrypt::{
    Identity, KeyRing, LaneId, LaneUpdate, Seed,
    directory::{Directory, FactChange},
    trust::{Certificate, Trust},
};
use tokio::sync::oneshot;

use crate::{
    os::sys,
    report::{ExplainReport, PeerReport, StatusReport},
};

/// Commands that wait for a busy lane; more make the askers wait.
const QUEUE: usize = 64;

/// The time that an asker waits for the lane. A lane that runs answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Handshake messages that wait for a busy lane; more are dropped. As many as a tunnel itself queues.
const HANDED: usize = 32;

/// Updates that wait for a busy lane; more are dropped, and told again later.
const NEWS: usize = 1_024;

/// Pause between attempts to queue a command.
const RETRY: Duration = Duration::from_millis(1);

/// A command of the control plane.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Command {
    /// Counters and peers.
    Status(oneshot::Sender<StatusReport>),
    /// Peers alone.
    Peers(oneshot::Sender<Vec<PeerReport>>),
    /// The fate of a packet.
    Explain {
        /// Its source; `None`: this pod.
        source: Option<IpAddr>,
        /// Its destination.
        destination: IpAddr,
        /// The sender for the answer.
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
    /// Another identity in place of this one, and no session left.
    ReplaceIdentity(Box<NewIdentity>),
    /// The chains let the answers of an external destination in, or never will: what waited for that leaves.
    ExternalOpened(IpAddr),
    /// A destination no longer leads around the tunnel.
    ExternalEnded(IpAddr),
    /// These lead around the tunnel still, and may be the tenant's by now: they are to be asked.
    AskExternals(Vec<IpAddr>),
    /// End.
    Stop,
}

/// The keys of another generation, for one lane.
#[derive(Debug)]
pub(crate) struct NewIdentity {
    /// The generation, as [`Freshness`](super::freshness::Freshness) counts.
    pub generation: u64,
    /// The identity that all lanes share.
    pub identity: Identity,
    /// Randomness of this lane.
    pub seed: Seed,
}

/// A handshake message that one lane hands to another; nothing else is handed over.
#[derive(Debug)]
pub(crate) enum Handed {
    /// INITs that came to the tenant's port, for the lane they are handed to.
    Init {
        /// Their source.
        from: SocketAddr,
        /// Bytes of each but the last.
        stride: u16,
        /// All of them.
        bytes: Box<[u8]>,
    },
    /// An answer, to leave from the tenant's port.
    Answer {
        /// Its destination.
        to: SocketAddr,
        /// The datagram.
        bytes: Box<[u8]>,
    },
}

/// The lane does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LaneError {
    /// Its thread has ended.
    #[error("the data path has ended")]
    Gone,
    /// It took too long.
    #[error("the data path does not answer")]
    Busy,
}

/// The control plane's end.
#[derive(Debug, Clone)]
pub(crate) struct LaneHandle {
    commands: SyncSender<Command>,
    handed: SyncSender<Handed>,
    update: SyncSender<LaneUpdate>,
    wake: Arc<File>,
}

/// The lane's end.
#[derive(Debug)]
pub(crate) struct Inbox {
    commands: Receiver<Command>,
    handed: Receiver<Handed>,
    update: Receiver<LaneUpdate>,
    wake: Arc<File>,
}

/// Makes both ends.
///
/// # Errors
/// The kernel refuses one more descriptor.
pub(crate) fn channel() -> io::Result<(LaneHandle, Inbox)> {
    let wake = Arc::new(sys::event_counter()?);
    let (sender, receiver) = sync_channel(QUEUE);
    // Apart from the commands, so that a flood of handshake messages keeps none of those waiting.
    let (giver, taker) = sync_channel(HANDED);
    let (teller, hearer) = sync_channel(NEWS);
    let handle = LaneHandle { commands: sender, handed: giver, update: teller, wake: wake.clone() };
    Ok((handle, Inbox { commands: receiver, handed: taker, update: hearer, wake }))
}

/// All lanes of a pod, in order.
#[derive(Debug, Clone)]
pub(crate) struct Lanes(Arc<[LaneHandle]>);

impl Lanes {
    /// Joins these, in order.
    #[must_use]
    pub(crate) fn new(lanes: Vec<LaneHandle>) -> Self {
        Self(lanes.into())
    }

    /// Returns their number.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the lane of this number.
    #[must_use]
    pub(crate) fn lane(&self, number: usize) -> Option<&LaneHandle> {
        self.0.get(number)
    }

    /// Returns all of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LaneHandle> {
        self.0.iter()
    }

    /// Returns the lane at the tenant's port.
    #[must_use]
    pub(crate) fn first(&self) -> Option<&LaneHandle> {
        self.lane(0)
    }

    /// Tells every lane but `teller`, without waiting. Returns how many had no room.
    #[must_use]
    pub(crate) fn send_lane_update(&self, teller: LaneId, update: LaneUpdate) -> u64 {
        let others = self.0.iter().enumerate().filter(|(lane, _)| *lane != usize::from(teller.number()));
        let lost = others.filter(|(_, lane)| {
            let lost = lane.update.try_send(update).is_err();
            lane.wake();
            lost
        });
        lost.count() as u64
    }

    /// Asks all lanes at once; their answers in order, once all have answered.
    ///
    /// # Errors
    /// See [`LaneError`]: of any of them.
    pub(crate) async fn ask_all<T>(
        &self,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<Vec<T>, LaneError> {
        let exchange = async {
            let mut receivers = Vec::with_capacity(self.count());
            for lane in self.0.iter() {
                let (sender, receiver) = oneshot::channel();
                lane.send(command(sender)).await?;
                receivers.push(receiver);
            }
            let mut answers = Vec::with_capacity(receivers.len());
            for receiver in receivers {
                answers.push(receiver.await.map_err(|_| LaneError::Gone)?);
            }
            Ok(answers)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(LaneError::Busy))
    }

    /// Stops all lanes as far as their queues have room, without waiting: for when setting up fails.
    pub(crate) fn stop_at_once(&self) {
        for lane in self.0.iter() {
            let _ = lane.commands.try_send(Command::Stop);
            lane.wake();
        }
    }

    /// Queues a command for each lane: at once where there is room, so that no lane waits for another's; then it waits for
    /// that of the others.
    ///
    /// # Errors
    /// [`LaneError::Gone`] if one of them is; the others get it all the same.
    pub(crate) async fn send_all(&self, command: impl Fn() -> Command) -> Result<(), LaneError> {
        let tried: Vec<_> = self.0.iter().map(|lane| (lane, lane.try_send(command()))).collect();
        let mut outcome = Ok(());
        for (lane, tried) in tried {
            let sent = match tried {
                Ok(None) => Ok(()),
                Ok(Some(waiting)) => lane.send(waiting).await,
                Err(error) => Err(error),
            };
            outcome = outcome.and(sent);
        }
        outcome
    }
}

impl LaneHandle {
    /// Asks the lane; `command` is given the sender for the answer.
    ///
    /// # Errors
    /// See [`LaneError`].
    pub(crate) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, LaneError> {
        let (sender, receiver) = oneshot::channel();
        let exchange = async {
            self.send(command(sender)).await?;
            receiver.await.map_err(|_| LaneError::Gone)
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await.unwrap_or(Err(LaneError::Busy))
    }

    /// Queues a command, waiting for room.
    ///
    /// # Errors
    /// [`LaneError::Gone`].
    pub(crate) async fn send(&self, mut command: Command) -> Result<(), LaneError> {
        while let Some(waiting) = self.try_send(command)? {
            command = waiting;
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    /// Queues a command if there is room, and returns it if there is none.
    fn try_send(&self, command: Command) -> Result<Option<Command>, LaneError> {
        let waiting = match self.commands.try_send(command) {
            Ok(()) => None,
            Err(TrySendError::Disconnected(_)) => return Err(LaneError::Gone),
            Err(TrySendError::Full(back)) => Some(back),
        };
        self.wake();
        Ok(waiting)
    }

    /// Hands a handshake message over, from lane to lane. False: there is no room, and it is gone.
    #[must_use]
    pub(crate) fn hand_over(&self, handed: Handed) -> bool {
        let taken = self.handed.try_send(handed).is_ok();
        self.wake();
        taken
    }

    fn wake(&self) {
        // WouldBlock: the counter is full, the lane is as awake as it can be.
        let _ = (&*self.wake).write(&1_u64.to_ne_bytes());
    }
}

impl Inbox {
    /// Clears the wake-up, then hands every waiting command to `each`; at most the queue's length, so that the data
    /// path gets its turn.
    pub(crate) fn drain(&self, mut each: impl FnMut(Command)) {
        let _ = (&*self.wake).read(&mut [0; 8]);
        for command in self.commands.try_iter().take(QUEUE) {
            each(command);
        }
    }

    /// Returns the next updates of another lane. Costs no system call.
    #[must_use]
    pub(crate) fn next_lane_update(&self) -> Option<LaneUpdate> {
        self.update.try_recv().ok()
    }

    /// Hands every waiting handshake message to `each`, at most as many as may wait.
    pub(crate) fn drain_handed(&self, mut each: impl FnMut(Handed)) {
        for handed in self.handed.try_iter().take(HANDED) {
            each(handed);
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
    fn all_lanes_answer_and_a_flood_from_one_keeps_no_command_waiting() {
        let (lanes, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| channel().unwrap()).unzip();
        let lanes = Lanes::new(lanes);
        let init =
            || Handed::Init { from: ([10, 0, 0, 1], 8363).into(), stride: 284, bytes: vec![1; 284].into() };
        let taken = (0..2 * HANDED).filter(|_| lanes.lane(1).unwrap().hand_over(init())).count();
        assert_eq!(taken, HANDED);
        let threads: Vec<_> = inboxes
            .into_iter()
            .map(|inbox| {
                std::thread::spawn(move || {
                    let (mut stopped, mut handed) = (false, 0);
                    while !stopped {
                        let [ready] = sys::poll([Some(inbox.as_fd())], Some(Duration::from_secs(5))).unwrap();
                        assert!(ready.readable, "not woken within 5 s");
                        inbox.drain(|command| match command {
                            Command::Facts { done, .. } => drop(done.send(())),
                            Command::Stop => stopped = true,
                            other => panic!("{other:?}"),
                        });
                        inbox.drain_handed(|_| handed += 1);
                    }
                    handed
                })
            })
            .collect();
        block_on(async {
            let done = lanes.ask_all(|done| Command::Facts { changes: vec![], done }).await.unwrap();
            assert_eq!(done.len(), lanes.count());
            lanes.send_all(|| Command::Stop).await.unwrap();
        });
        let handed: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(handed, [0, HANDED, 0]);
        assert_eq!(block_on(lanes.ask_all(Command::Peers)), Err(LaneError::Gone));
        assert_eq!(block_on(lanes.send_all(|| Command::Stop)), Err(LaneError::Gone));
    }

    #[test]
    fn no_lane_waits_for_a_command_until_another_has_room_for_it() {
        let (handles, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| channel().unwrap()).unzip();
        let lanes = Lanes::new(handles);
        block_on(async {
            // The first lane is busy.
            for _ in 0..QUEUE {
                lanes.first().unwrap().send(Command::Stop).await.unwrap();
            }
            let addresses = || Command::Addresses(vec![[10, 0, 0, 1].into()]);
            let sending = lanes.send_all(addresses);
            assert!(tokio::time::timeout(20 * RETRY, sending).await.is_err(), "the first has no room");
            for inbox in &inboxes[1..] {
                let mut told = 0;
                inbox.drain(|command| told += usize::from(matches!(command, Command::Addresses(_))));
                assert_eq!(told, 1);
            }
        });
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
