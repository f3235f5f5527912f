//! The side of the applications: listeners and connections.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use super::{
    Listeners,
    connection::{Output, Queue, Served},
    input::ClientInput,
};
use crate::{
    interceptor::{ClientKey, Config},
    message::MAX_MESSAGE,
};

/// Messages of clients that wait for the driver. When they are this many, queues in the kernel fill, and then drop.
const BACKLOG: usize = 256;
/// Connections that are accepted and not served yet. Each is an open file beyond those that the configuration counts.
const ACCEPTED: usize = 4;
/// Pause after a listener's error, so that one that lasts (no more files, device gone) costs no processor time.
const PAUSE: Duration = Duration::from_millis(50);
/// Marks the keys of connections; the others are of datagrams.
const CONNECTION: u64 = 1 << 63;

/// All clients: where queries come from and answers go.
#[derive(Debug)]
pub(super) struct Clients {
    inputs: mpsc::Receiver<ClientInput>,
    sender: mpsc::Sender<ClientInput>,
    listeners: BTreeMap<usize, Listener>,
    next_listener: usize,
    accepted: Arc<Semaphore>,
    datagrams: BTreeMap<ClientKey, (usize, SocketAddr)>,
    connections: BTreeMap<ClientKey, Connection>,
    /// Connections that were ended here.
    ended: Vec<ClientKey>,
    next_key: u64,
    max_query: usize,
    max_connections: usize,
    tasks: JoinSet<()>,
}

/// A socket that clients reach, and the task that reads from it.
#[derive(Debug)]
struct Listener {
    address: IpAddr,
    /// A UDP listener again, to answer through.
    udp: Option<std::net::UdpSocket>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Connection {
    outputs: mpsc::UnboundedSender<Output>,
    queue: Queue,
    last_used: Instant,
    task: AbortHandle,
}

impl Clients {
    /// Nobody can be a client before there are [listeners](Self::add).
    pub(super) fn new(config: &Config) -> Self {
        let (sender, inputs) = mpsc::channel(BACKLOG);
        Self {
            inputs,
            sender,
            listeners: BTreeMap::new(),
            next_listener: 0,
            accepted: Arc::new(Semaphore::new(ACCEPTED)),
            datagrams: BTreeMap::new(),
            connections: BTreeMap::new(),
            ended: Vec::new(),
            next_key: 0,
            max_query: config.max_query,
            max_connections: config.max_connections,
            tasks: JoinSet::new(),
        }
    }

    /// Obeys another configuration. Must be called within a tokio runtime, as everything here.
    pub(super) const fn set_config(&mut self, config: &Config) {
        (self.max_query, self.max_connections) = (config.max_query, config.max_connections);
    }

    /// Listens at these sockets too, or at none of them.
    pub(super) fn add(&mut self, listeners: Listeners) -> io::Result<()> {
        let mut added = Vec::new();
        for socket in listeners.udp {
            socket.set_nonblocking(true)?;
            let (address, udp) = (socket.local_addr()?.ip(), socket.try_clone()?);
            self.next_listener += 1;
            let received = receive(self.next_listener, UdpSocket::from_std(socket)?, self.sender.clone());
            let task = tokio::spawn(received);
            added.push((self.next_listener, Listener { address, udp: Some(udp), task }));
        }
        for listener in listeners.tcp {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?.ip();
            let listener = TcpListener::from_std(listener)?;
            let task = tokio::spawn(accept(listener, self.accepted.clone(), self.sender.clone()));
            self.next_listener += 1;
            added.push((self.next_listener, Listener { address, udp: None, task }));
        }
        self.listeners.extend(added);
        Ok(())
    }

    /// Closes the listeners at these addresses; they are free when this returns.
    pub(super) async fn remove(&mut self, addresses: &[IpAddr]) {
        let gone = self.listeners.extract_if(.., |_, listener| addresses.contains(&listener.address));
        for (_, mut listener) in gone.collect::<Vec<_>>() {
            listener.task.abort();
            // Cancelled, or over already.
            let _ended = (&mut listener.task).await;
        }
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
        while self.connections.len() >= self.max_connections.max(1) {
            let idlest = self.connections.iter().min_by_key(|(_, connection)| connection.last_used);
            let Some(client) = idlest.map(|(client, _)| *client) else { break };
            self.disconnect(client);
        }
        self.next_key += 1;
        let client = ClientKey(self.next_key | CONNECTION);
        let (outputs, receiver) = mpsc::unbounded_channel();
        let queue = Queue::default();
        let served = Served { client, peer, queue: queue.clone(), max_query: self.max_query };
        let sender = self.sender.clone();
        let task = self.tasks.spawn(async move {
            // A connection ends for whatever reason; the client sees that it did.
            let _error: io::Result<()> = served.serve(stream, receiver, &sender).await;
            let _ended = sender.send(ClientInput::Gone { client }).await;
        });
        self.connections.insert(client, Connection { outputs, queue, last_used: Instant::now(), task });
    }

    /// Notes that a connection is in use.
    pub(super) fn touch(&mut self, client: ClientKey) {
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.last_used = Instant::now();
        }
    }

    /// Returns what waits for a connection.
    pub(super) fn queue(&self, client: ClientKey) -> Option<Queue> {
        self.connections.get(&client).map(|connection| connection.queue.clone())
    }

    /// Ends a connection.
    pub(super) fn disconnect(&mut self, client: ClientKey) {
        if let Some(connection) = self.connections.remove(&client) {
            connection.task.abort();
            self.ended.push(client);
        }
    }

    /// Returns a client whose connection was ended here.
    pub(super) fn next_ended(&mut self) -> Option<ClientKey> {
        self.ended.pop()
    }

    /// Sends an answer; it is lost if the client is gone or does not take it in.
    pub(super) fn answer(&mut self, client: ClientKey, bytes: Arc<[u8]>) {
        if client.0 & CONNECTION != 0 {
            self.write(client, Output::Last(bytes));
            return;
        }
        let Some((listener, peer)) = self.datagrams.remove(&client) else { return };
        // Gone with its address.
        let Some(socket) = self.listeners.get(&listener).and_then(|listener| listener.udp.as_ref()) else {
            return;
        };
        if let Err(error) = socket.send_to(&bytes, peer) {
            tracing::debug!(%peer, %error, "answer not sent");
        }
    }

    /// Writes to a connection; a client that does not read loses it.
    pub(super) fn write(&mut self, client: ClientKey, output: Output) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        connection.last_used = Instant::now();
        let length = match &output {
            Output::Last(bytes) | Output::Part(bytes) => bytes.len(),
            Output::End => 0,
        };
        let has_room = connection.queue.push(length);
        if !has_room || connection.outputs.send(output).is_err() {
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

async fn accept(listener: TcpListener, accepted: Arc<Semaphore>, sender: mpsc::Sender<ClientInput>) {
    while let Ok(permit) = accepted.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if sender.send(ClientInput::Accepted { stream, peer, _permit: permit }).await.is_err() {
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
