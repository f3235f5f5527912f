//! The supervisor's loop: signals, events of the lanes, changes of the namespace, and the clock.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tencrypt::{
    Event, KeyRing, TunnelConfig,
    directory::{Directory, Fact, FactChange},
};
use tencrypt_tun::{Change, SocketTable};
use tokio::{
    signal::unix::Signal,
    sync::{Notify, mpsc},
    task::JoinHandle,
};

use super::{
    agent_channel::Word,
    clone_guard::{CloneGuard, Sign},
    dns_proxy::DnsProxy,
    externals::{LEASE, LEASE_RENEWAL},
    fact_base::FactBase,
    inputs::Inputs,
    namespace::{Namespace, Next},
    told::Told,
};
use crate::{
    control::server::{Asked, ControlSocket, LookRequest},
    failure::Failure,
    keys::{credentials::Credentials, in_force::KeysInForce},
    lane::{
        channel::{Command, Lanes},
        events::LaneEvent,
        pod_status,
        run::Ended,
        threads::Threads,
    },
    node::said::{PodEvent, Said},
    os::{clock::Clock, notify::ServiceManager},
    report::RenewalReport,
};

/// The interval at which servers are looked for that are bound to the interface, where nobody asks for `status`.
const BOUND_SERVERS: Duration = Duration::from_secs(60);

/// The status is said to the agent no more often than this, unless it asks.
const STATUS_PACE: Duration = Duration::from_secs(1);

/// The signals that end the program.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

/// All facts, and the key of the directories made of them.
pub(super) struct Facts {
    pub(super) base: Arc<Mutex<FactBase>>,
    full: Arc<Notify>,
    hash_key: u64,
}

impl Facts {
    /// Shares `base`; `hash_key` is random, so that nobody outside chooses collisions.
    pub(super) fn new(base: FactBase, hash_key: u64) -> Self {
        Self { full: base.full(), base: Arc::new(Mutex::new(base)), hash_key }
    }

    /// Changes what the agent has told.
    pub(super) fn told<T>(&self, change: impl FnOnce(&mut Told) -> T) -> T {
        change(self.base.lock().unwrap_or_else(PoisonError::into_inner).told())
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

/// The task that serves the control socket. It ends when this is dropped.
pub(super) struct Serving(JoinHandle<()>);

impl Serving {
    /// Serves the control socket.
    pub(super) fn spawn(control: ControlSocket, asked: Asked) -> Self {
        Self(tokio::spawn(async move { control.serve(asked).await }))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
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
    pub(super) keys: KeysInForce,
    pub(super) credentials: Credentials,
    pub(super) tenant: [u8; KeyRing::TENANT_LEN],
    pub(super) facts: Facts,
    /// The rules by which facts count.
    pub(super) rules: TunnelConfig,
    pub(super) dns: DnsProxy,
    pub(super) inputs: Inputs,
    pub(super) asked: Asked,
    /// The interval of looks at what tells nothing of itself.
    pub(super) look: Duration,
    pub(super) serving: Serving,
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
    Word(Word),
    FactsFull,
    Tick,
    StatusDue,
}

/// The loop's clocks.
pub(super) struct Clocks {
    tick: Clock,
    leases_renewed: Instant,
    servers_noted: Instant,
    /// The moment at which the status is to be said to the agent, if anything in it has changed.
    pub(super) status_due: Option<Instant>,
    /// There is an agent to say it to, or may be.
    is_supervised: bool,
}

impl Clocks {
    /// Has the status said, soon: changes come in groups.
    pub(super) fn status_has_changed(&mut self) {
        if self.is_supervised {
            self.status_due.get_or_insert_with(|| Instant::now() + STATUS_PACE);
        }
    }
}

/// The end of the loop.
pub(super) enum Over {
    /// By a signal, or as the agent wants it: the namespace stays closed.
    Closed,
    /// As the lanes do.
    Lanes(Ended),
}

impl Supervisor {
    /// Says that traffic is protected, and keeps it so until a signal, `down`, or the end of the device.
    ///
    /// # Errors
    /// A [`Failure`]; the namespace stays closed.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        announce(self.manager.as_ref());
        self.inputs.say(&Said::Ready { public_key: self.public_key() });
        let now = Instant::now();
        let mut clocks = Clocks {
            tick: Clock::each(self.look),
            leases_renewed: now,
            servers_noted: now,
            status_due: Some(now),
            is_supervised: self.inputs.is_supervised(),
        };
        let over = loop {
            let over = match self.next(&mut clocks).await {
                Input::Signal => Some(Over::Closed),
                Input::LaneEnded(ended) => Some(Over::Lanes(ended)),
                Input::LaneEvent(event) => {
                    self.handle_lane_event(event, &mut clocks);
                    None
                }
                Input::Change(change) => self.handle_change(change, &mut clocks).await,
                Input::Look(done) => {
                    self.namespace.count_for_status(Instant::now());
                    self.note_bound_servers();
                    // A client may be gone by now.
                    let _ = done.send(());
                    None
                }
                Input::Sign(sign) => self.handle_sign(sign, &mut clocks).await,
                Input::Word(word) => self.handle_word(word, &mut clocks).await,
                Input::FactsFull => {
                    self.fold().await;
                    None
                }
                Input::Tick => self.handle_tick(&mut clocks).await,
                Input::StatusDue => {
                    self.say_status(&mut clocks);
                    None
                }
            };
            if let Some(over) = over {
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
            word = self.inputs.next() => Input::Word(word),
            () = self.facts.full.notified() => Input::FactsFull,
            () = clocks.tick.tick() => Input::Tick,
            () = at(clocks.status_due) => Input::StatusDue,
        }
    }

    /// Returns the pod's static public key, in hex.
    pub(super) fn public_key(&self) -> String {
        pod_status::read(&self.credentials.report()).public_key
    }

    fn say_status(&mut self, clocks: &mut Clocks) {
        clocks.status_due = match self.inputs.say_status(&self.asked) {
            true => None,
            // The agent has not read the one before.
            false => Some(Instant::now() + STATUS_PACE),
        };
    }

    fn handle_lane_event(&mut self, event: LaneEvent, clocks: &mut Clocks) {
        if let LaneEvent::Other(event) = &event
            && let Some(event) = said(event)
        {
            self.inputs.say(&Said::Event(event));
            clocks.status_has_changed();
        }
        self.namespace.handle_event(event);
    }

    /// Returns how the lanes have ended, if the change means that.
    async fn handle_change(&mut self, change: Change, clocks: &mut Clocks) -> Option<Over> {
        clocks.status_has_changed();
        let next = self.namespace.handle_change(change).await;
        self.handle_next(next).await
    }

    async fn handle_next(&mut self, next: Next) -> Option<Over> {
        match next {
            Next::Nothing => None,
            Next::Addresses => {
                let addresses = self.namespace.addresses().to_vec();
                self.dns.follow(&addresses).await;
                self.inputs.say(&Said::Event(PodEvent::Addresses { addresses }));
                None
            }
            Next::Over => Some(Over::Lanes(Ended::DeviceGone)),
            Next::PodEnded => Some(Over::Lanes(Ended::PodGone)),
        }
    }

    /// Replaces the pod's identity. Returns an end if that is impossible.
    pub(super) async fn handle_sign(&mut self, sign: Sign, clocks: &mut Clocks) -> Option<Over> {
        match self.guard.replace_identity(sign, self.namespace.addresses(), &self.lanes).await {
            Ok(own) => {
                for update in self.credentials.attach(own, self.tenant) {
                    let _ = self.lanes.send_all(|| update.clone().into()).await;
                }
                let RenewalReport { count, .. } = pod_status::read(&self.guard.report());
                let renewed =
                    PodEvent::Renewed { reason: sign.reason(), count, public_key: self.public_key() };
                self.inputs.say(&Said::Event(renewed));
                clocks.status_has_changed();
                None
            }
            Err(failure) => {
                tracing::error!("{failure}");
                Some(Over::Lanes(Ended::Failed(io::ErrorKind::Other.into())))
            }
        }
    }

    /// Gives the lanes a new base if enough has changed since the last one.
    async fn fold(&self) {
        if let Some(directory) = self.facts.fold(Instant::now()) {
            let directory = Arc::new(directory);
            let _ = self.lanes.send_all(|| Command::Directory(directory.clone())).await;
        }
    }

    /// Has `status` name the servers that are bound to the interface.
    fn note_bound_servers(&mut self) {
        match self.table.bound_servers(self.namespace.interface()) {
            Ok(servers) => self.namespace.note_bound_servers(servers),
            Err(error) => tracing::warn!(%error, "sock_diag"),
        }
    }

    async fn handle_tick(&mut self, clocks: &mut Clocks) -> Option<Over> {
        self.fold().await;
        let now = Instant::now();
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
        if self.namespace.take_changed() {
            clocks.status_has_changed();
        }
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

    /// Ends the lanes.
    async fn finish(self, over: Over) -> Result<(), Failure> {
        let Self { threads, namespace, mut dns, inputs, serving, manager, .. } = self;
        if let Some(manager) = manager {
            manager.stopping();
        }
        drop(serving);
        dns.stop();
        let outcome = end(over, threads, namespace).await;
        let said = match &outcome {
            Ok(open) => Said::Ending { open: *open },
            Err(failure) => Said::Failed { exit: failure.exit as u8, reason: failure.reason.clone() },
        };
        inputs.end(&said).await;
        outcome.map(drop)
    }
}

/// Ends the lanes, and the capture if the namespace is to be open. Returns true if it is.
async fn end(over: Over, threads: Threads, namespace: Namespace) -> Result<bool, Failure> {
    let (signalled, over) = match over {
        Over::Closed => (true, None),
        Over::Lanes(ended) => (false, Some(ended)),
    };
    match threads.finish(over).await? {
        Ended::Stopped if signalled => {
            tracing::info!("ended; the namespace stays closed until `tencrypt down`");
            Ok(false)
        }
        Ended::Stopped => namespace.remove().map(|()| true),
        // Its namespace goes with the program, which held it last. Where somebody is in it after all, it stays closed.
        Ended::PodGone => {
            tracing::info!(
                "the pod is gone; what is left of its namespace stays closed until `tencrypt down`"
            );
            Ok(false)
        }
        Ended::DeviceGone => {
            Err(Failure::runtime("the TUN device was removed; the namespace stays as it is now"))
        }
        Ended::Failed(error) => Err(Failure::runtime(format_args!("data path: {error}"))),
    }
}

/// Waits for the moment, for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns what the agent is told of an event.
fn said(event: &Event) -> Option<PodEvent> {
    match event {
        Event::PeerUp { peer, addresses, .. } => {
            Some(PodEvent::PeerUp { peer: peer.to_string(), addresses: addresses.to_vec() })
        }
        Event::PeerDown { peer } => Some(PodEvent::PeerDown { peer: peer.to_string() }),
        Event::HandshakeFailed { to } => Some(PodEvent::Unanswered { to: to.ip() }),
        _ => None,
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
        manager.ready("the pod's traffic is protected");
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
        let end = start + Duration::from_secs(60);
        let facts = Facts::new(FactBase::new(Vec::new(), Told::default()), 1);
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
