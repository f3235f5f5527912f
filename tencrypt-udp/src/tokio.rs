//! Readiness through tokio's reactor.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::pin,
    task::Poll,
};

pub use bytes::BytesMut;
use tencrypt::RecvMeta;
use tokio::{
    io::{Interest, Ready},
    net::UdpSocket,
};

use crate::{
    Family, UdpTransport,
    receive::{Receipt, Room},
};

/// Bytes of the longest datagram or train.
const LONGEST: usize = 65_535;

/// A [`UdpTransport`] whose receiving waits.
pub struct AsyncUdpTransport {
    transport: UdpTransport,
    /// Duplicates of the transport's descriptors, for the reactor alone.
    registered: [Option<UdpSocket>; 2],
}

impl AsyncUdpTransport {
    /// Registers the sockets with the current runtime's reactor.
    ///
    /// # Errors
    /// Error of the reactor, as for lack of descriptors.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled, as every tokio socket does.
    pub fn new(transport: UdpTransport) -> io::Result<Self> {
        let register = |family| -> io::Result<Option<UdpSocket>> {
            let Some(socket) = transport.socket(family) else { return Ok(None) };
            UdpSocket::from_std(socket.try_clone_to_owned()?.into()).map(Some)
        };
        let registered = [register(Family::V4)?, register(Family::V6)?];
        Ok(Self { transport, registered })
    }

    /// Receives one datagram or train, or returns `None` when path errors wait to be polled. Cancelling loses nothing.
    ///
    /// # Errors
    /// As [`UdpTransport::recv`].
    pub async fn recv(&mut self, buf: &mut [u8]) -> io::Result<Option<(RecvMeta, usize)>> {
        self.receive(buf).await
    }

    /// As [`recv`](Self::recv), behind what is in `buf`, which is given room for the longest train. A caller who takes
    /// each away by [`split`](BytesMut::split) and drops it before the next one has `buf` allocate once.
    ///
    /// # Errors
    /// As [`UdpTransport::recv`].
    pub async fn recv_buf(&mut self, buf: &mut BytesMut) -> io::Result<Option<RecvMeta>> {
        buf.reserve(LONGEST);
        Ok(self.receive(buf).await?.map(|(meta, _len)| meta))
    }

    async fn receive(&mut self, room: &mut (impl Room + ?Sized)) -> io::Result<Option<(RecvMeta, usize)>> {
        let [v4, v6] = &self.registered;
        loop {
            let (socket, state) = {
                let mut v4_ready = pin!(ready(v4.as_ref()));
                let mut v6_ready = pin!(ready(v6.as_ref()));
                let either = poll_fn(|context| match v4_ready.as_mut().poll(context) {
                    Poll::Pending => v6_ready.as_mut().poll(context),
                    done => done,
                });
                either.await?
            };
            // try_io notes the readiness before the attempt and clears no other when there was nothing. It takes one
            // interest at a time.
            if state.is_error() {
                let _cleared = socket.try_io(Interest::ERROR, || {
                    self.transport.drain_path_errors();
                    Err::<(), _>(io::ErrorKind::WouldBlock.into())
                });
            }
            if state.is_readable() {
                let attempt = socket.try_io(Interest::READABLE, || match self.transport.receive(room)? {
                    Receipt::Datagram(meta, len) => Ok(Some((meta, len))),
                    Receipt::PassedOver => Ok(None),
                    Receipt::Empty => Err(io::ErrorKind::WouldBlock.into()),
                });
                match attempt {
                    Ok(Some(received)) => return Ok(Some(received)),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    Ok(None) | Err(_) => {}
                }
            }
            if self.transport.has_path_error() {
                return Ok(None);
            }
        }
    }

    /// The transport itself: sending, path errors, counters.
    pub fn transport(&mut self) -> &mut UdpTransport {
        &mut self.transport
    }
}

/// Waits until `socket` has a datagram or an error; forever if there is no socket.
async fn ready(socket: Option<&UdpSocket>) -> io::Result<(&UdpSocket, Ready)> {
    match socket {
        Some(socket) => Ok((socket, socket.ready(Interest::READABLE.add(Interest::ERROR)).await?)),
        None => pending().await,
    }
}
