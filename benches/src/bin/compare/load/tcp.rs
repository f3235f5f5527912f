//! TCP at full rate: all streams of an end are served by one thread.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CONNECT, Flow, LOOK, Shared, is_passing};
use crate::network::Network;

/// The length of one write or read, bytes: as much as iperf3 does.
const CHUNK: usize = 128 << 10;

/// The direction of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Opens `streams` connections to `target`, the server's address, and sends as fast as it goes.
///
/// # Errors
///
/// No connection.
pub(crate) fn start(network: &Network, target: IpAddr, streams: usize, way: Way) -> io::Result<Flow> {
    let [client, server] = network.ends();
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    listener.set_nonblocking(true)?;
    let to = SocketAddr::new(target, listener.local_addr()?.port());
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..streams {
        clients.push(client.run(|| TcpStream::connect_timeout(&to, CONNECT))?);
        servers.push(accept(&listener)?);
    }
    for stream in clients.iter().chain(&servers) {
        stream.set_nonblocking(true)?;
    }
    let (senders, receivers) = if way == Way::Up { (clients, servers) } else { (servers, clients) };
    Ok(Flow::start(
        move |shared: &Shared| {
            let chunk = vec![0x5a; CHUNK];
            serve(&senders, PollFlags::OUT, shared, &shared.sent, |mut stream| stream.write(&chunk))
        },
        move |shared: &Shared| {
            let mut chunk = vec![0; CHUNK];
            serve(&receivers, PollFlags::IN, shared, &shared.received, |mut stream| stream.read(&mut chunk))
        },
    ))
}

/// Moves once whatever stream is ready, again and again until the flow stops.
fn serve(
    streams: &[TcpStream],
    ready: PollFlags,
    shared: &Shared,
    count: &AtomicU64,
    mut transfer: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> io::Result<()> {
    let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
    let mut polled: Vec<PollFd<'_>> = streams.iter().map(|stream| PollFd::new(stream, ready)).collect();
    while !shared.stopped() {
        match poll(&mut polled, Some(&wait)) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        for (stream, polled) in streams.iter().zip(&mut polled) {
            if polled.revents().is_empty() {
                continue;
            }
            polled.clear_revents();
            match transfer(stream) {
                // The other end has stopped first, or the connection broke; the flow's end tells which.
                Ok(0) if ready == PollFlags::IN => return ended(shared),
                Ok(length) => {
                    count.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return ended(shared).map_err(|_| error),
            }
        }
    }
    Ok(())
}

/// Tells if the end of a connection is the flow's; the two threads see the flag a moment apart.
fn ended(shared: &Shared) -> io::Result<()> {
    thread::sleep(LOOK / 10);
    if shared.stopped() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let end = Instant::now() + CONNECT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if !is_passing(&error) || Instant::now() >= end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}
