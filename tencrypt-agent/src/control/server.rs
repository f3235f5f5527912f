//! The server: a task that passes questions on to the lane.

use std::{
    fs, io,
    net::IpAddr,
    os::{
        fd::AsFd as _,
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::UnixStream as StdStream,
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tencrypt_tun::RouteLookup;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{REQUEST_LIMIT, Reply, Request, TIMEOUT};
use crate::{
    lane::channel::{Command, LaneError, Lanes},
    os::sys,
    report::{StatusReport, merged},
};

/// Connections served at a time; more wait.
const CONNECTIONS: usize = 8;

/// Pause after accepting failed (no descriptors left), so that the task does not spin.
const RECOVERY: Duration = Duration::from_millis(100);

/// Bytes of a reply that a client must take within the time that is waited for it. A reply has as many of them as it needs.
const PIECE: usize = 64 << 10;

/// The answer of a program that has no agent.
const NO_AGENT: &str = "this program reads files: no agent has started it";

/// The answer to an agent that does not wait for the reply.
const TOO_EARLY: &str = "nothing may follow the request before the reply";

/// Whoever knows the answers.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    lanes: Lanes,
    /// `None`: nobody says where the kernel leads a packet.
    routes: Option<Arc<Mutex<RouteLookup>>>,
    /// `None`: nobody looks at the kernel.
    looks: Option<mpsc::Sender<LookRequest>>,
    /// `None`: the program reads files.
    adoptions: Option<mpsc::Sender<StdStream>>,
}

/// Asks for what `status` says of the kernel, counters and servers, to be read now; answered when the lanes have it.
pub(crate) type LookRequest = oneshot::Sender<()>;

impl Asked {
    /// Has the lanes answer, and the kernel where it decides before them; `looks` go to whoever looks at it.
    pub(crate) fn new(lanes: Lanes, routes: RouteLookup, looks: mpsc::Sender<LookRequest>) -> Self {
        Self { lanes, routes: Some(Arc::new(Mutex::new(routes))), looks: Some(looks), adoptions: None }
    }

    /// The same, for a program of an agent's: the channels of later agents go to `adoptions`.
    pub(crate) fn with_adoptions(self, adoptions: mpsc::Sender<StdStream>) -> Self {
        Self { adoptions: Some(adoptions), ..self }
    }

    /// Asks the kernel and every lane for the status.
    ///
    /// # Errors
    /// A lane does not answer.
    pub(crate) async fn status(&self) -> Result<Box<StatusReport>, LaneError> {
        self.look().await;
        let sum = self.lanes.ask_all(Command::Status).await?.into_iter().reduce(|mut sum, report| {
            sum.add(report);
            sum
        });
        let mut sum = sum.ok_or(LaneError::Gone)?;
        sum.peers = merged(sum.peers);
        Ok(Box::new(sum))
    }

    /// Waits until the kernel was looked at. At the program's end nobody does.
    async fn look(&self) {
        let Some(looks) = &self.looks else { return };
        let (done, looked) = oneshot::channel();
        if looks.send(done).await.is_ok() {
            let _ = looked.await;
        }
    }

    /// Returns true if the kernel leads packets to `destination` around the tunnel.
    fn leads_around(&self, destination: IpAddr) -> Option<bool> {
        let mut routes = self.routes.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        match routes.leads_around(destination) {
            Ok(around) => Some(around),
            Err(error) => {
                tracing::warn!(%error, "route");
                None
            }
        }
    }
}

/// The control socket; its file goes when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`. The caller holds the namespace's lock: a socket found there belongs to nobody any more.
    ///
    /// # Errors
    /// The socket cannot be made at that path.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled, as every tokio socket does.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path)?,
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// Serves until it is cancelled.
    pub(crate) async fn serve(&self, asked: Asked) {
        self.serve_patiently(asked, TIMEOUT).await;
    }

    /// The same, with `patience` for each step of a client: its question, and each [`PIECE`] of the reply.
    async fn serve_patiently(&self, asked: Asked, patience: Duration) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let asked = asked.clone();
                    tokio::spawn(async move {
                        // A client that goes away or dawdles is its own loss.
                        let _ = converse(stream, &asked, patience).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    tokio::time::sleep(RECOVERY).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(mut stream: UnixStream, asked: &Asked, patience: Duration) -> io::Result<()> {
    if !sys::is_peer_allowed(stream.as_fd())? {
        return respond(&mut stream, &Reply::Refused("not permitted".to_owned()), patience).await;
    }
    let mut line = Vec::new();
    let mut reader = BufReader::new((&mut stream).take(REQUEST_LIMIT));
    timeout(patience, reader.read_until(b'\n', &mut line)).await??;
    let reply = match serde_json::from_slice(&line) {
        // What came with the request would be lost.
        Ok(Request::Adopt) if !reader.buffer().is_empty() => Reply::Refused(TOO_EARLY.to_owned()),
        Ok(Request::Adopt) if asked.adoptions.is_some() => return hand_over(stream, asked, patience).await,
        Ok(request) => answer(request, asked).await.unwrap_or_else(|error| Reply::Refused(error.to_string())),
        Err(_) => Reply::Refused("the request makes no sense: another version?".to_owned()),
    };
    respond(&mut stream, &reply, patience).await
}

/// Hands the connection over as the channel of an agent.
async fn hand_over(mut stream: UnixStream, asked: &Asked, patience: Duration) -> io::Result<()> {
    let Some(adoptions) = &asked.adoptions else { return Ok(()) };
    write(&mut stream, &Reply::Adopting, patience).await?;
    // At the program's end nobody takes it.
    let _ = adoptions.send(stream.into_std()?).await;
    Ok(())
}

async fn answer(request: Request, asked: &Asked) -> Result<Reply, LaneError> {
    tracing::trace!(?request, "asked");
    let lanes = &asked.lanes;
    Ok(match request {
        Request::Status => Reply::Status(asked.status().await?),
        Request::Peers => Reply::Peers(merged(lanes.ask_all(Command::Peers).await?.concat())),
        Request::Explain { source, destination } => {
            // Without ports nobody knows which lane a packet would take; the first knows as much as any.
            let first = lanes.first().ok_or(LaneError::Gone)?;
            let mut report = first.ask(|reply| Command::Explain { source, destination, reply }).await?;
            report.note_route(asked.leads_around(destination));
            Reply::Explanation(Box::new(report))
        }
        Request::Adopt => Reply::Refused(NO_AGENT.to_owned()),
        Request::Stop => {
            lanes.send_all(|| Command::Stop).await?;
            Reply::Stopping
        }
    })
}

/// Writes a reply of whatever length to a client that goes on taking it.
async fn respond(stream: &mut UnixStream, reply: &Reply, patience: Duration) -> io::Result<()> {
    write(stream, reply, patience).await?;
    stream.shutdown().await
}

async fn write(stream: &mut UnixStream, reply: &Reply, patience: Duration) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    for piece in line.chunks(PIECE) {
        timeout(patience, stream.write_all(piece)).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};

    use super::*;
    use crate::{
        control::client,
        lane::channel::channel,
        report::{ChainsReport, ExplainReport, IdentityReport, PacketsReport, PeerReport, drops},
    };

    /// Serves a lane that knows one answer, while `ask` talks to the socket on a thread of its own.
    fn with_server(name: &str, ask: impl FnOnce(&Path) + Send + 'static) {
        with_patient_server(name, TIMEOUT, serve_one, ask);
    }

    fn with_patient_server(
        name: &str,
        patience: Duration,
        serve_one: fn(Command) -> bool,
        ask: impl FnOnce(&Path) + Send + 'static,
    ) {
        let path = std::env::temp_dir().join(format!("tencrypt-control-{}-{name}", std::process::id()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let socket = ControlSocket::bind(&path).unwrap();
            let (handle, inbox) = channel().unwrap();
            let lane = std::thread::spawn(move || {
                let mut stopped = false;
                while !stopped {
                    let _ = sys::poll([Some(inbox.as_fd())], None).unwrap();
                    inbox.drain(|command| stopped |= serve_one(command));
                }
            });
            let asked =
                Asked { lanes: Lanes::new(vec![handle.clone()]), routes: None, looks: None, adoptions: None };
            let client = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || ask(&path))
            };
            tokio::select! {
                () = socket.serve_patiently(asked, patience) => unreachable!("serves until it is cancelled"),
                done = client => done.unwrap(),
            }
            let _ = handle.send(Command::Stop).await;
            lane.join().unwrap();
            drop(socket);
            assert!(!path.exists());
        });
    }

    fn serve_one(command: Command) -> bool {
        match command {
            Command::Status(reply) => drop(reply.send(status())),
            Command::Peers(reply) => drop(reply.send(vec![])),
            Command::Explain { source, destination, reply } => drop(reply.send(ExplainReport {
                source: source.unwrap_or(destination),
                destination,
                verdict: "hold".into(),
                reason: None,
                peer: None,
                standing: "unknown".into(),
                fact: None,
                seen_internal: false,
                protected: true,
                own_source: true,
                around: None,
                because: vec!["nobody classified it".into()],
            })),
            Command::Facts { done, .. } => drop(done.send(())),
            Command::Stop => return true,
            other => panic!("{other:?}"),
        }
        false
    }

    fn status() -> StatusReport {
        let stats = tencrypt::Stats::new();
        StatusReport {
            program: crate::report::ProgramReport::default(),
            network: crate::report::NetworkReport::default(),
            project: Some("shop".into()),
            mtu: 1440,
            suite: "aes-256-gcm".into(),
            suite_problem: None,
            lanes: 1,
            identity: IdentityReport::default(),
            unknown: "drop".into(),
            enforce: true,
            namespace: crate::report::NamespaceReport::default(),
            hardening: crate::report::HardeningReport::default(),
            renewal: crate::report::RenewalReport::default(),
            keys: crate::report::KeysReport { send: 2, accept: vec![1, 2], ..Default::default() },
            peers: vec![],
            chains: ChainsReport::default(),
            calls: crate::report::CallsReport::default(),
            screen: crate::report::ScreenReport::default(),
            names: None,
            packets: PacketsReport::from(&stats),
            drops: drops(&stats),
        }
    }

    fn talk(path: &Path, line: &[u8]) -> Reply {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(line).unwrap();
        let mut answer = String::new();
        std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    #[test]
    fn each_request_gets_the_lanes_answer() {
        with_server("each", |path| {
            let ask = |request| {
                client::exchange(std::os::unix::net::UnixStream::connect(path).unwrap(), &request).unwrap()
            };
            assert_eq!(ask(Request::Status), Reply::Status(Box::new(status())));
            assert_eq!(ask(Request::Peers), Reply::Peers(vec![]));
            let (source, destination) = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
            for asked in [None, Some(source)] {
                let Reply::Explanation(report) = ask(Request::Explain { source: asked, destination }) else {
                    panic!("no explanation")
                };
                assert_eq!(report.source, asked.unwrap_or(destination));
            }
            assert_eq!(ask(Request::Stop), Reply::Stopping);
        });
    }

    #[test]
    fn nonsense_is_refused_and_the_next_client_served() {
        with_server("nonsense", |path| {
            for line in [&b"\n"[..], b"status\n", b"{\"request\":\"format\"}\n", &[b'x'; 4096]] {
                assert!(matches!(talk(path, line), Reply::Refused(_)), "{line:?}");
            }
            let silent: Vec<_> =
                (1..CONNECTIONS).map(|_| std::os::unix::net::UnixStream::connect(path).unwrap()).collect();
            assert_eq!(talk(path, b"{\"request\":\"peers\"}\n"), Reply::Peers(vec![]));
            drop(silent);
        });
    }

    fn serve_peers<const MANY: usize>(command: Command) -> bool {
        let Command::Peers(reply) = command else { return serve_one(command) };
        let name = "0".repeat(1_016);
        let peer = |number: usize| PeerReport {
            peer: format!("{name}{number:08}"),
            address: None,
            addresses: vec![],
            endpoint: "10.0.0.1:8362".parse().unwrap(),
            suite: "aes-256-gcm".into(),
            epoch: 1,
            generation: None,
            last_handshake_s: None,
            rx_bytes: 0,
            tx_bytes: 0,
            lanes: 1,
        };
        drop(reply.send((0..MANY).map(peer).collect()));
        false
    }

    #[test]
    fn a_reply_of_any_length_reaches_a_client_that_goes_on_reading() {
        const MANY: usize = 20_000;
        let patience = Duration::from_millis(1_000);
        with_patient_server("many", patience, serve_peers::<MANY>, move |path| {
            let connect = || std::os::unix::net::UnixStream::connect(path).unwrap();
            let Reply::Peers(peers) = client::exchange(connect(), &Request::Peers).unwrap() else {
                panic!("no peers")
            };
            assert_eq!(peers.len(), MANY);
            // One that is slow: more than the server's patience in all, and never that long without reading.
            let mut stream = connect();
            stream.write_all(b"{\"request\":\"peers\"}\n").unwrap();
            let (begun, mut length, mut piece) = (std::time::Instant::now(), 0, vec![0; 1 << 20]);
            loop {
                match std::io::Read::read(&mut stream, &mut piece).unwrap() {
                    0 => break,
                    read => length += read,
                }
                std::thread::sleep(if begun.elapsed() < 2 * patience {
                    patience / 10
                } else {
                    Duration::ZERO
                });
            }
            assert!(begun.elapsed() > patience && length > 16 << 20, "{length}");
        });
    }

    #[test]
    fn a_client_that_stops_reading_is_left_and_the_next_one_served() {
        let patience = Duration::from_millis(200);
        with_patient_server("stalled", patience, serve_peers::<2_000>, move |path| {
            let connect = || std::os::unix::net::UnixStream::connect(path).unwrap();
            let stalled: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    let mut stream = connect();
                    stream.write_all(b"{\"request\":\"peers\"}\n").unwrap();
                    stream
                })
                .collect();
            assert!(matches!(client::exchange(connect(), &Request::Status), Ok(Reply::Status(_))));
            // What it has not been sent is known to be missing.
            let cut = client::receive(stalled.into_iter().next().unwrap());
            assert!(matches!(cut, Err(client::ClientError::CutOff)), "{cut:?}");
        });
    }

    #[test]
    fn the_socket_is_its_owners_alone() {
        with_server("mode", |path| {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        });
        assert!(sys::is_allowed(0, 1000) && sys::is_allowed(1000, 1000) && !sys::is_allowed(1001, 1000));
        assert!(!sys::is_allowed(1000, 0));
    }

    #[test]
    fn a_socket_left_by_the_dead_is_replaced_and_other_files_are_not() {
        let path = std::env::temp_dir().join(format!("tencrypt-control-{}-stale", std::process::id()));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        drop(ControlSocket::bind(&path).unwrap());
        fs::write(&path, "a file").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_file(path).unwrap();
    }
}
