//! The task of the DNS proxy, made anew when the pod's addresses change.

use std::{net::IpAddr, sync::PoisonError};

use tencrypt_dns::{Ranges, interceptor::Stats, proxy::Handle};
use tencrypt_tun::InterfaceName;

use super::dns::{LaneSink, Names, Sockets};
use crate::{lane::pod_status::Shared, report::NamesReport};

/// The proxy of a pod, while it has one.
pub(super) struct DnsProxy {
    names: Names,
    ranges: Ranges,
    sink: LaneSink,
    port: u16,
    tun: InterfaceName,
    running: Option<Running>,
    /// Counters of those that have ended.
    before: NamesReport,
    report: Shared<Option<NamesReport>>,
}

struct Running {
    task: tokio::task::JoinHandle<()>,
    /// `None`: it could not be made.
    handle: Option<Handle>,
}

impl DnsProxy {
    /// Makes a proxy that does not run yet; `port` is the one that the data path redirects queries to, and `report` is
    /// kept up to date for `status`.
    pub(super) fn new(
        (names, ranges): (Names, Ranges),
        sink: LaneSink,
        port: u16,
        tun: InterfaceName,
        report: Shared<Option<NamesReport>>,
    ) -> Self {
        Self { names, ranges, sink, port, tun, running: None, before: NamesReport::default(), report }
    }

    /// Serves from these sockets; without any, or without a project, not at all.
    pub(super) fn start(&mut self, sockets: Option<Sockets>) {
        let (Some(sockets), Some(project)) = (sockets, self.names.project.clone()) else { return };
        let proxy = sockets.proxy(&self.names, project, self.ranges.clone(), self.sink.clone());
        let handle = proxy.as_ref().ok().map(|proxy| proxy.handle());
        let task = tokio::spawn(async move {
            match proxy {
                Ok(proxy) => {
                    let Err(error) = proxy.run().await;
                    tracing::error!(%error, "DNS proxy");
                }
                Err(error) => tracing::error!(%error, "DNS proxy"),
            }
            // Names are not answered any more; the rest goes on.
        });
        self.running = Some(Running { task, handle });
        self.count();
    }

    /// Listens at the addresses the pod has now, on the port that the data path redirects to.
    pub(super) fn restart(&mut self, addresses: &[IpAddr]) {
        if self.running.is_none() {
            return;
        }
        self.stop();
        match Sockets::listen(addresses, self.tun, self.port) {
            Ok(sockets) if sockets.port == self.port => self.start(Some(sockets)),
            Ok(_) => tracing::error!("the DNS proxy's port is taken; names are not answered"),
            Err(error) => tracing::error!(%error, "DNS listener; names are not answered"),
        }
    }

    /// Brings `status` up to date.
    pub(super) fn count(&self) {
        let Some(running) = &self.running else { return };
        let mut report = self.before.clone();
        if let Some(handle) = &running.handle {
            add(&mut report, handle);
        }
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// Ends the task.
    pub(super) fn stop(&mut self) {
        if let Some(Running { task, handle }) = self.running.take() {
            task.abort();
            if let Some(handle) = handle {
                add(&mut self.before, &handle);
            }
        }
    }
}

/// Adds what a proxy has counted so far.
fn add(report: &mut NamesReport, handle: &Handle) {
    let Stats { queries, answered, unanswered, withheld, external_names, .. } = handle.stats();
    report.queries += queries;
    report.answered += answered;
    report.unanswered += unanswered;
    report.withheld += withheld;
    report.external += external_names;
    if let Some(found) = handle.foreign_address() {
        report.foreign_name = Some(found.name.to_string());
        report.foreign_address = found.address;
    }
}
