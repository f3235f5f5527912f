#![doc = include_str!("../README.md")]
//!
//! # Contract
//!
//! [`UdpTransport`] implements [`DatagramSink`](tencrypt::DatagramSink), so a
//! `Tunnel` seals straight into it. Records leave in the order in which they were committed, on
//! [`flush`](UdpTransport::flush) or when the buffer is full.
//!
//! Records for one destination that follow each other and are of one length, the last may be shorter, leave in one
//! message, whether they were committed together or one by one: the kernel cuts it apart as late as it can
//! (`UDP_SEGMENT`). What it joined on arrival (`UDP_GRO`) comes out of [`recv`](UdpTransport::recv) in one piece, with
//! the stride in [`RecvMeta`](tencrypt::RecvMeta). A message is at most 64 records and one UDP datagram's length.
//! Several messages that wait leave in one system call. Where a path takes no trains the records go one by one.
//! [`set_offload`](UdpTransport::set_offload) switches all of that off.
//!
//! Whoever says of what it received how much was genuine ([`note_received`](UdpTransport::note_received)) has the
//! kernel keep out most of a flood of the rest.
//!
//! Nothing that a remote party or the network does is an `Err`: datagrams that do not fit are dropped and counted in
//! [`UdpStats`], what the kernel learns about a path comes out of
//! [`poll_path_error`](UdpTransport::poll_path_error).
//!
//! The sockets belong to the network namespace of the thread that makes them, and stay in it.
//!
//! With the feature `tokio`, `AsyncUdpTransport` waits for datagrams, into a slice or behind what is in a `bytes::BytesMut`; it
//! holds a [`UdpTransport`], and sends by it.

#[cfg(not(target_os = "linux"))]
compile_error!("tencrypt-udp needs Linux: UDP_SEGMENT, UDP_GRO, error queues and socket filters are its");

mod address;
mod bind;
mod bpf;
mod buffer;
mod flood_filter;
mod path;
mod receive;
mod report;
mod send;
mod slab;
mod sys;
#[cfg(feature = "tokio")]
mod tokio;
mod transport;

pub use bind::{BindError, Family};
pub use buffer::Buffer;
pub use path::{PathError, PathErrorKind};
pub use report::UdpStats;
pub use slab::SendSlot;
#[cfg(feature = "tokio")]
pub use tokio::{AsyncUdpTransport, BytesMut};
pub use transport::{SegmentationOffload, UdpTransport};
