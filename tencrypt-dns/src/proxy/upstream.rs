//! The way to nameservers, and one query by TCP.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::{mpsc, oneshot},
};

use super::connection::Queue;
use crate::{
    framing::{Framing, frame},
    interceptor::{AttemptId, Transmit},
    message::MAX_MESSAGE,
};

/// Makes the sockets that lead to upstream servers: in the pod's namespace, marked so that they bypass the tunnel.
pub trait UpstreamSockets: Send + 'static {
    /// A UDP socket connected to `to`, from a port of the kernel's choice: the kernel then drops what comes from
    /// elsewhere, and a forger has to guess the port.
    ///
    /// # Errors
    /// Any error of socket(2) or bind(2); the attempt counts as failed.
    fn udp(&self, to: SocketAddr) -> io::Result<std::net::UdpSocket>;

    /// A TCP socket for a connection to `to`, not connected yet.
    ///
    /// # Errors
    /// Any error of socket(2) or its options; the attempt counts as failed.
    fn tcp(&self, to: SocketAddr) -> io::Result<OwnedFd>;
}

/// Ordinary sockets of the calling process: no mark, no namespace. For programs that lead no traffic through a tunnel.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "has nothing to it")]
pub struct PlainSockets;

impl UpstreamSockets for PlainSockets {
    fn udp(&self, to: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let socket = match to {
            SocketAddr::V4(_) => std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
        }?;
        socket.connect(to)?;
        Ok(socket)
    }

    fn tcp(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).map(OwnedFd::from)
    }
}

/// Names a socket of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SocketId(pub(super) u64);

/// Input from nameservers.
#[derive(Debug)]
pub(super) enum Progress {
    Reply {
        attempt: AttemptId,
        from: SocketAddr,
        bytes: Vec<u8>,
        /// Dropped when all that follows from it is done.
        taken: oneshot::Sender<()>,
    },
    Failed {
        attempt: AttemptId,
    },
    /// Something came to a shared socket.
    Datagram {
        socket: SocketId,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A shared socket is of no more use.
    Broken {
        socket: SocketId,
    },
}

/// Opens the socket for a query by TCP.
pub(super) fn open(sockets: &impl UpstreamSockets, transmit: &Transmit) -> io::Result<TcpSocket> {
    // A stream in name alone until it is connected: the form that tokio takes a socket in.
    let socket = TcpStream::from(sockets.tcp(transmit.to)?);
    socket.set_nonblocking(true)?;
    Ok(TcpSocket::from_std_stream(socket))
}

/// Sends the query by TCP and passes on what comes back, as fast as the client whose `queue` it is takes it in, until
/// told to stop by being dropped.
pub(super) async fn attempt(
    socket: TcpSocket,
    transmit: Transmit,
    queue: Queue,
    progress: mpsc::Sender<Progress>,
) {
    let Transmit { attempt, to, bytes, .. } = transmit;
    // It returns only when the socket is of no more use; why does not matter.
    let _error: io::Result<()> = by_tcp(socket, (to, attempt), &bytes, &queue, &progress).await;
    let _ended = progress.send(Progress::Failed { attempt }).await;
}

async fn by_tcp(
    socket: TcpSocket,
    (to, attempt): (SocketAddr, AttemptId),
    bytes: &[u8],
    queue: &Queue,
    progress: &mpsc::Sender<Progress>,
) -> io::Result<()> {
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let framed = frame(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&framed).await?;
    let mut framing = Framing::new(MAX_MESSAGE);
    let mut part = [0; 4096];
    loop {
        while let Some(message) = framing.next_message().map_err(|_| io::ErrorKind::InvalidData)? {
            let (taken, done) = oneshot::channel();
            let reply = Progress::Reply { attempt, from: to, bytes: message, taken };
            if progress.send(reply).await.is_err() {
                return Ok(());
            }
            // Dropped without a word.
            let _dropped = done.await;
            queue.room().await;
        }
        match stream.read(&mut part).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => framing.push(&part[..length]),
        }
    }
}
