//! One query to one server.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpSocket, UdpSocket},
    sync::mpsc,
};

use crate::{
    framing::{Framing, frame},
    interceptor::{AttemptId, Transmit, Transport},
    message::MAX_MESSAGE,
};

/// Makes the sockets that lead to upstream servers: in the pod's namespace, marked so that they bypass the tunnel.
pub trait UpstreamSockets: Send + 'static {
    /// A UDP socket connected to `to`, from a port of the kernel's choice: the kernel then drops what comes from
    /// elsewhere, and a forger has to guess the port.
    ///
    /// # Errors
    ///
    /// What the kernel says; the attempt counts as failed.
    fn udp(&self, to: SocketAddr) -> io::Result<std::net::UdpSocket>;

    /// A TCP socket for a connection to `to`, not connected yet.
    ///
    /// # Errors
    ///
    /// What the kernel says; the attempt counts as failed.
    fn tcp(&self, to: SocketAddr) -> io::Result<Socket>;
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

    fn tcp(&self, to: SocketAddr) -> io::Result<Socket> {
        Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
    }
}

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Progress {
    Reply { attempt: AttemptId, from: SocketAddr, bytes: Vec<u8> },
    Failed { attempt: AttemptId },
}

/// A socket of an attempt.
pub(super) enum Opened {
    Udp(UdpSocket),
    Tcp(TcpSocket),
}

/// Opens the socket for `transmit`.
pub(super) fn open(sockets: &impl UpstreamSockets, transmit: &Transmit) -> io::Result<Opened> {
    match transmit.transport {
        Transport::Udp => {
            let socket = sockets.udp(transmit.to)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket).map(Opened::Udp)
        }
        Transport::Tcp => {
            let socket = sockets.tcp(transmit.to)?;
            socket.set_nonblocking(true)?;
            Ok(Opened::Tcp(TcpSocket::from_std_stream(socket.into())))
        }
    }
}

/// Sends the query and passes on what comes back, until told to stop by being dropped.
pub(super) async fn attempt(socket: Opened, transmit: Transmit, progress: mpsc::Sender<Progress>) {
    let Transmit { attempt, to, bytes, .. } = transmit;
    // Both return only when the socket is of no more use; why does not matter.
    let _error: io::Result<()> = match socket {
        Opened::Udp(socket) => by_udp(socket, attempt, &bytes, &progress).await,
        Opened::Tcp(socket) => by_tcp(socket, to, attempt, &bytes, &progress).await,
    };
    let _ended = progress.send(Progress::Failed { attempt }).await;
}

async fn by_udp(
    socket: UdpSocket,
    attempt: AttemptId,
    bytes: &Arc<[u8]>,
    progress: &mpsc::Sender<Progress>,
) -> io::Result<()> {
    socket.send(bytes).await?;
    loop {
        // An ICMP error, a closed port above all, makes the socket erroneous but not readable.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            // It is known now, and gone: wait for the next one.
            let _cleared: io::Result<()> =
                socket.try_io(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
        }
        if !ready.is_readable() {
            continue;
        }
        // The buffer is made when there is something to read: hundreds of attempts may be waiting.
        let mut buffer = vec![0; MAX_MESSAGE];
        match socket.try_recv_from(&mut buffer) {
            Ok((length, from)) => {
                buffer.truncate(length);
                buffer.shrink_to_fit();
                if progress.send(Progress::Reply { attempt, from, bytes: buffer }).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn by_tcp(
    socket: TcpSocket,
    to: SocketAddr,
    attempt: AttemptId,
    bytes: &[u8],
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
            if progress.send(Progress::Reply { attempt, from: to, bytes: message }).await.is_err() {
                return Ok(());
            }
        }
        match stream.read(&mut part).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => framing.push(&part[..length]),
        }
    }
}
