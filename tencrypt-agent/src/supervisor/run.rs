//! The supervisor's loop: signals, events of the lanes, changes of the namespace, and the clock.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tencrypt::{
    KeyRing,
    directory::{Directory, Fact, FactChange},
};
use tencrypt_tun::{Change, SocketTable};
use tokio::{signal::unix::Signal, sync::mpsc, task::JoinHandle};

use super::{
    clone_guard::{CloneGuard, Sign},
    dns_proxy::DnsProxy,
    externals::{LEASE, LEASE_RENEWAL},
    fact_base::FactBase,
    namespace::{Namespace, Next, TICK},
    rotation,
};
use crate::{
    control::server::{Asked, ControlSocket, LookRequest},
    failure::Failure,
    keys::{credentials::Credentials, source::KeySource},
    lane::{
        channel::{Command, Lanes},
        events::LaneEvent,
        run::Ended,
        threads::Threads,
    },
    os::{clock::Clock, followed::Changes, notify::ServiceManager},
};

/// The interval at which servers are looked for that are bound to the interface, where nobody asks for `status`.
const BOUND_SERVERS: Duration = Duration::from_secs(60);

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

    /// Returns what is internal by DNS and ends before the leases are renewed for the second time from now.
    fn internal_ending(&self, now: Instant) -> Vec<Fact> {
        let base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        base.internal_ending(now, now + 2 * LEASE_RENEWAL)
    }

    /// Remembers facts.
    fn learn(&self, facts: &[Fact]) {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).learn(facts);
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
    pub(super) fn spawn(control: ControlSocket, asked: Asked, key_source: KeySource, lanes: &Lanes) -> Self {
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
    pub(super) namespace: Namespace,
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) looks: mpsc::Receiver<LookRequest>,
    pub(super) table: SocketTable,
    pub(super) guard: CloneGuard,
    pub(super) credentials: Credentials,
    pub(super) tenant: [u8; KeyRing::TENANT_LEN],
    pub(super) facts: Facts,
    pub(super) dns: DnsProxy,
    pub(super) tasks: Tasks,
    pub(super) manager: Option<ServiceManager>,
}

/// Something to do.
enum Input {
    Signal,
    LaneEnded(Ended),
    LaneEvent(LaneEvent),
    Change(Change),
    Look(LookRequest),
    Sign(Sign),
    Credentials,
    Tick,
}

/// The loop's clocks.
struct Clocks {
    tick: Clock,
    credentials: Changes,
    leases_renewed: Instant,
    servers_noted: Instant,
}

impl Supervisor {
    /// Says that traffic is protected, and keeps it so until a signal, `down`, or the end of the device.
    ///
    /// # Errors
    /// A [`Failure`]; the namespace stays closed.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        announce(self.manager.as_ref());
        let mut clocks = Clocks {
            tick: Clock::each(TICK),
            credentials: self.credentials.changes(),
            leases_renewed: Instant::now(),
            servers_noted: Instant::now(),
        };
        let over = loop {
            let over = match self.next(&mut clocks).await {
                Input::Signal => break None,
                Input::LaneEnded(ended) => Some(ended),
                Input::LaneEvent(event) => {
                    self.namespace.handle_event(event);
                    None
                }
                Input::Change(change) => self.handle_change(change).await,
                Input::Look(done) => {
                    self.namespace.count_for_status(Instant::now());
                    self.note_bound_servers();
                    // A client may be gone by now.
                    let _ = done.send(());
                    None
                }
                Input::Sign(sign) => self.handle_sign(sign).await,
                Input::Credentials => {
                    self.apply_credentials().await;
                    None
                }
                Input::Tick => self.handle_tick(&mut clocks).await,
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
            event = self.namespace.next_event() => Input::LaneEvent(event),
            Some(change) = self.changes.recv() => Input::Change(change),
            Some(done) = self.looks.recv() => Input::Look(done),
            sign = self.guard.next_sign() => Input::Sign(sign),
            () = clocks.credentials.next() => Input::Credentials,
            () = clocks.tick.tick() => Input::Tick,
        }
    }

    /// Returns how the lanes have ended, if the change means that.
    async fn handle_change(&mut self, change: Change) -> Option<Ended> {
        let next = self.namespace.handle_change(change).await;
        self.handle_next(next).await
    }

    async fn handle_next(&mut self, next: Next) -> Option<Ended> {
        match next {
            Next::Nothing => None,
            Next::Addresses => {
                self.dns.follow(self.namespace.addresses()).await;
                None
            }
            Next::Over => Some(Ended::DeviceGone),
            Next::PodEnded => Some(Ended::PodGone),
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

    /// Has `status` name the servers that are bound to the interface.
    fn note_bound_servers(&mut self) {
        match self.table.bound_servers(self.namespace.interface()) {
            Ok(servers) => self.namespace.note_bound_servers(servers),
            Err(error) => tracing::warn!(%error, "sock_diag"),
        }
    }

    async fn handle_tick(&mut self, clocks: &mut Clocks) -> Option<Ended> {
        let now = Instant::now();
        if let Some(directory) = self.facts.fold(now) {
            let directory = Arc::new(directory);
            let _ = self.lanes.send_all(|| Command::Directory(directory.clone())).await;
        }
        let renew = now.saturating_duration_since(clocks.leases_renewed) >= LEASE_RENEWAL;
        if renew {
            clocks.leases_renewed = now;
        }
        if now.saturating_duration_since(clocks.servers_noted) >= BOUND_SERVERS {
            clocks.servers_noted = now;
            self.note_bound_servers();
        }
        self.dns.follow(self.namespace.addresses()).await;
        let ending = if renew { self.facts.internal_ending(now) } else { Vec::new() };
        let in_use = if self.namespace.has_externals() || !ending.is_empty() {
            self.table.destinations().unwrap_or_else(|error| {
                tracing::warn!(%error, "sock_diag");
                BTreeSet::new()
            })
        } else {
            BTreeSet::new()
        };
        self.prolong(ending, &in_use, now).await;
        self.namespace.handle_tick(now, renew, &in_use).await;
        let next = self.namespace.look().await;
        self.handle_next(next).await
    }

    /// Prolongs those of `ending`, which DNS has called internal, whose address is `in_use`.
    async fn prolong(&self, ending: Vec<Fact>, in_use: &BTreeSet<IpAddr>, now: Instant) {
        let prolonged = prolonged(ending, in_use, now);
        if prolonged.is_empty() {
            return;
        }
        self.facts.learn(&prolonged);
        let changes: Vec<_> = prolonged.into_iter().map(FactChange::Learn).collect();
        // Nobody waits for it to stand.
        let told = || Command::Facts { changes: changes.clone(), done: tokio::sync::oneshot::channel().0 };
        let _ = self.lanes.send_all(told).await;
    }

    /// Ends the lanes. `over` is how the first of them ended, if that is why.
    async fn finish(self, over: Option<Ended>) -> Result<(), Failure> {
        let Self { threads, namespace, mut dns, tasks, manager, .. } = self;
        if let Some(manager) = manager {
            manager.stopping();
        }
        drop(tasks);
        dns.stop();
        let signalled = over.is_none();
        match threads.finish(over).await? {
            Ended::Stopped if signalled => {
                tracing::info!("ended; the namespace stays closed until `tencrypt down`");
                Ok(())
            }
            Ended::Stopped => namespace.remove(),
            // Its namespace goes with the program, which held it last. Where somebody is in it after all, it stays closed.
            Ended::PodGone => {
                tracing::info!(
                    "the pod is gone; what is left of its namespace stays closed until `tencrypt down`"
                );
                Ok(())
            }
            Ended::DeviceGone => {
                Err(Failure::runtime("the TUN device was removed; the namespace stays as it is now"))
            }
            Ended::Failed(error) => Err(Failure::runtime(format_args!("data path: {error}"))),
        }
    }
}

/// Returns those of `ending` whose address is `in_use`, with another end: a connection would otherwise meet another policy in
/// the middle.
fn prolonged(ending: Vec<Fact>, in_use: &BTreeSet<IpAddr>, now: Instant) -> Vec<Fact> {
    let used = ending.into_iter().filter(|fact| in_use.contains(&fact.prefix.addr()));
    used.map(|fact| Fact::new(fact.prefix, fact.class, fact.source, Some(now + LEASE))).collect()
}

/// Tells whoever started the program that traffic is protected from now on.
fn announce(manager: Option<&ServiceManager>) {
    tracing::info!("ready: traffic is protected");
    if let Some(manager) = manager {
        manager.ready();
    }
    let mut out = io::stdout().lock();
    // Nobody may be reading.
    let _ = writeln!(out, "ready").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tencrypt::directory::{Class, FactSource};

    use super::*;

    #[test]
    fn what_dns_calls_internal_stays_so_while_a_socket_is_open_and_ends_with_it() {
        let (used, unused) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let start = Instant::now();
        let fact = |address: IpAddr, end| {
            Fact::new(address, Class::Internal, FactSource::Dns("web.test".into()), Some(end))
        };
        let end = start + 60 * TICK;
        let facts = Facts::new(FactBase::new(Vec::new()), 1);
        facts.learn(&[fact(used, end), fact(unused, end)]);
        // As the leases are renewed: 130 s with a socket to the first address, then none.
        let mut in_use = BTreeSet::from([used]);
        let mut last = BTreeMap::from([(used, end), (unused, end)]);
        for renewal in 1..=20 {
            let now = start + renewal * LEASE_RENEWAL;
            if renewal > 13 {
                in_use.clear();
            }
            let prolonged = prolonged(facts.internal_ending(now), &in_use, now);
            facts.learn(&prolonged);
            last.extend(prolonged.iter().filter_map(|fact| Some((fact.prefix.addr(), fact.expires?))));
            assert!(last[&used] > now + LEASE_RENEWAL || renewal > 13, "a gap at {renewal}");
        }
        assert_eq!(last[&unused], end);
        assert!(last[&used] <= start + 13 * LEASE_RENEWAL + LEASE);
    }
}
