//! UDP and TCP on tokio around the [`Interceptor`](crate::Interceptor).
//!
//! The caller makes all sockets: listeners that reach only this pod's applications, and upstream sockets that bypass
//! the tunnel. The proxy needs no privileges and no configuration but its [`Config`].
//!
//! The capture writes an application's `A:p > N:53` back as `N:p > A:R`, with A the pod's address, N the nameserver
//! and R the listeners' port. So the peer of a query tells which nameserver was meant, and a socket bound to A answers
//! from the right address by itself: give one listener for each of the pod's addresses.

mod client;
mod driver;
mod error;
mod fact_sink;
mod listeners;
mod pool;
mod told;
mod upstream;

use std::{
    collections::HashSet,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
};

pub use error::ProxyError;
pub use fact_sink::FactSink;
pub use listeners::{IDLE, Listeners, MAX_CONNECTIONS};
use tokio::sync::mpsc;
use told::Told;
pub use upstream::{PlainSockets, UpstreamSockets};

use crate::{
    ForeignAddress,
    interceptor::{Config, Stats},
};

/// A proxy that is ready to [`run`](Self::run).
#[derive(Debug)]
pub struct Proxy<U, S> {
    config: Config,
    listeners: Listeners,
    upstream: U,
    sink: S,
    handle: Handle,
    configs: mpsc::Receiver<Config>,
}

/// A running proxy, from outside.
#[derive(Debug, Clone)]
pub struct Handle {
    told: Arc<Mutex<Told>>,
    configs: mpsc::Sender<Config>,
    own: Arc<HashSet<SocketAddr>>,
}

impl<U: UpstreamSockets, S: FactSink> Proxy<U, S> {
    /// A proxy on these listeners.
    ///
    /// # Errors
    /// A listener is not bound, or is named as an upstream server.
    pub fn new(config: Config, listeners: Listeners, upstream: U, sink: S) -> Result<Self, ProxyError> {
        let udp = listeners.udp.iter().map(UdpSocket::local_addr);
        let tcp = listeners.tcp.iter().map(TcpListener::local_addr);
        let own = udp.chain(tcp).collect::<io::Result<HashSet<_>>>()?;
        let (sender, configs) = mpsc::channel(1);
        let handle = Handle { told: Arc::default(), configs: sender, own: Arc::new(own) };
        handle.check(&config)?;
        Ok(Self { config, listeners, upstream, sink, handle, configs })
    }

    /// The handle to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until dropped, on a tokio runtime with I/O and time. Nothing is left behind then.
    ///
    /// # Errors
    /// A listener cannot be registered with the runtime. Later errors of sockets are passing: they are counted as
    /// queries without an answer, and listeners are tried again.
    pub async fn run(self) -> Result<std::convert::Infallible, ProxyError> {
        let clients = client::Clients::start(self.listeners, self.config.max_query)?;
        driver::Driver::new(self.config, clients, self.upstream, self.sink, self.handle.told)
            .run(self.configs)
            .await
    }
}

impl Handle {
    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).stats
    }

    /// The last address outside of [`Config::ranges`] that a reply gave a name of the project's own.
    #[must_use]
    pub fn foreign_address(&self) -> Option<ForeignAddress> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).foreign_address.clone()
    }

    /// Uses another configuration for the queries to come, as when `resolv.conf` changed.
    ///
    /// # Errors
    /// An upstream server is the proxy itself, or the proxy has ended.
    pub async fn set_config(&self, config: Config) -> Result<(), ProxyError> {
        self.check(&config)?;
        self.configs.send(config).await.map_err(|_| ProxyError::Ended)
    }

    fn check(&self, config: &Config) -> Result<(), ProxyError> {
        match config.upstreams.iter().find(|server| self.own.contains(server)) {
            Some(server) => Err(ProxyError::Loop(*server)),
            None => Ok(()),
        }
    }
}
