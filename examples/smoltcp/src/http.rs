//! HTTP/1.1, as little of it as will do.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use smoltcp::{iface::SocketHandle, socket::tcp};

use crate::pod::{Failure, Pod};

/// Bytes of a socket's buffer in a direction.
const BUFFER: usize = 64 << 10;
/// Longest request or response.
const LONGEST: usize = 1 << 20;
/// Port that a connection leaves from: there is one at a time.
const LOCAL_PORT: u16 = 49_152;

impl Pod {
    /// Fetches `path` from the server at `to`, and returns the body.
    ///
    /// # Errors
    /// No connection, one that broke, no answer within `limit`, or one that is not `200`.
    pub fn get(&mut self, to: SocketAddrV4, path: &str, limit: Duration) -> Result<Vec<u8>, Failure> {
        let end = Instant::now() + limit;
        let mut socket = socket();
        let peer: (Ipv4Addr, u16) = (*to.ip(), to.port());
        socket.connect(self.interface.context(), peer, LOCAL_PORT)?;
        let handle = self.sockets.add(socket);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", to.ip());
        let answer = self.exchange(handle, request.as_bytes(), end);
        self.sockets.remove(handle);
        let answer = answer?;
        let head = head_end(&answer).ok_or("the answer has no end of its head")?;
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("the answer is {}", String::from_utf8_lossy(&answer[..head])).into());
        }
        Ok(answer[head..].to_vec())
    }

    /// Answers requests at `port` with `body`, one after the other, until `is_over`.
    ///
    /// # Errors
    /// Those of the socket below the tunnel.
    pub fn serve(&mut self, port: u16, body: &str, is_over: impl Fn() -> bool) -> Result<(), Failure> {
        let handle = self.sockets.add(socket());
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let (mut request, mut left) = (Vec::new(), answer.as_bytes());
        while !is_over() {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if !socket.is_open() {
                socket.listen(port)?;
                (request, left) = (Vec::new(), answer.as_bytes());
            }
            take(socket, &mut request)?;
            if head_end(&request).is_some() && socket.may_send() {
                left = &left[socket.send_slice(left)?..];
                if left.is_empty() {
                    socket.close();
                }
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Sends a request and returns all that comes until the other side closes.
    fn exchange(&mut self, handle: SocketHandle, request: &[u8], end: Instant) -> Result<Vec<u8>, Failure> {
        let (mut left, mut answer) = (request, Vec::new());
        while Instant::now() < end {
            self.turn()?;
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if !left.is_empty() && socket.may_send() {
                left = &left[socket.send_slice(left)?..];
            }
            take(socket, &mut answer)?;
            let is_asked = left.is_empty() || !socket.is_open();
            if is_asked && !socket.may_recv() {
                socket.close();
                // The end of the connection is told to the other side.
                self.turn()?;
                return Ok(answer);
            }
        }
        Err("no answer in time".into())
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
    tcp::Socket::new(buffer(), buffer())
}

/// Takes what has arrived.
fn take(socket: &mut tcp::Socket<'_>, into: &mut Vec<u8>) -> Result<(), Failure> {
    while socket.can_recv() {
        let len = socket.recv(|bytes| {
            into.extend_from_slice(bytes);
            (bytes.len(), bytes.len())
        })?;
        if len == 0 || into.len() > LONGEST {
            return Err("more than anybody asked for".into());
        }
    }
    Ok(())
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
