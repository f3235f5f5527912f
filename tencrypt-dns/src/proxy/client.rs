//! The side of the applications: listeners and connections.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{IDLE, Listeners, MAX_CONNECTIONS};
use crate::{
    framing::{Framing, frame},
    interceptor::ClientKey,
    message::MAX_MESSAGE,
};

/// Messages of clients that wait for the driver. When they are this many, queues in the kernel fill, and then drop.
const BACKLOG: usize = 256;
/// Bytes of answers that wait for one connection; one answer always may. A client that does not read loses it.
const MAX_QUEUED: usize = 256 * 1024;
/// Pause after a listener's error, so that one that lasts (no more files, device gone) costs no processor time.
const PAUSE: Duration = Duration::from_millis(50);
/// Marks the keys of connections; the others are of datagrams.
const CONNECTION: u64 = 1 << 63;

/// Input of clients.
#[derive(Debug)]
pub(super) enum ClientInput {
    Datagram { listener: usize, peer: SocketAddr, bytes: Vec<u8> },
    Accepted { stream: TcpStream, peer: SocketAddr },
    Message { client: ClientKey, peer: SocketAddr, bytes: Vec<u8> },
    Gone { client: ClientKey },
}

/// All clients: where queries come from and answers go.
#[derive(Debug)]
pub(super) struct Clients {
    inputs: mpsc::Receiver<ClientInput>,
    sender: mpsc::Sender<ClientInput>,
    /// The listeners again, to answer through.
    udp: Vec<std::net::UdpSocket>,
    datagrams: BTreeMap<ClientKey, (usize, SocketAddr)>,
    connections: BTreeMap<ClientKey, Connection>,
    next_key: u64,
    max_query: usize,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Connection {
    answers: mpsc::UnboundedSender<Arc<[u8]>>,
    queued: Arc<AtomicUsize>,
    last_used: Instant,
    task: AbortHandle,
}

impl Clients {
    /// Starts to listen.
    pub(super) fn start(listeners: Listeners, max_query: usize) -> io::Result<Self> {
        let (sender, inputs) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let mut udp = Vec::new();
        for (index, socket) in listeners.udp.into_iter().enumerate() {
            socket.set_nonblocking(true)?;
            udp.push(socket.try_clone()?);
            tasks.spawn(receive(index, UdpSocket::from_std(socket)?, sender.clone()));
        }
        for listener in listeners.tcp {
            listener.set_nonblocking(true)?;
            tasks.spawn(accept(TcpListener::from_std(listener)?, sender.clone()));
        }
        let (datagrams, connections) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { inputs, sender, udp, datagrams, connections, next_key: 0, max_query, tasks })
    }

    /// Waits for the next input of a client. Cancel safe.
    pub(super) async fn next(&mut self) -> ClientInput {
        match self.inputs.recv().await {
            Some(input) => input,
            // Not reached: a sender is kept here.
            None => std::future::pending().await,
        }
    }

    /// Takes an input that a client has made already.
    pub(super) fn try_next(&mut self) -> Option<ClientInput> {
        self.inputs.try_recv().ok()
    }

    /// A key for the sender of a datagram.
    pub(super) const fn datagram_key(&mut self) -> ClientKey {
        self.next_key += 1;
        ClientKey(self.next_key)
    }

    /// Keeps the way back until the answer.
    pub(super) fn expect_answer(&mut self, client: ClientKey, listener: usize, peer: SocketAddr) {
        self.datagrams.insert(client, (listener, peer));
    }

    /// Serves a connection, at the cost of another if there are too many.
    pub(super) fn connect(&mut self, stream: TcpStream, peer: SocketAddr) {
        while self.tasks.try_join_next().is_some() {}
        if self.connections.len() >= MAX_CONNECTIONS {
            let idlest = self.connections.iter().min_by_key(|(_, connection)| connection.last_used);
            if let Some(client) = idlest.map(|(client, _)| *client) {
                self.disconnect(client);
            }
        }
        self.next_key += 1;
        let client = ClientKey(self.next_key | CONNECTION);
        let (answers, receiver) = mpsc::unbounded_channel();
        let queued = Arc::<AtomicUsize>::default();
        let served = Served { client, peer, queued: Arc::clone(&queued), max_query: self.max_query };
        let sender = self.sender.clone();
        let task = self.tasks.spawn(async move {
            // A connection ends for whatever reason; the client sees that it did.
            let _error: io::Result<()> = served.serve(stream, receiver, &sender).await;
            let _ended = sender.send(ClientInput::Gone { client }).await;
        });
        self.connections.insert(client, Connection { answers, queued, last_used: Instant::now(), task });
    }

    /// Notes that a connection is in use.
    pub(super) fn touch(&mut self, client: ClientKey) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.last_used = Instant::now();
        }
    }

    /// Ends a connection.
    pub(super) fn disconnect(&mut self, client: ClientKey) {
        if let Some(connection) = self.connections.remove(&client) {
            connection.task.abort();
        }
    }

    /// Sends an answer; it is lost if the client is gone or does not take it in.
    pub(super) fn answer(&mut self, client: ClientKey, bytes: Arc<[u8]>) {
        if client.0 & CONNECTION == 0 {
            let Some((listener, peer)) = self.datagrams.remove(&client) else { return };
            if let Err(error) = self.udp[listener].send_to(&bytes, peer) {
                tracing::debug!(%peer, %error, "answer not sent");
            }
            return;
        }
        let Some(connection) = self.connections.get(&client) else { return };
        let queued = connection.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        let too_slow = queued > 0 && queued + bytes.len() > MAX_QUEUED;
        if too_slow || connection.answers.send(bytes).is_err() {
            self.disconnect(client);
        }
    }
}

async fn receive(listener: usize, socket: UdpSocket, sender: mpsc::Sender<ClientInput>) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                let bytes = buffer[..length].to_vec();
                if sender.send(ClientInput::Datagram { listener, peer, bytes }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "listener");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn accept(listener: TcpListener, sender: mpsc::Sender<ClientInput>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if sender.send(ClientInput::Accepted { stream, peer }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "listener");
                sleep(PAUSE).await;
            }
        }
    }
}

/// One connection, on its own task.
struct Served {
    client: ClientKey,
    peer: SocketAddr,
    queued: Arc<AtomicUsize>,
    max_query: usize,
}

impl Served {
    /// Passes on queries and writes answers, in whatever order they come (RFC 7766 section 6.2.1.1), until the client
    /// is done, idle, or sends what is no message.
    async fn serve(
        &self,
        mut stream: TcpStream,
        mut answers: mpsc::UnboundedReceiver<Arc<[u8]>>,
        sender: &mpsc::Sender<ClientInput>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.split();
        let mut framing = Framing::new(self.max_query);
        let mut part = [0; 4096];
        let (mut unanswered, mut at_end) = (0_usize, false);
        let mut idle_at = Instant::now() + IDLE;
        while !at_end || unanswered > 0 {
            tokio::select! {
                length = reader.read(&mut part), if !at_end => {
                    let length = length?;
                    at_end = length == 0;
                    framing.push(&part[..length]);
                    while let Some(bytes) = framing.next_message().map_err(|_| io::ErrorKind::InvalidData)? {
                        let message = ClientInput::Message { client: self.client, peer: self.peer, bytes };
                        sender.send(message).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                        unanswered += 1;
                        idle_at = Instant::now() + IDLE;
                    }
                }
                answer = answers.recv() => {
                    let Some(answer) = answer else { return Ok(()) };
                    let framed = frame(&answer).ok_or(io::ErrorKind::InvalidData)?;
                    timeout(IDLE, writer.write_all(&framed)).await??;
                    self.queued.fetch_sub(answer.len(), Ordering::Relaxed);
                    unanswered = unanswered.saturating_sub(1);
                    idle_at = Instant::now() + IDLE;
                }
                () = sleep_until(idle_at) => return Ok(()),
            }
        }
        Ok(())
    }
}
