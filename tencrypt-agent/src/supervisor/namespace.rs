//! Keeping a protected namespace in line: with what the lane learns, and with what the kernel changes.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

use tencrypt::{
    Event,
    directory::{Class, Fact, FactChange, FactSource},
};
use tencrypt_tun::{
    BoundServer, Capture, CaptureError, Change, Counters, Followed, InterfaceName, Monitor, PartState,
};
use tokio::sync::mpsc;

use super::{
    externals::{Due, Externals},
    firewall::Firewall,
    own_addresses::OwnAddresses,
    pod_end::PodEnd,
    suite_fit::SuiteFit,
};
use crate::{
    failure::Failure,
    lane::{
        channel::{Command, Lanes},
        events::{Events, LaneEvent},
        pod_status::Shared,
    },
    os::clock,
    report::{BoundServerReport, ChainsReport, NamespaceReport, PartReport, SuiteReport},
};

/// Changes of the namespace that wait for the supervisor. The others wait in the kernel, which says if it has to drop any.
const CHANGES: usize = 16;
/// The interval at which facts are folded, and destinations whose time is over looked for.
pub(super) const TICK: Duration = clock::SECOND;
/// Time for which an address at which a member has answered is not spoken to in plain: the core's.
const PROVED: Duration = Duration::from_secs(600);

/// A captured namespace, kept in line with what the lanes say and what the kernel changes.
pub(super) struct Namespace {
    capture: Capture,
    lanes: Lanes,
    events: Events,
    externals: Externals,
    own: OwnAddresses,
    firewall: Firewall,
    fit: SuiteFit,
    suite: Shared<SuiteReport>,
    chains: Shared<ChainsReport>,
    report: Shared<NamespaceReport>,
    end: PodEnd,
    /// The interval at which the chains' counters are read where nobody else filters and nobody asks: what was not read is lost
    /// where somebody removes the table.
    count: Duration,
    counted: Option<Instant>,
    /// Something was put back, or could not be, since somebody asked.
    changed: bool,
}

/// The consequence of a change for the rest of the supervisor.
pub(super) enum Next {
    /// None.
    Nothing,
    /// The pod has other addresses.
    Addresses,
    /// The device is gone.
    Over,
    /// The pod is gone.
    PodEnded,
}

impl Namespace {
    /// Follows `capture`; `suite`, `chains` and `report` are kept up to date for `status`.
    pub(super) fn new(
        capture: Capture,
        (lanes, events): (Lanes, Events),
        (own, firewall): (OwnAddresses, Firewall),
        (fit, suite): (SuiteFit, Shared<SuiteReport>),
        (chains, report): (Shared<ChainsReport>, Shared<NamespaceReport>),
        (end, count): (PodEnd, Duration),
    ) -> Self {
        let externals = Externals::default();
        let counted = None;
        let mut namespace = Self {
            capture,
            lanes,
            events,
            externals,
            own,
            firewall,
            fit,
            suite,
            chains,
            report,
            end,
            count,
            counted,
            changed: false,
        };
        namespace.tell_parts();
        namespace
    }

    /// Returns the pod's addresses.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.own.all()
    }

    /// Returns the pod's interface.
    pub(super) fn interface(&self) -> InterfaceName {
        self.capture.interface()
    }

    /// Notes the servers that are bound to the pod's interface, for `status`.
    pub(super) fn note_bound_servers(&self, servers: impl IntoIterator<Item = BoundServer>) {
        let report = |server: BoundServer| BoundServerReport {
            protocol: if server.tcp { "tcp" } else { "udp" }.to_owned(),
            address: server.address,
        };
        self.own.note_bound_servers(servers.into_iter().map(report).collect());
    }

    /// Removes everything that the capture installed.
    ///
    /// # Errors
    /// A [`Failure`].
    pub(super) fn remove(self) -> Result<(), Failure> {
        Ok(self.capture.remove()?)
    }

    /// Waits for a word of the lanes. May be cancelled.
    pub(super) async fn next_event(&self) -> LaneEvent {
        self.events.next().await
    }

    /// Handles a word of the lanes.
    pub(super) fn handle_event(&mut self, event: LaneEvent) {
        tracing::trace!(?event, "a lane says");
        let outcome = match event {
            LaneEvent::External { destination, until } => {
                let lease = self.externals.allow(destination, until, Instant::now());
                tracing::debug!(%destination, "external: led around the tunnel");
                let outcome = self.capture.allow_external(destination, lease);
                self.send_to_lanes(move || Command::ExternalOpened(destination));
                outcome
            }
            LaneEvent::Internal(destination) => {
                tracing::debug!(%destination, "internal: of the tenant");
                self.externals.deny(destination);
                self.tell_internal(destination);
                self.capture.add_internal(destination)
            }
            LaneEvent::Closed(destination) => {
                self.externals.deny(destination);
                self.send_to_lanes(move || Command::ExternalEnded(destination));
                self.capture.deny_external(destination)
            }
            LaneEvent::Other(event) => {
                log(&event);
                Ok(())
            }
        };
        if let Err(error) = outcome {
            // Fails closed: without its route a destination's packets go through the tunnel and out by the raw socket.
            tracing::warn!(%error, "destination");
        }
    }

    fn send_to_lanes(&self, command: impl Fn() -> Command + Send + Sync + 'static) {
        let lanes = self.lanes.clone();
        tokio::spawn(async move { lanes.send_all(command).await });
    }

    /// Tells all lanes that `destination`, found by one of them, is of the tenant: none speaks to it in plain, for as long as
    /// what that lane has found holds at least.
    fn tell_internal(&self, destination: IpAddr) {
        if self.lanes.count() == 1 {
            return;
        }
        let until = Some(Instant::now() + PROVED);
        let fact = Fact::new(destination, Class::Internal, FactSource::Handshake, until);
        // Nobody waits for it to stand.
        self.send_to_lanes(move || {
            let (done, _) = tokio::sync::oneshot::channel();
            Command::Facts { changes: vec![FactChange::Learn(fact.clone())], done }
        });
    }

    /// Handles a change that the kernel reports.
    pub(super) async fn handle_change(&mut self, change: Change) -> Next {
        tracing::trace!(?change, "the kernel says");
        let followed = self.capture.follow(change);
        self.handle_followed(followed).await
    }

    /// Looks at what has to stand, and whether the pod is there still.
    pub(super) async fn look(&mut self) -> Next {
        if self.end.has_come(Instant::now()) {
            return Next::PodEnded;
        }
        let followed = self.capture.look();
        self.handle_followed(followed).await
    }

    async fn handle_followed(&mut self, followed: Result<Followed, CaptureError>) -> Next {
        self.tell_parts();
        match followed {
            Ok(Followed::Changed) => {
                self.end.interface_is(true);
                let addresses = self.capture.addresses();
                let has_new_mtu = self.fit.set_mtu(self.capture.mtu());
                let suite = self.fit.report(&addresses);
                if let Some(problem) = suite.problem.as_ref().filter(|_| has_new_mtu) {
                    tracing::error!("no new sessions: {problem}");
                }
                *self.suite.lock().unwrap_or_else(PoisonError::into_inner) = suite;
                if !self.own.replace(addresses) {
                    return Next::Nothing;
                }
                tracing::info!(count = self.own.all().len(), "the pod has other addresses");
                tracing::debug!(addresses = ?self.own.all(), "own addresses");
                // Here, and not by a task of its own: of two changes the later one must be the last that a lane hears of.
                let _ = self.lanes.send_all(|| Command::Addresses(self.own.all().to_vec())).await;
                Next::Addresses
            }
            Ok(Followed::DeviceGone) => Next::Over,
            Ok(Followed::InterfaceGone) => {
                self.end.interface_is(false);
                Next::Nothing
            }
            Ok(_) => Next::Nothing,
            Err(error) => {
                tracing::warn!(%error, "following a change of the namespace");
                Next::Nothing
            }
        }
    }

    /// Tells if something was put back, or cannot be, since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Tells `status` what stands.
    fn tell_parts(&mut self) {
        let now = Instant::now();
        let part = |state: PartState| PartReport {
            part: state.part.to_string(),
            restored: state.restored,
            last_s: state.last.map(|last| now.saturating_duration_since(last).as_secs()),
            found: state.found,
            problem: state.problem,
        };
        let parts = self.capture.parts().into_iter().map(part).collect();
        let report = NamespaceReport { closed: self.capture.is_closed(), parts };
        let mut told = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = |report: &NamespaceReport| {
            let parts = report.parts.iter().map(|part| (part.restored, part.problem.clone()));
            (report.closed, parts.collect::<Vec<_>>())
        };
        self.changed |= counted(&told) != counted(&report);
        *told = report;
    }

    /// Reads what the chains have dropped, for somebody who asks. Where others filter it is read each second, and not more often:
    /// packets are missing there if two readings miss them, and one under way must not meet both.
    pub(super) fn count_for_status(&mut self, now: Instant) {
        if !self.capture.is_filtered() {
            self.count(now);
        }
    }

    fn count(&mut self, now: Instant) {
        self.counted = Some(now);
        match self.capture.counters() {
            Ok(counters) => {
                let Counters { plain_in, leak, looped, filtered, .. } = counters;
                self.firewall.note(filtered, now);
                let now = ChainsReport { plain_in, leak, looped };
                *self.chains.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            Err(error) => tracing::warn!(%error, "counters of the chains"),
        }
    }

    /// Ends destinations that lead around the tunnel, or are about to, and by `stays` are not to any more.
    pub(super) fn close_unless(&self, stays: impl Fn(IpAddr) -> bool) {
        self.events.close_unless(stays);
    }

    /// Returns true if any destination is led around the tunnel.
    pub(super) fn has_externals(&self) -> bool {
        !self.externals.is_empty()
    }

    /// Reads the counters now and then, and ends destinations whose time is over and that are not `in_use`. If `renew` says so, it renews
    /// the leases of the others, and has them asked: no lane sees their packets, and they may be the tenant's by now.
    pub(super) async fn handle_tick(&mut self, now: Instant, renew: bool, in_use: &BTreeSet<IpAddr>) {
        let is_late = |counted| now.saturating_duration_since(counted) >= self.count;
        if self.capture.is_filtered() || self.counted.is_none_or(is_late) {
            self.count(now);
        }
        let mut asked = Vec::new();
        for due in self.externals.due(now, in_use) {
            let outcome = match due {
                Due::Renew(destination, lease) if renew => {
                    asked.push(destination);
                    self.capture.allow_external(destination, lease)
                }
                Due::Renew(..) => Ok(()),
                Due::End(destination) => {
                    self.events.ended(destination);
                    let _ = self.lanes.send_all(|| Command::ExternalEnded(destination)).await;
                    self.capture.deny_external(destination)
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "destination");
            }
        }
        // One lane is enough: what it finds all others are told.
        if let Some(first) = self.lanes.first().filter(|_| !asked.is_empty()) {
            let _ = first.send(Command::AskExternals(asked)).await;
        }
    }
}

/// Says what happened: with addresses only where they are asked for.
fn log(event: &Event) {
    match event {
        Event::PeerUp { peer, endpoint, addresses } => {
            tracing::info!(%peer, "a session with a peer");
            tracing::debug!(%peer, %endpoint, ?addresses, "peer");
        }
        Event::PeerDown { peer } => tracing::info!(%peer, "the last session with a peer has ended"),
        Event::HandshakeFailed { to } => {
            tracing::info!("a destination does not answer");
            tracing::debug!(%to, "no answer");
        }
        _ => {}
    }
}

/// The longest wait for a change before the thread looks if anybody listens: the program is about to end if nobody does.
const UNHEARD: Duration = Duration::from_secs(60);

/// Starts a thread that waits for changes of the namespace, and ends when nobody listens.
///
/// # Errors
/// The kernel refuses another thread.
pub(super) fn monitor_changes(mut monitor: Monitor) -> io::Result<mpsc::Receiver<Change>> {
    let (sender, receiver) = mpsc::channel(CHANGES);
    thread::Builder::new().name("tencrypt-watch".to_owned()).spawn(move || {
        while !sender.is_closed() {
            match monitor.wait(UNHEARD) {
                Ok(None) => {}
                Ok(Some(change)) => drop(sender.blocking_send(change)),
                Err(error) => {
                    tracing::warn!(%error, "netlink");
                    thread::sleep(TICK);
                }
            }
        }
    })?;
    Ok(receiver)
}
