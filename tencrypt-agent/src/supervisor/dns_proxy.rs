//! The task of the DNS proxy, made anew when the pod's addresses change.

use std::net::IpAddr;

use tencrypt_tun::InterfaceName;

use super::dns::{LaneSink, Names, Sockets};

/// The proxy of a pod, while it has one.
pub(super) struct DnsProxy {
    names: Names,
    sink: LaneSink,
    port: u16,
    tun: InterfaceName,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl DnsProxy {
    /// Makes a proxy that does not run yet; `port` is the one that the data path redirects queries to.
    pub(super) fn new(names: Names, sink: LaneSink, port: u16, tun: InterfaceName) -> Self {
        Self { names, sink, port, tun, task: None }
    }

    /// Serves from these sockets; without any, or without a project, not at all.
    pub(super) fn start(&mut self, sockets: Option<Sockets>) {
        let (Some(sockets), Some(project)) = (sockets, self.names.project.clone()) else { return };
        let (names, sink) = (self.names.clone(), self.sink.clone());
        self.task = Some(tokio::spawn(async move { sockets.serve(&names, project, sink).await }));
    }

    /// Listens at the addresses the pod has now, on the port that the data path redirects to.
    pub(super) fn restart(&mut self, addresses: &[IpAddr]) {
        if self.task.is_none() {
            return;
        }
        self.stop();
        match Sockets::listen(addresses, self.tun, self.port) {
            Ok(sockets) if sockets.port == self.port => self.start(Some(sockets)),
            Ok(_) => tracing::error!("the DNS proxy's port is taken; names are not answered"),
            Err(error) => tracing::error!(%error, "DNS listener; names are not answered"),
        }
    }

    /// Ends the task.
    pub(super) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
