//! Input of clients.

use std::net::SocketAddr;

use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};

use crate::interceptor::ClientKey;

/// Input of clients.
#[derive(Debug)]
pub(super) enum ClientInput {
    Datagram { listener: usize, peer: SocketAddr, bytes: Vec<u8> },
    Accepted { stream: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit },
    Message { client: ClientKey, peer: SocketAddr, bytes: Vec<u8> },
    Gone { client: ClientKey },
}
