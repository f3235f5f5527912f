//! A proxy on loopback, its clients, and toy nameservers.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tencrypt::directory::{Class, Fact};
use tencrypt_dns::{
    Name, Project, Ranges,
    interceptor::{Config, Stats},
    proxy::{FactSink, Handle, Listeners, PlainSockets, Proxy, UpstreamSockets},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::wire;

pub(crate) const INTERNAL: &str = "web.shop.svc.cluster.local";
/// More than any exchange on loopback takes, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Keeps facts, one permit each time it may return.
#[derive(Debug, Clone)]
pub(crate) struct Sink {
    pub(crate) facts: Arc<Mutex<Vec<Fact>>>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Sink {
    pub(crate) fn with_permits(permits: usize) -> Self {
        Self { facts: Arc::default(), permits: Arc::new(Semaphore::new(permits)) }
    }

    pub(crate) fn told(&self) -> Vec<(String, Class)> {
        let facts = self.facts.lock().unwrap();
        facts.iter().map(|fact| (fact.prefix.addr().to_string(), fact.class)).collect()
    }
}

impl FactSink for Sink {
    async fn apply(&self, facts: Vec<Fact>) {
        self.permits.acquire().await.unwrap().forget();
        self.facts.lock().unwrap().extend(facts);
    }
}

/// A running proxy with one UDP and one TCP listener on 127.0.0.1.
pub(crate) struct Running {
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) sink: Sink,
    pub(crate) handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn config(upstreams: &[SocketAddr]) -> Config {
    let project = Project::new("shop", Name::from_text("cluster.local").unwrap()).unwrap();
    let ranges = Ranges { protected: vec!["10.0.0.0/8".parse().unwrap()], exempt: vec![] };
    let mut config = Config::new(project, vec!["127.0.0.1".parse().unwrap()], ranges);
    config.upstreams = upstreams.to_vec();
    config
}

pub(crate) fn start_with(config: Config, sockets: impl UpstreamSockets, sink: Sink) -> Running {
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp_address, tcp_address) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let listeners = Listeners { udp: vec![udp], tcp: vec![tcp] };
    let proxy = Proxy::new(config, listeners, sockets, sink.clone()).unwrap();
    let handle = proxy.handle();
    let task = tokio::spawn(async move {
        let Err(error) = proxy.run().await;
        panic!("{error}");
    });
    Running { udp: udp_address, tcp: tcp_address, sink, handle, task }
}

pub(crate) fn start(upstreams: &[SocketAddr]) -> Running {
    start_with(config(upstreams), PlainSockets, Sink::with_permits(1_000_000))
}

/// A nameserver that answers queries by `answer`; `None` is silence.
pub(crate) async fn udp_server(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = answer(&buffer[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    address
}

/// The same by TCP. The answer goes out one byte a write, and connections stay open.
pub(crate) async fn tcp_server(answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                while let Ok(query) = read_message(&mut stream).await {
                    for byte in framed(&answer(&query)) {
                        stream.write_all(&[byte]).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A client's socket, connected to the proxy.
pub(crate) async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

pub(crate) async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    buffer[..length].to_vec()
}

pub(crate) async fn exchange(to: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = client(to).await;
    socket.send(query).await.unwrap();
    receive(&socket).await
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(LONG, future).await.expect("in time")
}

/// Waits until the counters say so.
pub(crate) async fn until(handle: &Handle, condition: impl Fn(&Stats) -> bool) {
    let end = Instant::now() + LONG;
    while !condition(&handle.stats()) {
        assert!(Instant::now() < end, "{:?}", handle.stats());
        sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn internal_answer(query: &[u8]) -> Vec<u8> {
    wire::reply(query, &[wire::address(INTERNAL, 60, "10.96.7.7")])
}
