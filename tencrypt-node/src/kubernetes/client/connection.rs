//! A connection to the API server: TCP, TLS and HTTP/1.1.

use std::{io, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::{credentials, error::ClientError, place::Place};

/// Time without a word from the other end after which the kernel asks whether it is there (`TCP_KEEPIDLE`).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Time between these questions (`TCP_KEEPINTVL`).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Questions without an answer after which the other end is dead (`TCP_KEEPCNT`): half a minute in all.
const KEEPALIVE_COUNT: u32 = 3;

/// Time after which what was sent and not acknowledged means the same, in milliseconds (`TCP_USER_TIMEOUT`, tcp(7)).
const UNACKNOWLEDGED_MS: u32 = 30_000;

/// Most bytes of the head of an answer, and of what is read ahead of its body.
const BUFFER: usize = 64 << 10;

/// A connection to the API server. It is closed when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    server: String,
    /// After `sender`: it ends last.
    _task: Task,
}

/// A failure of a request.
#[derive(Debug)]
pub(super) struct AskFailure {
    /// Nothing of the request was sent.
    pub(super) is_unsent: bool,
    /// The connection ended before the answer began.
    pub(super) is_closed: bool,
    /// The failure.
    pub(super) error: ClientError,
}

impl Connection {
    /// Connects within `limit`. The authorities' certificates are read each time: they may have been replaced.
    ///
    /// # Errors
    /// [`ClientError::Server`], [`ClientError::Credentials`] of these certificates, [`ClientError::Unreachable`],
    /// [`ClientError::Tls`], or [`ClientError::Timeout`].
    pub(super) async fn open(place: &Place, limit: Duration) -> Result<Self, ClientError> {
        let address = place.address()?;
        let connector = TlsConnector::from(credentials::tls(place)?);
        let opened = timeout(limit, async {
            let unreachable = |reason| ClientError::Unreachable { server: place.server.clone(), reason };
            let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(unreachable)?;
            prepare(&tcp).map_err(unreachable)?;
            let tls = connector.connect(address.name, tcp).await;
            let tls = tls.map_err(|error| ClientError::of_handshake(error, &place.server))?;
            let mut builder = http1::Builder::new();
            builder.max_buf_size(BUFFER);
            let (sender, connection) = builder
                .handshake(TokioIo::new(tls))
                .await
                .map_err(|error| ClientError::of_http(&error, &place.server))?;
            Ok(Self { sender, server: place.server.clone(), _task: Task::run(connection, &place.server) })
        });
        let late =
            |_| ClientError::Timeout { server: place.server.clone(), step: "the connection", after: limit };
        opened.await.map_err(late)?
    }

    /// Waits until another request can be sent; returns false if none can.
    pub(super) async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Errors
    /// See [`AskFailure`].
    pub(super) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, AskFailure> {
        self.sender.try_send_request(request).await.map_err(|mut failure| {
            let is_unsent = failure.take_message().is_some();
            let error = ClientError::of_http(failure.error(), &self.server);
            AskFailure { is_unsent, is_closed: matches!(error, ClientError::Cut { .. }), error }
        })
    }
}

/// Sets the options of a socket: requests leave at once, and a machine that died is noticed.
fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(tcp, UNACKNOWLEDGED_MS)?;
    Ok(())
}

/// The task that moves the bytes of a connection, which it owns. It ends when this is dropped, and the connection with it.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Task {
    /// Runs `connection`.
    fn run(connection: impl Future<Output = hyper::Result<()>> + Send + 'static, server: &str) -> Self {
        let server = server.to_owned();
        Self(tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!("{}", ClientError::of_http(&error, &server));
            }
        }))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
