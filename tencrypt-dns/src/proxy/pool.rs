//! UDP sockets to nameservers, each shared by a bounded number of queries for a short time.
//!
//! A socket for every query costs seven system calls beside the two that matter. What a forger has to guess (RFC 5452
//! sections 4 and 9.2) is not less with shared ones: a port of the kernel's choice and the query's id, for a query lies
//! on one socket only, chosen at random, and no two with one id share a socket. A port is of use to who finds it out for
//! [`LIFE`] or [`QUERIES`] queries, whichever ends first.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::upstream::{Progress, SocketId, UpstreamSockets};
use crate::{
    interceptor::{AttemptId, Transmit},
    message::MAX_MESSAGE,
};

/// Sockets that take queries to one server.
const SOCKETS: usize = 16;
/// Most queries that a socket takes.
const QUERIES: u32 = 256;
/// Time for which a socket takes queries.
const LIFE: Duration = Duration::from_secs(2);
/// Datagrams that a socket's task takes before the others have their turn.
const BURST: usize = 32;

/// A query's id as it stands in its message.
type MessageId = [u8; 2];

/// The sockets, and which queries wait on them.
#[derive(Debug)]
pub(super) struct Pool {
    sockets: BTreeMap<SocketId, Shared>,
    /// For each server, those that take queries.
    servers: BTreeMap<SocketAddr, [Option<SocketId>; SOCKETS]>,
    attempts: BTreeMap<AttemptId, (SocketId, MessageId)>,
    next: u64,
    buffer: Arc<Mutex<Vec<u8>>>,
    progress: mpsc::Sender<Progress>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    socket: Arc<UdpSocket>,
    waiting: BTreeMap<MessageId, AttemptId>,
    queries_left: u32,
    until: Instant,
    task: AbortHandle,
}

impl Shared {
    fn takes(&self, now: Instant) -> bool {
        self.queries_left > 0 && now < self.until
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pool {
    pub(super) fn new(progress: mpsc::Sender<Progress>) -> Self {
        Self {
            sockets: BTreeMap::new(),
            servers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            next: 0,
            buffer: Arc::new(Mutex::new(vec![0; MAX_MESSAGE])),
            progress,
            tasks: JoinSet::new(),
        }
    }

    /// Sends a query. Fails if there is no socket to be had, or it cannot be sent.
    pub(super) fn send(&mut self, makes: &impl UpstreamSockets, transmit: &Transmit) -> io::Result<()> {
        let now = Instant::now();
        let id = *transmit.bytes.first_chunk().ok_or(io::ErrorKind::InvalidInput)?;
        // The kernel's each time: nothing is kept from which the next choice follows, or that a cloned machine repeats.
        let start = getrandom::u32().map_err(io::Error::from)? as usize;
        if let Some(chosen) = self.choose(transmit.to, id, start, now) {
            match self.send_by(chosen, id, transmit) {
                Ok(()) => return Ok(()),
                // It may be an earlier query's error, or the socket's address is gone: another socket has neither.
                Err(error) => tracing::debug!(to = %transmit.to, %error, "a socket is of no more use"),
            }
        }
        let opened = self.open(makes, transmit.to, now)?;
        self.send_by(opened, id, transmit)
    }

    fn send_by(&mut self, socket: SocketId, id: MessageId, transmit: &Transmit) -> io::Result<()> {
        let Some(shared) = self.sockets.get_mut(&socket) else { return Err(io::ErrorKind::NotFound.into()) };
        shared.queries_left = shared.queries_left.saturating_sub(1);
        // Not through tokio: it would have a new socket wait for the word that it can be written to.
        if let Err(error) = SockRef::from(&*shared.socket).send(&transmit.bytes) {
            if shared.waiting.is_empty() {
                self.forget(socket);
            } else {
                self.leave(socket);
                let _full = self.progress.try_send(Progress::Broken { socket });
            }
            return Err(error);
        }
        shared.waiting.insert(id, transmit.attempt);
        self.attempts.insert(transmit.attempt, (socket, id));
        Ok(())
    }

    /// Returns the number of open sockets.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Closes the sockets on which no query waits.
    pub(super) fn close_idle(&mut self) {
        self.sockets.retain(|_, shared| !shared.waiting.is_empty());
        let open = &self.sockets;
        for place in self.servers.values_mut().flatten() {
            place.take_if(|socket| !open.contains_key(socket));
        }
        self.servers.retain(|_, places| places.iter().any(Option::is_some));
    }

    /// The query that a message may answer, which came to `socket`.
    pub(super) fn asked(&self, socket: SocketId, message: &[u8]) -> Option<AttemptId> {
        self.sockets.get(&socket)?.waiting.get(message.first_chunk()?).copied()
    }

    /// Waits no longer for an attempt's reply.
    pub(super) fn close(&mut self, attempt: AttemptId) {
        let Some((socket, id)) = self.attempts.remove(&attempt) else { return };
        let Some(shared) = self.sockets.get_mut(&socket) else { return };
        shared.waiting.remove(&id);
        if shared.waiting.is_empty() && !shared.takes(Instant::now()) {
            self.forget(socket);
        }
    }

    /// Closes a socket that is of no more use; returns whose replies will not come.
    pub(super) fn broken(&mut self, socket: SocketId) -> Vec<AttemptId> {
        let Some(mut shared) = self.sockets.remove(&socket) else { return Vec::new() };
        let lost: Vec<_> = std::mem::take(&mut shared.waiting).into_values().collect();
        for attempt in &lost {
            self.attempts.remove(attempt);
        }
        self.forget(socket);
        lost
    }

    /// The socket in place `start`, if there is one and no query with this id waits on it; else the next.
    fn choose(&mut self, to: SocketAddr, id: MessageId, start: usize, now: Instant) -> Option<SocketId> {
        let places = self.servers.entry(to).or_insert([None; SOCKETS]);
        for step in 0..SOCKETS {
            let place = places.get_mut(start.wrapping_add(step) % SOCKETS)?;
            let socket = (*place)?;
            let Some(shared) = self.sockets.get(&socket) else {
                *place = None;
                return None;
            };
            if !shared.takes(now) {
                *place = None;
                if shared.waiting.is_empty() {
                    self.sockets.remove(&socket);
                }
                return None;
            }
            if !shared.waiting.contains_key(&id) {
                return Some(socket);
            }
        }
        None
    }

    /// A new socket, in an empty place if there is one; otherwise it takes one query only.
    fn open(&mut self, makes: &impl UpstreamSockets, to: SocketAddr, now: Instant) -> io::Result<SocketId> {
        while self.tasks.try_join_next().is_some() {}
        let socket = makes.udp(to)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        self.next += 1;
        let id = SocketId(self.next);
        let task = self.tasks.spawn(receive(
            id,
            Arc::clone(&socket),
            Arc::clone(&self.buffer),
            self.progress.clone(),
        ));
        let place =
            self.servers.get_mut(&to).and_then(|places| places.iter_mut().find(|place| place.is_none()));
        let queries_left = if place.is_some() { QUERIES } else { 1 };
        if let Some(place) = place {
            *place = Some(id);
        }
        let shared = Shared { socket, waiting: BTreeMap::new(), queries_left, until: now + LIFE, task };
        self.sockets.insert(id, shared);
        Ok(id)
    }

    fn forget(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
        self.leave(socket);
    }

    /// Takes a socket from its place: it gets no more queries.
    fn leave(&mut self, socket: SocketId) {
        for place in self.servers.values_mut().flatten() {
            if *place == Some(socket) {
                *place = None;
            }
        }
    }
}

/// Passes on what comes to a socket, until it fails or is aborted.
async fn receive(
    id: SocketId,
    socket: Arc<UdpSocket>,
    buffer: Arc<Mutex<Vec<u8>>>,
    progress: mpsc::Sender<Progress>,
) {
    // Why it is of no more use does not matter.
    let _error: io::Result<()> = pass_on(id, &socket, &buffer, &progress).await;
    let _ended = progress.send(Progress::Broken { socket: id }).await;
}

async fn pass_on(
    id: SocketId,
    socket: &UdpSocket,
    buffer: &Mutex<Vec<u8>>,
    progress: &mpsc::Sender<Progress>,
) -> io::Result<()> {
    loop {
        // An ICMP error, a closed port above all, makes the socket erroneous but not readable.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            // It is known now, and gone: wait for the next one.
            let _cleared: io::Result<()> =
                socket.try_io(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
        }
        for _ in 0..BURST {
            let received = {
                // One for all sockets: hundreds may be open.
                let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
                socket.try_recv_from(&mut buffer).map(|(length, from)| (buffer[..length].to_vec(), from))
            };
            match received {
                Ok((bytes, from)) => {
                    if progress.send(Progress::Datagram { socket: id, from, bytes }).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}
