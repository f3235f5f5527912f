//! The server: health, metrics and state, over a Unix socket for this machine and over TCP for a kubelet and Prometheus.
//!
//! It does not know the agent. Questions go to the agent's loop over a channel, and an agent that does not answer one in time is
//! not healthy.

mod http;
mod socket;

use std::{future::Future, io, net::SocketAddr, path::Path, time::Duration};

use tencrypt_agent::escape::Escaped;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

pub(crate) use self::socket::BindError;
use self::{
    http::{Content, Response, Status},
    socket::Socket,
};
use crate::{
    metrics::{self, Snapshot},
    output,
    report::{NodeReport, PodReport},
};

/// Connections of one listener that are served at a time; more wait.
const CONNECTIONS: usize = 64;

/// The time that the agent has to answer a question.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pause after accepting failed (no descriptors left), so that the task does not spin.
const RECOVERY: Duration = Duration::from_millis(100);

/// Problems that are named in the reason why the agent is not ready. `status` has them all.
const PROBLEMS: usize = 8;

/// A question to the agent. One whose asker has gone need not be answered.
#[derive(Debug)]
pub(crate) enum Question {
    /// The agent's state.
    Node(oneshot::Sender<NodeReport>),
    /// Its pods.
    Pods(oneshot::Sender<Vec<PodReport>>),
    /// Both, and what ended pods had counted, all of one moment: a pod that ends is in one of them.
    Everything(oneshot::Sender<Snapshot>),
}

/// A page. The first three say nothing of single pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Health,
    Ready,
    Metrics,
    Status,
    Pods,
}

/// The pages of the Unix socket.
const PAGES: [(&str, Page); 5] = [
    ("/healthz", Page::Health),
    ("/readyz", Page::Ready),
    ("/metrics", Page::Metrics),
    ("/status", Page::Status),
    ("/pods", Page::Pods),
];

/// The pages of the TCP address, where anybody may ask.
const OPEN_PAGES: [(&str, Page); 3] =
    [("/healthz", Page::Health), ("/readyz", Page::Ready), ("/metrics", Page::Metrics)];

/// The listeners of an agent.
#[derive(Debug)]
pub(crate) struct Server {
    socket: Socket,
    tcp: Option<TcpListener>,
    limit: Duration,
    patience: Duration,
}

impl Server {
    /// Listens at the Unix socket `path`, whose folder exists, and at `address` if there is one. A left-over socket at which nobody
    /// listens is replaced.
    ///
    /// # Errors
    /// See [`BindError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled, as every tokio socket does.
    pub(crate) async fn bind(path: &Path, address: Option<SocketAddr>) -> Result<Self, BindError> {
        let socket = Socket::bind(path).await?;
        let tcp = match address {
            Some(address) => {
                let failed = |source| BindError::Io { at: address.to_string(), source };
                Some(TcpListener::bind(address).await.map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { socket, tcp, limit: http::LIMIT, patience: PATIENCE })
    }

    /// Returns the TCP address that is listened at; its port is the kernel's choice where 0 was asked for.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    /// Serves until it is cancelled, and has `questions` answered by the agent. Conversations end with it.
    pub(crate) async fn serve(&self, questions: mpsc::Sender<Question>) {
        tokio::join!(self.serve_unix(&questions), self.serve_tcp(&questions));
    }

    async fn serve_unix(&self, questions: &mpsc::Sender<Question>) {
        let (limit, patience) = (self.limit, self.patience);
        let converse = |(stream, is_permitted)| {
            let questions = questions.clone();
            async move {
                if is_permitted {
                    http::converse(stream, limit, &PAGES, |page| answer(page, questions, patience)).await;
                } else {
                    let refused = Response::line(Status::Forbidden, "not permitted");
                    http::refuse(stream, limit, &refused).await;
                }
            }
        };
        serve("the socket", || self.socket.accept(), converse).await;
    }

    async fn serve_tcp(&self, questions: &mpsc::Sender<Question>) {
        let Some(tcp) = &self.tcp else { return };
        let (limit, patience) = (self.limit, self.patience);
        let accept = || async { tcp.accept().await.map(|(stream, _)| stream) };
        let converse = |stream| {
            let questions = questions.clone();
            http::converse(stream, limit, &OPEN_PAGES, move |page| answer(page, questions, patience))
        };
        serve("the TCP address", accept, converse).await;
    }
}

/// Accepts connections and converses with up to [`CONNECTIONS`] of them at a time.
async fn serve<S, A, C>(name: &str, accept: impl Fn() -> A, converse: impl Fn(S) -> C)
where
    A: Future<Output = io::Result<S>>,
    C: Future<Output = ()> + Send + 'static,
{
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(), if conversations.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    conversations.spawn(converse(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "{name}");
                    tokio::time::sleep(RECOVERY).await;
                }
            },
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn answer(page: Page, questions: mpsc::Sender<Question>, patience: Duration) -> Response {
    let answered = match page {
        Page::Health => {
            ask(&questions, patience, Question::Node).await.map(|_| Response::line(Status::Ok, "ok"))
        }
        Page::Ready => ask(&questions, patience, Question::Node).await.map(|node| readiness(&node)),
        Page::Metrics => ask(&questions, patience, Question::Everything)
            .await
            .map(|snapshot| found(Content::Metrics, metrics::text(&snapshot))),
        Page::Status => ask(&questions, patience, Question::Node)
            .await
            .map(|node| found(Content::Json, output::status(&node, true))),
        Page::Pods => ask(&questions, patience, Question::Pods)
            .await
            .map(|pods| found(Content::Json, output::pods(&pods, true))),
    };
    answered.unwrap_or_else(|| Response::line(Status::Unavailable, "the agent does not answer"))
}

fn found(content: Content, body: String) -> Response {
    Response { status: Status::Ok, content, body }
}

/// Has the agent answer a question within `patience`; `None`: it does not.
async fn ask<T>(
    questions: &mpsc::Sender<Question>,
    patience: Duration,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    timeout(patience, async {
        questions.send(question(reply)).await.ok()?;
        answer.await.ok()
    })
    .await
    .ok()?
}

/// Tells if the agent is ready, and why not.
fn readiness(node: &NodeReport) -> Response {
    if node.ready {
        return Response::line(Status::Ok, "ok");
    }
    let mut text = "not ready: not everything that ran is adopted, or not every source is read".to_owned();
    for problem in node.problems.iter().take(PROBLEMS) {
        text.push_str(&format!("; {}", Escaped(problem)));
    }
    Response::line(Status::Unavailable, &text)
}

#[cfg(test)]
mod tests;
