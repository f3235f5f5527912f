//! A server for the tests, which does what they say.

use std::{fs, path::PathBuf, process, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    join,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use zeroize::Zeroizing;

use super::super::{Client, ClientError, Place};

/// The time of a whole test: far more than it takes.
pub(super) const TEST_LIMIT: Duration = Duration::from_secs(60);

/// A server that answers what the test says, byte by byte, and a client of it whose files are in a folder of their own.
pub(super) struct World {
    pub(super) listener: TcpListener,
    acceptor: TlsAcceptor,
    pub(super) folder: PathBuf,
    pub(super) client: Client,
}

impl World {
    /// Listens at `ip`; the client connects to `host`.
    pub(super) async fn of(name: &str, ip: &str, host: &str) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let folder = std::env::temp_dir().join(format!("tencrypt-kubernetes-{}-{name}", process::id()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("ca.crt"), include_bytes!("../testdata/ca.pem")).unwrap();
        fs::write(folder.join("token"), "first-token\n").unwrap();
        let chain = vec![CertificateDer::from_pem_slice(include_bytes!("../testdata/server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/server.key")).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::new(Place {
            server: format!("https://{host}:{}", listener.local_addr().unwrap().port()),
            token: folder.join("token"),
            ca: folder.join("ca.crt"),
        });
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), folder, client }
    }

    /// Waits for a connection and a request on it, and answers that.
    pub(super) async fn accept_and_answer(&self, body: &str) -> Peer {
        let mut peer = self.accept().await;
        peer.request().await;
        peer.answer(body).await;
        peer
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> Peer {
        let (tcp, _) = self.listener.accept().await.unwrap();
        Peer(self.acceptor.accept(tcp).await.unwrap())
    }

    /// Waits for a connection that the client gives up before HTTP.
    pub(super) async fn accept_in_vain(&self) {
        let (tcp, _) = self.listener.accept().await.unwrap();
        assert!(self.acceptor.accept(tcp).await.is_err());
    }

    /// Asks for `/a` while a new connection is answered `answer` and closed.
    pub(super) async fn answered(&self, answer: &str) -> Result<String, String> {
        let serve = async {
            let mut peer = self.accept().await;
            peer.request().await;
            peer.send(answer).await;
            peer.close().await;
        };
        text(join!(self.client.get("/a", 100), serve).0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The server's end of a connection.
pub(super) struct Peer(pub(super) TlsStream<TcpStream>);

impl Peer {
    /// Reads a request: its head, and its body if it says how long it is.
    pub(super) async fn request(&mut self) -> String {
        let head = self.request_head().await;
        let len = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let mut body = vec![0; len.map_or(0, |len| len.parse().unwrap())];
        self.0.read_exact(&mut body).await.unwrap();
        head + str::from_utf8(&body).unwrap()
    }

    /// Reads the head of a request, and no byte more.
    pub(super) async fn request_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Sends bytes as they are.
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The client may have seen enough.
        let _ = self.0.write_all(bytes.as_ref()).await;
        let _ = self.0.flush().await;
    }

    /// Sends an answer with a body, and keeps the connection.
    pub(super) async fn answer(&mut self, body: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    }

    /// Sends the head of an answer in chunks.
    pub(super) async fn begin_chunks(&mut self) {
        self.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
    }

    /// Sends a chunk.
    pub(super) async fn chunk(&mut self, bytes: &str) {
        self.send(format!("{:x}\r\n{bytes}\r\n", bytes.len())).await;
    }

    /// Closes the connection as TLS wants it.
    pub(super) async fn close(&mut self) {
        let _ = self.0.shutdown().await;
    }

    /// Waits until the client closes the connection.
    pub(super) async fn closed(mut self) {
        assert!(matches!(self.0.read(&mut [0; 1]).await, Ok(0) | Err(_)), "it sends more");
    }
}

/// Runs a test against a server at 127.0.0.1.
pub(super) fn with_world(name: &str, test: impl AsyncFnOnce(&mut World)) {
    with_world_at(name, "127.0.0.1", "127.0.0.1", test);
}

/// Runs a test against a server at `ip` that the client knows as `host`.
pub(super) fn with_world_at(name: &str, ip: &str, host: &str, test: impl AsyncFnOnce(&mut World)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::of(name, ip, host).await;
        timeout(TEST_LIMIT, test(&mut world)).await.expect("the test takes too long");
    });
}

/// Returns the body or the error of an answer as text.
pub(super) fn text(answer: Result<Zeroizing<Vec<u8>>, ClientError>) -> Result<String, String> {
    answer.map(|body| String::from_utf8(body.to_vec()).unwrap()).map_err(|error| one_line(&error))
}

/// Returns what an error says: one line, without the token.
pub(super) fn one_line(error: &ClientError) -> String {
    let said = error.to_string();
    assert!(!said.contains('\n') && !said.contains("-token"), "{said}");
    assert!(!format!("{error:?}").contains("-token"), "{error:?}");
    said
}
