//! The sockets that clients reach, and their limits.

use std::net::{TcpListener, UdpSocket};

/// Time that a client's connection may be idle, or take to deliver one message or take one answer in (RFC 7766
/// section 6.2.3 asks for a few seconds). Above the default of [`Config::give_up_after`](crate::interceptor::Config::give_up_after).
pub const IDLE: std::time::Duration = std::time::Duration::from_secs(10);

/// The sockets that clients reach, each bound to one address of the pod.
#[derive(Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "callers make it")]
pub struct Listeners {
    /// Receive and answer queries.
    pub udp: Vec<UdpSocket>,
    /// Accept connections.
    pub tcp: Vec<TcpListener>,
}
