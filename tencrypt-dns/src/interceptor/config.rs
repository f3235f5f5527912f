//! Configuration of an interceptor.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{Project, Ranges};

/// Configuration of an [`Interceptor`](super::Interceptor).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The project of the pod.
    pub project: Project,
    /// The pod's nameservers, in the order of its resolv.conf. Queries sent to any other address are dropped: somebody
    /// else in the tunnel could make this side ask them.
    pub nameservers: Vec<IpAddr>,
    /// The ranges in which names of the project's own have addresses. An answer that gives one of them another address is
    /// withheld whole: the client gets SERVFAIL, and no fact is made of it. Without any, every address is another.
    pub ranges: Ranges,
    /// Lets such answers pass, as `ExternalName` services and headless ones with endpoints outside of the cluster need:
    /// the addresses outside of `ranges` are external then, as those of a foreign name. Default false.
    pub external_names: bool,
    /// Servers to ask, in this order. If there are none, the nameserver that the client asked comes first and then the
    /// others, on port 53.
    pub upstreams: Vec<SocketAddr>,
    /// Time that one server is waited for before the next is asked too. Default 1.5 s: below the 5 s in which libc
    /// turns to its next server, above a recursion that takes long.
    pub fallback_after: Duration,
    /// Time that a query is waited for at all, from its arrival to the release of its answer. Default 8 s: a server
    /// that takes 5 s is still heard; libc's own wait of 2 rounds of 5 s is not outlasted.
    pub give_up_after: Duration,
    /// Most attempts in flight, and most queries. Each attempt has a socket. Default 768: below the 1,024 open files
    /// that a process may usually have, see [`limit_files`](Self::limit_files). The oldest query gives way.
    pub max_sockets: usize,
    /// Most client connections of a proxy; the one that was idle longest gives way. Default 256.
    pub max_connections: usize,
    /// Most bytes of queries and held replies. Default 16 MiB. The oldest query gives way.
    pub max_bytes: usize,
    /// Longest query, in bytes. Default 16 KiB: a signed UPDATE has a few.
    pub max_query: usize,
    /// Most queries a second, with bursts of as many; at 0, one. What is beyond is dropped. Default
    /// [`DEFAULT_RATE`](Self::DEFAULT_RATE).
    pub rate: u32,
}

impl Config {
    /// Most servers that one query is sent to: as many as libc asks (MAXNS in glibc's resolv.h).
    pub const MAX_SERVERS: usize = 3;

    /// Default of [`rate`](Self::rate), in queries a second: a third of the 14,500 that an unoptimised build served on
    /// two cores shared with clients and server.
    pub const DEFAULT_RATE: u32 = 5_000;

    /// The defaults, for a pod of `project` with these nameservers, whose own names have addresses in `ranges`.
    #[must_use]
    pub const fn new(project: Project, nameservers: Vec<IpAddr>, ranges: Ranges) -> Self {
        Self {
            project,
            nameservers,
            ranges,
            external_names: false,
            upstreams: Vec::new(),
            fallback_after: Duration::from_millis(1_500),
            give_up_after: Duration::from_secs(8),
            max_sockets: 768,
            max_connections: 256,
            max_bytes: 16 << 20,
            max_query: 16 << 10,
            rate: Self::DEFAULT_RATE,
        }
    }

    /// Lowers [`max_sockets`](Self::max_sockets) and [`max_connections`](Self::max_connections) so that both together
    /// take `files` open files at most, a quarter of them for connections; at least one each.
    pub fn limit_files(&mut self, files: usize) {
        let connections = self.max_connections.min(files / 4).max(1);
        self.max_connections = connections;
        self.max_sockets = self.max_sockets.min(files.saturating_sub(connections)).max(1);
    }

    /// The servers for a query that was sent to `asked`, in order.
    pub(super) fn servers_for(&self, asked: IpAddr) -> impl Iterator<Item = SocketAddr> {
        const PORT: u16 = 53;
        let others = self.nameservers.iter().copied().filter(move |server| *server != asked);
        let own = std::iter::once(asked).chain(others).map(|server| SocketAddr::new(server, PORT));
        let own = own.take(if self.upstreams.is_empty() { usize::MAX } else { 0 });
        self.upstreams.iter().copied().chain(own)
    }

    /// Time that the bucket of the rate limit holds, and how much of it a query takes.
    pub(super) fn bucket(&self) -> (Duration, Duration) {
        const CAPACITY: Duration = Duration::from_secs(1);
        (CAPACITY, CAPACITY / self.rate.max(1))
    }
}
