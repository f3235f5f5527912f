//! A small request and response in HTTP/1.1, for content that people recognise on the wire.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{During, Error, Result, is_timeout};
use crate::listener::Listener;
use crate::netns::NetNs;
use crate::tcp::connect;
use crate::topology::Pod;

/// Longest head of a request or response read, bytes.
const HEAD: usize = 16 << 10;
/// Longest response read, bytes.
const RESPONSE: u64 = 1 << 20;

/// Answers every request with the same body, until dropped.
pub struct HttpServer {
    listener: Listener,
}

impl HttpServer {
    /// Listens on all addresses of a pod.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16, body: impl Into<Vec<u8>>) -> Result<Self> {
        let body = body.into();
        let serve = move |mut stream: TcpStream| {
            read_head(&mut stream)?;
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
            stream.write_all(&body)
        };
        Ok(Self { listener: Listener::start(pod.netns(), port, serve)? })
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.listener.accepted()
    }
}

/// Asks an [`HttpServer`] with `secret` in the request's head, and returns the body of its answer.
///
/// # Errors
/// No connection, one that broke, no answer within `limit`, or one that is not `200`.
pub fn http_get(from: &NetNs, to: SocketAddr, host: &str, secret: &str, limit: Duration) -> Result<Vec<u8>> {
    const WHAT: &str = "an HTTP request";
    let mut stream = connect(from, to)?;
    stream.set_read_timeout(Some(limit)).during(WHAT)?;
    stream.set_write_timeout(Some(limit)).during(WHAT)?;
    let request =
        format!("GET /account HTTP/1.1\r\nHost: {host}\r\nCookie: {secret}\r\nConnection: close\r\n\r\n");
    let mut response = Vec::new();
    let talk = stream
        .write_all(request.as_bytes())
        .and_then(|()| Read::by_ref(&mut stream).take(RESPONSE).read_to_end(&mut response));
    match talk {
        Err(error) if is_timeout(&error) => return Err(Error::Timeout { what: WHAT, limit }),
        other => other.during(WHAT)?,
    };
    let head = head_end(&response).ok_or(Error::Malformed("the HTTP response has no end of its head"))?;
    if !response.starts_with(b"HTTP/1.1 200 ") {
        return Err(Error::Malformed("the HTTP response is not 200"));
    }
    Ok(response.split_off(head))
}

fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head_end(&head).is_none() {
        let length = stream.read(&mut chunk)?;
        if length == 0 || head.len() > HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&chunk[..length]);
    }
    Ok(())
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
