//! The loop that moves messages between clients, interceptor and servers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};

use super::{
    FactSink, Listeners, ProxyError,
    client::Clients,
    connection::Output,
    input::ClientInput,
    order::Order,
    pool::Pool,
    told::Told,
    upstream::{self, Progress, UpstreamSockets},
};
use crate::interceptor::{AttemptId, ClientKey, Config, Event, Interceptor, Ticket, Transmit, Transport};

/// Replies that wait for the driver. When they are this many, the sockets' buffers fill, and then drop.
const BACKLOG: usize = 256;

/// Messages that are taken in before what follows from them is done.
const BATCH: usize = 64;

pub(super) struct Driver<U, S> {
    interceptor: Interceptor,
    clients: Clients,
    upstream: U,
    sink: Arc<S>,
    /// Attempts by TCP.
    attempts: BTreeMap<AttemptId, AbortHandle>,
    pool: Pool,
    progress: mpsc::Sender<Progress>,
    progressed: mpsc::Receiver<Progress>,
    attempt_tasks: JoinSet<()>,
    applying: JoinSet<Vec<Ticket>>,
    /// Told when what was taken in last is done.
    waiting: Vec<oneshot::Sender<()>>,
    told: Arc<Mutex<Told>>,
}

impl<U: UpstreamSockets, S: FactSink> Driver<U, S> {
    pub(super) fn new(
        config: Config,
        clients: Clients,
        upstream: U,
        sink: S,
        told: Arc<Mutex<Told>>,
    ) -> Self {
        let (progress, progressed) = mpsc::channel(BACKLOG);
        Self {
            interceptor: Interceptor::new(config),
            clients,
            upstream,
            sink: Arc::new(sink),
            attempts: BTreeMap::new(),
            pool: Pool::new(progress.clone()),
            progress,
            progressed,
            attempt_tasks: JoinSet::new(),
            applying: JoinSet::new(),
            waiting: Vec::new(),
            told,
        }
    }

    /// Runs until the end. Work under way comes before what is new, so that a flood of queries delays no answer for
    /// good.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<Infallible, ProxyError> {
        let mut handles_left = true;
        loop {
            let due = self.interceptor.poll_timeout();
            let timer = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                order = orders.recv(), if handles_left => match order {
                    Some(order) => self.obey(order).await,
                    None => handles_left = false,
                },
                () = timer => self.interceptor.handle_timeout(Instant::now()),
                // A sink that panics has lost its ticket: that query ends with SERVFAIL when its time is up.
                Some(Ok(tickets)) = self.applying.join_next() => {
                    tickets.into_iter().for_each(|ticket| self.interceptor.facts_applied(ticket));
                }
                Some(progress) = self.progressed.recv() => self.handle_progress(progress),
                input = self.clients.next() => self.handle_input(input),
            }
            self.take_more();
            self.drain();
        }
    }

    async fn obey(&mut self, order: Order) {
        // Who gave the order may have gone.
        match order {
            Order::Config(config) => {
                self.clients.set_config(&config);
                self.interceptor.set_config(config);
            }
            Order::Add { listeners, done } => {
                let _ = done.send(self.add(listeners));
            }
            Order::Remove { addresses, done } => {
                self.clients.remove(&addresses).await;
                let _ = done.send(());
            }
        }
    }

    fn add(&mut self, listeners: Listeners) -> Result<(), ProxyError> {
        let added = listeners.addresses()?;
        match self.interceptor.config().upstreams.iter().find(|server| added.contains(server)) {
            Some(server) => Err(ProxyError::Loop(*server)),
            None => Ok(self.clients.add(listeners)?),
        }
    }

    /// Takes what else has come: one round through the select and one batch of facts serve many messages.
    fn take_more(&mut self) {
        for _ in 0..BATCH {
            if let Ok(progress) = self.progressed.try_recv() {
                self.handle_progress(progress);
            } else if let Some(input) = self.clients.try_next() {
                self.handle_input(input);
            } else {
                return;
            }
        }
    }

    fn handle_progress(&mut self, progress: Progress) {
        let now = Instant::now();
        match progress {
            Progress::Reply { attempt, from, bytes, taken } => {
                self.waiting.push(taken);
                if let Err(reason) = self.interceptor.handle_reply(attempt, from, &bytes, now) {
                    tracing::debug!(%from, ?reason, "not a reply");
                }
            }
            Progress::Datagram { socket, from, bytes } => match self.pool.asked(socket, &bytes) {
                Some(attempt) => {
                    if let Err(reason) = self.interceptor.handle_reply(attempt, from, &bytes, now) {
                        tracing::debug!(%from, ?reason, "not a reply");
                    }
                }
                None => self.interceptor.handle_stray(),
            },
            Progress::Broken { socket } => {
                for attempt in self.pool.broken(socket) {
                    self.interceptor.handle_failure(attempt, now);
                }
            }
            Progress::Failed { attempt } => {
                self.attempts.remove(&attempt);
                self.interceptor.handle_failure(attempt, now);
            }
        }
    }

    fn handle_input(&mut self, input: ClientInput) {
        match input {
            ClientInput::Datagram { listener, peer, bytes } => {
                let client = self.clients.datagram_key();
                if self.ask(client, Transport::Udp, peer, &bytes) {
                    self.clients.expect_answer(client, listener, peer);
                }
            }
            ClientInput::Message { client, peer, bytes } => {
                self.clients.touch(client);
                // The connection is closed rather than left waiting for an answer that will not come.
                if !self.ask(client, Transport::Tcp, peer, &bytes) {
                    self.clients.disconnect(client);
                }
            }
            ClientInput::Accepted { stream, peer, .. } => self.clients.connect(stream, peer),
            ClientInput::Gone { client } => self.clients.disconnect(client),
        }
    }

    /// Passes a query on. Tells if there will be an answer.
    fn ask(&mut self, client: ClientKey, transport: Transport, peer: SocketAddr, bytes: &[u8]) -> bool {
        let asked = peer.ip().to_canonical();
        match self.interceptor.handle_query(client, transport, asked, bytes, Instant::now()) {
            Ok(()) => true,
            Err(reason) => {
                tracing::debug!(%peer, ?reason, "query dropped");
                false
            }
        }
    }

    /// Does what the interceptor wants done.
    fn drain(&mut self) {
        let (mut tickets, mut learnt) = (Vec::new(), Vec::new());
        loop {
            while let Some(client) = self.clients.next_ended() {
                self.interceptor.handle_gone(client);
            }
            while let Some(transmit) = self.interceptor.poll_transmit() {
                self.start_attempt(transmit);
            }
            // A socket that cannot be opened leads to further transmits.
            let Some(event) = self.interceptor.poll_event() else { break };
            match event {
                Event::Answer { client, bytes } => self.clients.answer(client, bytes),
                Event::Part { client, bytes } => self.clients.write(client, Output::Part(bytes)),
                Event::End { client } => self.clients.write(client, Output::End),
                Event::Close { attempt } => match self.attempts.remove(&attempt) {
                    Some(task) => task.abort(),
                    None => self.pool.close(attempt),
                },
                Event::Facts { ticket, facts } => {
                    if self.sink.stands(&facts) {
                        self.interceptor.facts_applied(ticket);
                    } else {
                        tickets.push(ticket);
                        learnt.extend(facts);
                    }
                }
            }
        }
        if !tickets.is_empty() {
            let sink = Arc::clone(&self.sink);
            self.applying.spawn(async move {
                sink.apply(learnt).await;
                tickets
            });
        }
        while self.attempt_tasks.try_join_next().is_some() {}
        self.waiting.clear();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.stats = *self.interceptor.stats();
        if told.foreign_address.as_ref() != self.interceptor.foreign_address() {
            told.foreign_address = self.interceptor.foreign_address().cloned();
        }
    }

    fn start_attempt(&mut self, transmit: Transmit) {
        let (attempt, to) = (transmit.attempt, transmit.to);
        if self.pool.len() + self.attempts.len() >= self.interceptor.config().max_sockets {
            self.pool.close_idle();
        }
        let started = match transmit.transport {
            Transport::Udp => self.pool.send(&self.upstream, &transmit),
            Transport::Tcp => self.start_tcp(transmit),
        };
        if let Err(error) = started {
            tracing::debug!(%to, %error, "query not sent to a nameserver");
            self.interceptor.handle_failure(attempt, Instant::now());
        }
    }

    fn start_tcp(&mut self, transmit: Transmit) -> io::Result<()> {
        let socket = upstream::open(&self.upstream, &transmit)?;
        let queue = self.clients.queue(transmit.client).unwrap_or_default();
        let attempt = transmit.attempt;
        let running = upstream::attempt(socket, transmit, queue, self.progress.clone());
        self.attempts.insert(attempt, self.attempt_tasks.spawn(running));
        Ok(())
    }
}
