//! Keeping a protected namespace in line: with what the lane learns, and with what the kernel changes.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use tencrypt::{
    Event,
    directory::{Class, Fact, FactChange, FactSource},
};
use tencrypt_tun::{Capture, Change, Followed, Monitor, SocketTable};
use tokio::sync::mpsc;

use crate::{
    lane::channel::{Command, Lanes},
    report::ChainsReport,
    supervisor::externals::{Due, Externals},
    supervisor::suite_fit::SuiteFit,
    supervisor::{EVENTS, TICK},
};

/// Keeps the namespace in line with what the lane says and what the kernel changes.
pub(crate) struct Watcher {
    pub(crate) capture: Capture,
    pub(crate) lanes: Lanes,
    pub(crate) externals: Externals,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) fit: SuiteFit,
    pub(crate) chains: Arc<Mutex<ChainsReport>>,
}

/// What a change of the namespace means for the rest.
pub(crate) enum Next {
    Nothing,
    Addresses,
    Over,
}

impl Watcher {
    pub(crate) fn hear(&mut self, event: Event) {
        let outcome = match event {
            Event::External { destination, until } => {
                let lease = self.externals.allow(destination, until, Instant::now());
                let outcome = self.capture.allow_external(destination, lease);
                self.tell(move || Command::ExternalOpened(destination));
                outcome
            }
            Event::Internal { destination } => {
                self.externals.deny(destination);
                self.tell_internal(destination);
                self.capture.add_internal(destination)
            }
            Event::PeerUp { peer, endpoint, .. } => {
                tracing::debug!(%peer, %endpoint, "peer up");
                Ok(())
            }
            Event::PeerDown { peer } => {
                tracing::debug!(%peer, "peer down");
                Ok(())
            }
            Event::HandshakeFailed { to } => {
                tracing::debug!(%to, "no answer");
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            // Fails closed: without its route a destination's packets go through the tunnel and out by the raw socket.
            tracing::warn!(%error, "destination");
        }
    }

    fn tell(&self, command: impl Fn() -> Command + Send + Sync + 'static) {
        let lanes = self.lanes.clone();
        tokio::spawn(async move { lanes.tell_all(command).await });
    }

    /// What one lane has found to be of the tenant, none speaks to in plain any more. That sticks, however short the
    /// fact itself lives.
    fn tell_internal(&self, destination: IpAddr) {
        if self.lanes.count() == 1 {
            return;
        }
        let until = Some(Instant::now() + TICK);
        let fact = Fact::new(destination, Class::Internal, FactSource::Handshake, until);
        // Nobody waits for it to stand.
        self.tell(move || {
            let (done, _) = tokio::sync::oneshot::channel();
            Command::Facts { changes: vec![FactChange::Learn(fact.clone())], done }
        });
    }

    pub(crate) fn follow(&mut self, change: Change) -> Next {
        match self.capture.follow(change) {
            Ok(Followed::Changed) => {
                let addresses = self.capture.addresses();
                if self.fit.change(self.capture.mtu())
                    && let Some(problem) = self.fit.problem(&addresses)
                {
                    tracing::error!("no new sessions: {problem}");
                }
                if addresses == self.addresses {
                    return Next::Nothing;
                }
                self.addresses = addresses.clone();
                self.tell(move || Command::Addresses(addresses.clone()));
                Next::Addresses
            }
            Ok(Followed::DeviceGone) => Next::Over,
            Ok(_) => Next::Nothing,
            Err(error) => {
                tracing::warn!(%error, "following a change of the namespace");
                Next::Nothing
            }
        }
    }

    /// Reads what the chains have dropped, for `status`.
    fn count(&mut self) {
        match self.capture.counters() {
            Ok(counters) => {
                let now = ChainsReport { plain_in: counters.plain_in, leak: counters.leak };
                *self.chains.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            Err(error) => tracing::warn!(%error, "counters of the chains"),
        }
    }

    /// Renews what still passes, and ends what does not.
    pub(crate) async fn tend(&mut self, now: Instant, renew: bool, table: &mut SocketTable) {
        self.count();
        if self.externals.is_empty() {
            return;
        }
        let in_use = table.destinations().unwrap_or_else(|error| {
            tracing::warn!(%error, "sock_diag");
            BTreeSet::new()
        });
        for due in self.externals.due(now, &in_use) {
            let outcome = match due {
                Due::Renew(destination, lease) if renew => self.capture.allow_external(destination, lease),
                Due::Renew(..) => Ok(()),
                Due::End(destination) => {
                    let _ = self.lanes.tell_all(|| Command::ExternalEnded(destination)).await;
                    self.capture.deny_external(destination)
                }
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, "destination");
            }
        }
    }
}

/// Changes of the namespace, from a thread that waits for them and ends when nobody listens.
pub(crate) fn follow_changes(mut monitor: Monitor) -> io::Result<mpsc::Receiver<Change>> {
    let (sender, receiver) = mpsc::channel(EVENTS);
    thread::Builder::new().name("tencrypt-watch".to_owned()).spawn(move || {
        while !sender.is_closed() {
            match monitor.wait(TICK) {
                Ok(None) => {}
                // A receiver that is far behind looks at everything again anyway.
                Ok(Some(change)) => drop(sender.try_send(change)),
                Err(error) => {
                    tracing::warn!(%error, "netlink");
                    thread::sleep(TICK);
                }
            }
        }
    })?;
    Ok(receiver)
}
