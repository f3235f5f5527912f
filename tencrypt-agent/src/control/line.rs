//! A line of the control protocol as both ends take it: the entrance of the fuzz target `control`.

use std::{
    io::{self, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
};

use super::{REQUEST_LIMIT, Reply, Request, client};
use crate::failure::Failure;

/// Reading of a line by both ends.
#[derive(Debug)]
pub struct Line {
    /// The request that a server takes it for, written again.
    pub request: Option<String>,
    /// The reply that a client takes it for, written again.
    pub reply: Option<String>,
    /// The failure that a client ends with which expected another reply, or none.
    pub failure: Failure,
}

impl Line {
    /// Reads up to 64 KiB as a server reads a request, and as a client reads a reply.
    ///
    /// # Errors
    /// The system gives no pair of sockets, or takes nothing.
    pub fn read(bytes: &[u8]) -> io::Result<Self> {
        let bytes = &bytes[..bytes.len().min(64 << 10)];
        let line = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = &line[..line.len().min(REQUEST_LIMIT as usize)];
        let request = serde_json::from_slice::<Request>(line).ok();
        let (mut server, client) = UnixStream::pair()?;
        server.write_all(bytes)?;
        server.shutdown(Shutdown::Write)?;
        let reply = client::exchange(client, &Request::Status);
        Ok(Self {
            request: request.and_then(|request| serde_json::to_string(&request).ok()),
            reply: reply.as_ref().ok().and_then(|reply| serde_json::to_string(reply).ok()),
            failure: reply.map_or_else(Failure::from, Reply::unexpected),
        })
    }
}
