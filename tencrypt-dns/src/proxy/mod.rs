//! UDP and TCP on tokio around the [`Interceptor`](crate::Interceptor).
//!
//! The caller makes all sockets: listeners that reach only this pod's applications, and upstream sockets that bypass
//! the tunnel. The proxy needs no privileges and no configuration but its [`Config`].
//!
//! The capture writes an application's `A:p > N:53` back as `N:p > A:R`, with A the pod's address, N the nameserver
//! and R the listeners' port. So the peer of a query tells which nameserver was meant, and a socket bound to A answers
//! from the right address by itself: give one listener for each of the pod's addresses, and
//! [others](Handle::add_listeners) when the addresses change.

mod client;
mod connection;
mod driver;
mod error;
mod fact_sink;
mod input;
mod listeners;
mod order;
mod pool;
mod told;
mod upstream;

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use error::ProxyError;
pub use fact_sink::FactSink;
pub use listeners::{IDLE, Listeners};
use order::Order;
use tokio::sync::{mpsc, oneshot};
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
    orders: mpsc::Receiver<Order>,
}

/// A running proxy, from outside.
#[derive(Debug, Clone)]
pub struct Handle {
    told: Arc<Mutex<Told>>,
    orders: mpsc::Sender<Order>,
    /// Addresses of the listeners.
    own: Arc<Mutex<HashSet<SocketAddr>>>,
}

impl<U: UpstreamSockets, S: FactSink> Proxy<U, S> {
    /// A proxy on these listeners.
    ///
    /// # Errors
    /// A listener is not bound, or is named as an upstream server.
    pub fn new(config: Config, listeners: Listeners, upstream: U, sink: S) -> Result<Self, ProxyError> {
        let own = listeners.addresses()?;
        let (sender, orders) = mpsc::channel(1);
        let handle = Handle { told: Arc::default(), orders: sender, own: Arc::new(Mutex::new(own)) };
        handle.check(&config)?;
        Ok(Self { config, listeners, upstream, sink, handle, orders })
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
        let mut clients = client::Clients::new(&self.config);
        clients.add(self.listeners)?;
        driver::Driver::new(self.config, clients, self.upstream, self.sink, self.handle.told)
            .run(self.orders)
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
        self.order(Order::Config(config)).await
    }

    /// Listens at these sockets too, as when the pod got another address. The others are left as they are.
    ///
    /// # Errors
    /// A listener is not bound, cannot be registered with the runtime, or is an upstream server; or the proxy has ended.
    /// None of them is listened at then.
    pub async fn add_listeners(&self, listeners: Listeners) -> Result<(), ProxyError> {
        let added = listeners.addresses()?;
        let (done, outcome) = oneshot::channel();
        self.own().extend(&added);
        let ordered = self.order(Order::Add { listeners, done }).await;
        let outcome = match ordered {
            Ok(()) => outcome.await.unwrap_or(Err(ProxyError::Ended)),
            Err(ended) => Err(ended),
        };
        outcome.inspect_err(|_| self.own().retain(|address| !added.contains(address)))
    }

    /// Closes the listeners at these addresses, as when the pod has lost them. They are free once this returns; answers to
    /// what was asked there are lost.
    ///
    /// # Errors
    /// The proxy has ended.
    pub async fn remove_listeners(&self, addresses: Vec<IpAddr>) -> Result<(), ProxyError> {
        self.own().retain(|listener| !addresses.contains(&listener.ip()));
        let (done, closed) = oneshot::channel();
        self.order(Order::Remove { addresses, done }).await?;
        closed.await.map_err(|_| ProxyError::Ended)
    }

    async fn order(&self, order: Order) -> Result<(), ProxyError> {
        self.orders.send(order).await.map_err(|_| ProxyError::Ended)
    }

    fn own(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, config: &Config) -> Result<(), ProxyError> {
        let own = self.own();
        match config.upstreams.iter().find(|server| own.contains(server)) {
            Some(server) => Err(ProxyError::Loop(*server)),
            None => Ok(()),
        }
    }
}

impl Listeners {
    /// Returns the addresses that they are bound to.
    fn addresses(&self) -> io::Result<HashSet<SocketAddr>> {
        let udp = self.udp.iter().map(UdpSocket::local_addr);
        udp.chain(self.tcp.iter().map(TcpListener::local_addr)).collect()
    }
}
