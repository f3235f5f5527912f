//! UDP at full rate: one thread sends, one receives, a system call per datagram.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::Ordering,
};

use super::{Flow, LOOK, Shared, is_passing};
use crate::network::Network;

/// Sends datagrams of `length` bytes to `target`, the server's address, as fast as the socket takes them.
///
/// # Errors
///
/// No socket.
pub(crate) fn start(network: &Network, target: IpAddr, length: usize) -> io::Result<Flow> {
    let [client, server] = network.ends();
    let any = (Ipv4Addr::UNSPECIFIED, 0);
    let receiver = server.run(|| UdpSocket::bind(any))?;
    let sender = client.run(|| UdpSocket::bind(any))?;
    let to = SocketAddr::new(target, receiver.local_addr()?.port());
    client.run(|| sender.connect(to))?;
    receiver.set_read_timeout(Some(LOOK))?;
    sender.set_write_timeout(Some(LOOK))?;
    Ok(Flow::start(
        move |shared: &Shared| {
            let datagram = vec![0x5a; length];
            while !shared.stopped() {
                match sender.send(&datagram) {
                    Ok(_) => {
                        shared.sent.fetch_add(1, Ordering::Relaxed);
                    }
                    // A queue that is full is the measurement, not a failure.
                    Err(error) if is_passing(&error) || is_full(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        },
        move |shared: &Shared| {
            let mut datagram = vec![0; length + 1];
            while !shared.stopped() {
                match receiver.recv(&mut datagram) {
                    Ok(received) if received == length => {
                        shared.received.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(_) => return Err(io::Error::other("a datagram of another length")),
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        },
    ))
}

fn is_full(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}
