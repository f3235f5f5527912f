//! The task of the DNS proxy, which listens at the addresses that the pod has.

use std::{collections::BTreeSet, net::IpAddr, sync::PoisonError};

use tencrypt_dns::{
    Ranges,
    interceptor::Stats,
    proxy::{Handle, Listeners},
};

use super::dns::{LaneSink, Names, Port, Sockets};
use crate::{lane::pod_status::Shared, os::limits, report::NamesReport};

/// Open files that the rest of the program may still come to need: listeners at further addresses, files that are read
/// again, connections of the control socket, and sockets that are closed a moment after others were opened.
const OTHER_FILES: usize = 20;

/// The proxy of a pod, while it has one.
pub(super) struct DnsProxy {
    names: Names,
    ranges: Ranges,
    sink: LaneSink,
    /// `None`: DNS is not captured.
    port: Option<Port>,
    running: Option<Running>,
    /// Counters of those that have ended.
    before: NamesReport,
    report: Shared<Option<NamesReport>>,
}

/// A task of the proxy.
struct Running {
    task: tokio::task::JoinHandle<()>,
    handle: Handle,
    listening: BTreeSet<IpAddr>,
    /// The reason why it does not listen where it should.
    problem: Option<String>,
}

impl DnsProxy {
    /// Makes a proxy that does not run yet; `report` is kept up to date for `status`.
    pub(super) fn new(
        (names, ranges): (Names, Ranges),
        sink: LaneSink,
        report: Shared<Option<NamesReport>>,
    ) -> Self {
        Self { names, ranges, sink, port: None, running: None, before: NamesReport::default(), report }
    }

    /// Serves from these sockets, which listen at `addresses`; without any, not at all.
    pub(super) fn start(&mut self, sockets: Option<Sockets>, addresses: &[IpAddr]) {
        let Some(Sockets { listeners, port }) = sockets else { return };
        for server in &self.names.unseen {
            tracing::warn!(%server, "applications ask this nameserver of the link themselves; its answers are not seen");
        }
        self.port = Some(port);
        self.run(listeners, addresses);
        self.count();
    }

    fn run(&mut self, listeners: Listeners, addresses: &[IpAddr]) {
        let Some(project) = self.names.project.clone() else { return };
        let listening = addresses.iter().copied().collect();
        let limits = (self.ranges.clone(), limits::files_left().saturating_sub(OTHER_FILES));
        let proxy = match self.names.proxy(project, limits, listeners, self.sink.clone()) {
            Ok(proxy) => proxy,
            Err(error) => return tracing::error!(%error, "DNS proxy; names are not answered"),
        };
        let handle = proxy.handle();
        let task = tokio::spawn(async move {
            let Err(error) = proxy.run().await;
            tracing::error!(%error, "DNS proxy");
        });
        self.running = Some(Running { task, handle, listening, problem: None });
    }

    /// Listens at `addresses`, which the pod has now, on the port that the data path redirects to. The listeners of
    /// addresses that stay are left alone; what fails is tried again at the next call, as is a task that has ended.
    pub(super) async fn follow(&mut self, addresses: &[IpAddr]) {
        let Some(port) = &self.port else { return };
        match &mut self.running {
            Some(running) if !running.task.is_finished() => running.follow(port, addresses).await,
            _ => {
                self.stop();
                self.run(Listeners::default(), &[]);
                if let (Some(running), Some(port)) = (&mut self.running, &self.port) {
                    running.follow(port, addresses).await;
                }
            }
        }
        self.count();
    }

    /// Brings `status` up to date.
    fn count(&self) {
        if self.port.is_none() {
            return;
        }
        let mut report = self.before.clone();
        match &self.running {
            Some(running) => {
                add(&mut report, &running.handle);
                report.listening = running.listening.iter().copied().collect();
                report.problem.clone_from(&running.problem);
            }
            None => report.problem = Some("the DNS proxy does not run".to_owned()),
        }
        report.unseen = self.names.unseen.iter().copied().map(IpAddr::from).collect();
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// Ends the task.
    pub(super) fn stop(&mut self) {
        if let Some(Running { task, handle, .. }) = self.running.take() {
            task.abort();
            add(&mut self.before, &handle);
        }
    }
}

impl Running {
    async fn follow(&mut self, port: &Port, addresses: &[IpAddr]) {
        let gone: Vec<_> = self.listening.iter().copied().filter(|at| !addresses.contains(at)).collect();
        if !gone.is_empty() && self.handle.remove_listeners(gone.clone()).await.is_ok() {
            self.listening.retain(|at| !gone.contains(at));
        }
        let mut problem = None;
        for address in addresses {
            if self.listening.contains(address) {
                continue;
            }
            match self.listen(port, *address).await {
                Ok(()) => {
                    self.listening.insert(*address);
                }
                Err(reason) => problem = Some(format!("{address} port {}: {reason}", port.number())),
            }
        }
        match (&self.problem, &problem) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                tracing::error!("names asked from here are not answered until it can be listened at {now}");
            }
            (Some(_), None) => tracing::info!("names are answered at all addresses again"),
            _ => {}
        }
        self.problem = problem;
    }

    async fn listen(&self, port: &Port, address: IpAddr) -> Result<(), String> {
        let listeners = port.listen(address).map_err(|error| error.to_string())?;
        self.handle.add_listeners(listeners).await.map_err(|error| error.to_string())
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
