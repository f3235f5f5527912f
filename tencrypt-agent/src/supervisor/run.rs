//! The supervisor's loop: signals, events of the lanes, changes of the namespace, and the clock.

use std::{
    io::{self, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tencrypt::{Event, KeyRing, directory::Directory};
use tencrypt_tun::{Change, SocketTable};
use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    task::JoinHandle,
    time::{Interval, MissedTickBehavior},
};

use super::{
    clone_guard::{CloneGuard, Sign},
    dns_proxy::DnsProxy,
    externals::LEASE_RENEWAL,
    fact_base::FactBase,
    namespace::{Namespace, Next, TICK},
    rotation,
};
use crate::{
    control::server::ControlSocket,
    failure::Failure,
    keys::{credentials::Credentials, source::KeySource},
    lane::{
        channel::{Command, Lanes},
        run::Ended,
        threads::Threads,
    },
    os::followed::Changes,
};

/// The signals that end the program.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

/// All facts, and the key of the directories made of them.
pub(super) struct Facts {
    pub(super) base: Arc<Mutex<FactBase>>,
    hash_key: u64,
}

impl Facts {
    /// Shares `base`; `hash_key` is random, so that nobody outside chooses collisions.
    pub(super) fn new(base: FactBase, hash_key: u64) -> Self {
        Self { base: Arc::new(Mutex::new(base)), hash_key }
    }

    /// Returns all facts as a directory.
    pub(super) fn directory(&self) -> Directory {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).directory(self.hash_key)
    }

    /// Returns a new directory if enough has changed since the last one.
    fn fold(&self, now: Instant) -> Option<Directory> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).fold(now, self.hash_key)
    }
}

/// Tasks that need nothing of the loop. They end when this is dropped.
pub(super) struct Tasks([JoinHandle<()>; 2]);

impl Tasks {
    /// Serves the control socket, and hands the lanes the keys of `key_source` as they come.
    pub(super) fn spawn(control: ControlSocket, key_source: KeySource, lanes: &Lanes) -> Self {
        let asked = lanes.clone();
        let serving = tokio::spawn(async move { control.serve(asked).await });
        Self([serving, tokio::spawn(rotation::follow_keys(key_source, lanes.clone()))])
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// A protected pod.
pub(super) struct Supervisor {
    pub(super) signals: Signals,
    pub(super) threads: Threads,
    pub(super) lanes: Lanes,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) namespace: Namespace,
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) table: SocketTable,
    pub(super) guard: CloneGuard,
    pub(super) credentials: Credentials,
    pub(super) tenant: [u8; KeyRing::TENANT_LEN],
    pub(super) facts: Facts,
    pub(super) dns: DnsProxy,
    pub(super) tasks: Tasks,
}

/// Something to do.
enum Input {
    Signal,
    LaneEnded(Ended),
    LaneEvent(Option<Event>),
    Change(Change),
    Sign(Sign),
    Credentials,
    Tick,
}

/// The loop's clocks.
struct Clocks {
    tick: Interval,
    credentials: Changes,
    leases_renewed: Instant,
}

impl Supervisor {
    /// Says that traffic is protected, and keeps it so until a signal, `down`, or the end of the device.
    ///
    /// # Errors
    /// A [`Failure`]; the namespace stays closed.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        announce();
        let mut clocks = Clocks {
            tick: interval(TICK),
            credentials: self.credentials.changes(),
            leases_renewed: Instant::now(),
        };
        let over = loop {
            let over = match self.next(&mut clocks).await {
                Input::Signal => break None,
                Input::LaneEnded(ended) => Some(ended),
                Input::LaneEvent(Some(event)) => {
                    self.namespace.handle_event(event);
                    None
                }
                // The lanes are ending, and their ends come next.
                Input::LaneEvent(None) => {
                    tokio::task::yield_now().await;
                    None
                }
                Input::Change(change) => self.handle_change(change),
                Input::Sign(sign) => self.handle_sign(sign).await,
                Input::Credentials => {
                    self.apply_credentials().await;
                    None
                }
                Input::Tick => {
                    self.handle_tick(&mut clocks.leases_renewed).await;
                    None
                }
            };
            if over.is_some() {
                break over;
            }
        };
        self.finish(over).await
    }

    /// Waits for something to do. May be cancelled.
    async fn next(&mut self, clocks: &mut Clocks) -> Input {
        tokio::select! {
            _ = self.signals.terminate.recv() => Input::Signal,
            _ = self.signals.interrupt.recv() => Input::Signal,
            ended = self.threads.next_end() => Input::LaneEnded(ended),
            event = self.events.recv() => Input::LaneEvent(event),
            Some(change) = self.changes.recv() => Input::Change(change),
            sign = self.guard.next_sign() => Input::Sign(sign),
            () = clocks.credentials.next() => Input::Credentials,
            _ = clocks.tick.tick() => Input::Tick,
        }
    }

    /// Returns how the lanes have ended, if the change means that.
    fn handle_change(&mut self, change: Change) -> Option<Ended> {
        match self.namespace.handle_change(change) {
            Next::Nothing => None,
            Next::Addresses => {
                self.dns.restart(self.namespace.addresses());
                None
            }
            Next::Over => Some(Ended::DeviceGone),
        }
    }

    /// Replaces the pod's identity. Returns an end if that is impossible.
    async fn handle_sign(&mut self, sign: Sign) -> Option<Ended> {
        match self.guard.replace_identity(sign, self.namespace.addresses(), &self.lanes).await {
            Ok(own) => {
                for update in self.credentials.attach(own, self.tenant) {
                    let _ = self.lanes.send_all(|| update.clone().into()).await;
                }
                None
            }
            Err(failure) => {
                tracing::error!("{failure}");
                Some(Ended::Failed(io::ErrorKind::Other.into()))
            }
        }
    }

    /// Tells the lanes what has changed of certificate and revocation.
    async fn apply_credentials(&mut self) {
        for update in self.credentials.read_changes() {
            let _ = self.lanes.send_all(|| update.clone().into()).await;
        }
    }

    async fn handle_tick(&mut self, leases_renewed: &mut Instant) {
        let now = Instant::now();
        if let Some(directory) = self.facts.fold(now) {
            let directory = Arc::new(directory);
            let _ = self.lanes.send_all(|| Command::Directory(directory.clone())).await;
        }
        let renew = now.saturating_duration_since(*leases_renewed) >= LEASE_RENEWAL;
        if renew {
            *leases_renewed = now;
        }
        self.namespace.handle_tick(now, renew, &mut self.table).await;
    }

    /// Ends the lanes. `over` is how the first of them ended, if that is why.
    async fn finish(self, over: Option<Ended>) -> Result<(), Failure> {
        let Self { threads, namespace, mut dns, tasks, .. } = self;
        drop(tasks);
        dns.stop();
        let signalled = over.is_none();
        match threads.finish(over).await? {
            Ended::Stopped if signalled => {
                tracing::info!("ended; the namespace stays closed until `tencrypt down`");
                Ok(())
            }
            Ended::Stopped => namespace.remove(),
            Ended::DeviceGone => {
                Err(Failure::runtime("the TUN device was removed; the namespace stays as it is now"))
            }
            Ended::Failed(error) => Err(Failure::runtime(format_args!("data path: {error}"))),
        }
    }
}

fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Tells whoever started the program that traffic is protected from now on.
fn announce() {
    let mut out = io::stdout().lock();
    // Nobody may be reading.
    let _ = writeln!(out, "ready").and_then(|()| out.flush());
}
