//! The protocol between the plugin and the node agent: one connection, one request, one reply, each one line of JSON that its
//! end of the connection follows. The pod's network namespace goes over as a descriptor beside the request's first byte.
//!
//! Everything is bounded, in bytes and in time, at both ends.

mod client;
mod message;
mod server;
mod wire;

pub use client::{AskError, ask};
pub use message::{Attachment, Held, LineError, Pod, REPLY_LIMIT, REQUEST_LIMIT, Reply, Request, VERSION};
pub use server::{Call, ReceiveError, is_permitted, receive, respond};
pub use wire::WireError;

/// The socket where the node agent listens, unless the network configuration names another.
pub const SOCKET: &str = "/run/tencrypt/node.sock";
