//! The client of the Kubernetes API server: HTTP/1.1 over TLS, with the service account of the agent's pod.
//!
//! It knows nothing of the API's objects: paths and JSON go in, JSON comes out. All of it runs on the thread of its caller.

mod answer;
mod bytes;
mod connection;
mod credentials;
mod error;
mod lines;
mod place;
mod question;
mod watch;

use std::{cell::RefCell, time::Duration};

use hyper::{Response, body::Incoming};
use tokio::time::{Instant, timeout};
use tracing::debug;
use zeroize::Zeroizing;

use self::{connection::Connection, question::Question};
pub(crate) use self::{error::ClientError, place::Place, question::Verb, watch::Watch};

/// Most bytes of the answer to what [`Client::change`] sends, the object as it is then: etcd takes 1.5 MiB of it
/// (`--max-request-bytes`), and its JSON is longer than what is stored.
const SENT_ANSWER_LIMIT: usize = 8 << 20;

/// The time after which a connection that nobody used is not used any more. The API server closes it after 90 s (`IdleTimeout`,
/// apiserver/pkg/server/secure_serving.go): what is sent at that moment may be lost.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Times that a client waits.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For a connection: name, TCP and TLS.
    connect: Duration,
    /// For a request and its whole answer, the connection included; of a watch, for the head of the answer.
    answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), answer: Duration::from_secs(30) }
    }
}

/// A connection that waits for the next request.
#[derive(Debug)]
struct Kept {
    connection: Connection,
    since: Instant,
}

/// A client of one API server. It keeps one connection for requests; a request beside another one has a connection of its own, and
/// so has each watch.
#[derive(Debug)]
pub(crate) struct Client {
    place: Place,
    limits: Limits,
    kept: RefCell<Option<Kept>>,
}

impl Client {
    /// Makes the client of the API server at `place`. No file is read and nothing is sent before the first request.
    pub(crate) fn new(place: Place) -> Self {
        Self { place, limits: Limits::default(), kept: RefCell::default() }
    }

    /// Gets `path`, which is a path of the API and begins with `/`: the whole answer, of at most `limit` bytes, within 30 s. A kept
    /// connection that the server closes before its answer begins is replaced by a new one, once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn get(&self, path: &str, limit: usize) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.exchange(&Question::get(path), limit).await
    }

    /// Changes what is at `path`, by a `body` of JSON whose meaning `verb` has, within 30 s. Returns the object as it is then, or the
    /// server's word. After an error other than [`ClientError::Status`] the server may have done what was asked: it is not asked twice.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn change(
        &self,
        verb: Verb,
        path: &str,
        body: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.exchange(&Question::change(verb, path, body), SENT_ANSWER_LIMIT).await
    }

    /// Opens the stream of lines at `path`, on a connection of its own that ends with the [`Watch`]. It may say nothing for as long
    /// as `silence`: with bookmarks (`allowWatchBookmarks`, sent about once a minute: Kubernetes API concepts, "Watch bookmarks")
    /// some minutes are enough. The kernel notices a dead machine in half a minute by itself.
    ///
    /// # Errors
    /// See [`ClientError`]; the server has 30 s to begin its answer.
    pub(crate) async fn watch(&self, path: &str, silence: Duration) -> Result<Watch, ClientError> {
        self.within_limit(async {
            let (connection, response) = self.asked_anew(&Question::get(path)).await?;
            let body = answer::stream(response, &self.place.server).await?;
            Ok(Watch::new(connection, body, silence, &self.place.server))
        })
        .await
    }

    /// Asks, and reads the whole answer of at most `limit` bytes. The connection is kept if HTTP went well on it.
    async fn exchange(
        &self,
        question: &Question<'_>,
        limit: usize,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.within_limit(async {
            let (connection, response) = self.asked(question).await?;
            let answer = answer::whole(response, limit, &self.place.server).await;
            if matches!(answer, Ok(_) | Err(ClientError::Status { .. })) {
                *self.kept.borrow_mut() = Some(Kept { connection, since: Instant::now() });
            }
            answer
        })
        .await
    }

    /// Runs `work` for as long as an answer may take.
    async fn within_limit<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let after = self.limits.answer;
        let late = |_| ClientError::Timeout { server: self.place.server.clone(), step: "the answer", after };
        timeout(after, work).await.map_err(late)?
    }

    /// Asks on the kept connection, or on a new one. It is asked again on a new one if the kept one turns out to be closed: a GET in
    /// any case, anything else only if none of it was sent (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
    async fn asked(&self, question: &Question<'_>) -> Result<(Connection, Response<Incoming>), ClientError> {
        let kept = self.kept.borrow_mut().take().filter(|kept| kept.since.elapsed() < IDLE_LIMIT);
        if let Some(Kept { mut connection, .. }) = kept
            && connection.is_usable().await
        {
            match connection.ask(question.request(&self.place)?).await {
                Ok(response) => return Ok((connection, response)),
                Err(failure) if failure.is_unsent || (failure.is_closed && question.is_get()) => {
                    debug!("{}: the kept connection is closed", self.place.server);
                }
                Err(failure) => return Err(failure.error),
            }
        }
        self.asked_anew(question).await
    }

    /// Asks on a new connection.
    async fn asked_anew(
        &self,
        question: &Question<'_>,
    ) -> Result<(Connection, Response<Incoming>), ClientError> {
        let request = question.request(&self.place)?;
        let mut connection = Connection::open(&self.place, self.limits.connect).await?;
        let response = connection.ask(request).await.map_err(|failure| failure.error)?;
        Ok((connection, response))
    }
}

#[cfg(test)]
mod tests;
