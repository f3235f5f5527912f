//! The loop that moves messages between clients, interceptor and servers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};

use super::{
    FactSink, ProxyError,
    client::{ClientInput, Clients},
    upstream::{self, Progress, UpstreamSockets},
};
use crate::interceptor::{
    AttemptId, ClientKey, Config, Event, Interceptor, Stats, Ticket, Transmit, Transport,
};

/// Replies that wait for the driver. When they are this many, the sockets' buffers fill, and then drop.
const BACKLOG: usize = 256;

pub(super) struct Driver<U, S> {
    interceptor: Interceptor,
    clients: Clients,
    upstream: U,
    sink: Arc<S>,
    attempts: BTreeMap<AttemptId, AbortHandle>,
    progress: mpsc::Sender<Progress>,
    progressed: mpsc::Receiver<Progress>,
    attempt_tasks: JoinSet<()>,
    applying: JoinSet<Ticket>,
    stats: Arc<Mutex<Stats>>,
}

impl<U: UpstreamSockets, S: FactSink> Driver<U, S> {
    pub(super) fn new(
        config: Config,
        clients: Clients,
        upstream: U,
        sink: S,
        stats: Arc<Mutex<Stats>>,
    ) -> Self {
        let (progress, progressed) = mpsc::channel(BACKLOG);
        Self {
            interceptor: Interceptor::new(config),
            clients,
            upstream,
            sink: Arc::new(sink),
            attempts: BTreeMap::new(),
            progress,
            progressed,
            attempt_tasks: JoinSet::new(),
            applying: JoinSet::new(),
            stats,
        }
    }

    /// What is under way comes before what is new, so that a flood of queries delays no answer for good.
    pub(super) async fn run(mut self, mut configs: mpsc::Receiver<Config>) -> Result<Infallible, ProxyError> {
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
                config = configs.recv(), if handles_left => match config {
                    Some(config) => self.interceptor.set_config(config),
                    None => handles_left = false,
                },
                () = timer => self.interceptor.handle_timeout(Instant::now()),
                // A sink that panics has lost its ticket: that query ends with SERVFAIL when its time is up.
                Some(Ok(ticket)) = self.applying.join_next() => self.interceptor.facts_applied(ticket),
                Some(progress) = self.progressed.recv() => self.handle_progress(progress),
                input = self.clients.next() => self.handle_input(input),
            }
            self.drain();
        }
    }

    fn handle_progress(&mut self, progress: Progress) {
        let now = Instant::now();
        match progress {
            Progress::Reply { attempt, from, bytes } => {
                if let Err(reason) = self.interceptor.handle_reply(attempt, from, &bytes, now) {
                    tracing::debug!(%from, ?reason, "not a reply");
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
            ClientInput::Accepted { stream, peer } => self.clients.connect(stream, peer),
            ClientInput::Gone { client } => self.clients.disconnect(client),
        }
    }

    /// Whether there will be an answer.
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
        loop {
            while let Some(transmit) = self.interceptor.poll_transmit() {
                self.start_attempt(transmit);
            }
            // A socket that cannot be opened leads to further transmits.
            let Some(event) = self.interceptor.poll_event() else { break };
            match event {
                Event::Answer { client, bytes } => self.clients.answer(client, bytes),
                Event::Close { attempt } => {
                    if let Some(task) = self.attempts.remove(&attempt) {
                        task.abort();
                    }
                }
                Event::Facts { ticket, facts } => {
                    let sink = Arc::clone(&self.sink);
                    self.applying.spawn(async move {
                        sink.apply(facts).await;
                        ticket
                    });
                }
            }
        }
        while self.attempt_tasks.try_join_next().is_some() {}
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = *self.interceptor.stats();
    }

    fn start_attempt(&mut self, transmit: Transmit) {
        let attempt = transmit.attempt;
        match upstream::open(&self.upstream, &transmit) {
            Ok(socket) => {
                let run = upstream::attempt(socket, transmit, self.progress.clone());
                let task = self.attempt_tasks.spawn(run);
                self.attempts.insert(attempt, task);
            }
            Err(error) => {
                tracing::debug!(to = %transmit.to, %error, "no socket to a nameserver");
                self.interceptor.handle_failure(attempt, Instant::now());
            }
        }
    }
}
