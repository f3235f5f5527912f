// The program in it needs the feature.
#![cfg_attr(any(feature = "bytes", not(doctest)), doc = include_str!("../README.md"))]
//!
//! # The run loop
//!
//! One thread owns a [`Tunnel`], a device and a transport, and waits for the first of three things:
//!
//! | input | call | then |
//! |---|---|---|
//! | a packet from the device | [`Tunnel::handle_packet`] | [`Outbound`] says what becomes of it |
//! | a datagram, or several joined by the kernel | [`Tunnel::handle_datagrams`] | opened packets are in the [`PacketSink`] |
//! | the time of the last [`Output::Timeout`] | [`Tunnel::handle_timeout`] | |
//!
//! After each of them, and before the next, it takes all there is to take, in the order in which the core says it:
//!
//! ```
//! # use std::time::Instant;
//! # use tencrypt::{Output, Tunnel};
//! # fn drain(tunnel: &mut Tunnel, buffer: &mut [u8], now: Instant) -> Option<Instant> {
//! loop {
//!     match tunnel.poll_output(buffer, now) {
//!         Output::LaneUpdate(_update) => {}   // to the pod's other lanes, if it has any
//!         Output::Transmit(_transmit) => {}   // the datagram in the buffer, behind the records in the DatagramSink
//!         Output::Released(_packet) => {}     // past the tunnel, as it is
//!         Output::Opened(_packet) => {}       // to the device
//!         Output::Event(_event) => {}         // worth knowing
//!         Output::Timeout(due) => break due,  // that is all; if the time is gone by, handle_timeout comes next
//!     }
//! }
//! # }
//! ```
//!
//! Time never goes back. Nothing that a remote party sends is an `Err`, a panic, or unbounded work: it is dropped and
//! counted by its [`DropReason`] in [`Stats`]. [`Tunnel`] has the whole contract.
//!
//! # Threads
//!
//! A [`Tunnel`] belongs to one thread. It can be moved to another before its first call, and is `Send` for
//! that; but secrets that computing leaves on the stack are erased there by the calls that end it, and calls from several
//! threads would leave some on other stacks. So it is no state for tasks of a runtime that moves them between threads.
//! Its thread needs 256 KiB of stack. More than one thread for a pod: [`Tunnel::sibling`], one lane each.
//!
//! # Transport and device
//!
//! A transport implements [`DatagramSink`] over its send buffer, and the tunnel seals straight into it; what it receives
//! goes to [`Tunnel::handle_datagrams`], where packets are opened in place. The addresses in a [`Train`] need not be
//! places on a network: a byte stream can carry records, each behind its length. But they are the pods' addresses, in both
//! directions: [`RecvMeta::from`] is by what a receiver knows whose packets may come from there, and never the address of
//! a stream's own socket. Over UDP with a path of 1,500 bytes [`TunnelConfig::max_datagram`] is 1,472, over IPv6 1,452, and
//! the device or the stack above gets [`TunnelConfig::inner_mtu`]. Whoever has no send buffer of its own takes
//! `sink::bytes`, with the feature `bytes`: queues of datagrams and of packets. A device without offload gives
//! and takes packets with a default [`VnetHdr`](offload::VnetHdr); where it cannot take packets whose checksum is
//! unfinished, [`TunnelConfig::vnet`] is `false`.
//!
//! # The parts alone
//!
//! | part | what for |
//! |---|---|
//! | [`packet`] | a view of an IPv4 or IPv6 packet, validated once; its flow; rewriting addresses with checksums kept right |
//! | [`offload`] | virtio-net headers, cutting super-packets, joining [checked packets](offload::CheckedPacket) |
//! | [`nat`] | service addresses, fragments and ICMP errors among them, and the detour of DNS queries |
//! | [`record`] | the start of a datagram, and session indices |
//! | [`session`] | [`ReplayWindow`](session::ReplayWindow), and the two ends of a session, from the handshake or from a [`TrafficSecret`](session::TrafficSecret) of one's own |
//! | [`KeyRing`], [`crypto`] | the tenant's keys, their file, and what can be wrong with them |
//! | [`trust`] | certificates: issue, read, check, revoke |
//! | [`directory`] | facts about addresses, and [`Directory::classify`](directory::Directory::classify), which says which of them wins |
#![forbid(unsafe_code)]

mod config;
pub mod crypto;
pub mod directory;
mod event;
mod handshake;
mod keyed_hash;
mod lane_update;
pub mod nat;
pub mod offload;
pub mod packet;
pub mod record;
pub mod session;
pub mod sink;
mod stats;
mod text;
pub mod trust;
mod tunnel;

pub use config::{ExternalAuthority, TunnelConfig, UnansweredPolicy};
pub use crypto::{identity::Identity, keyring::KeyRing, secret::Seed};
pub use event::{Event, PeerInfo};
pub use ipnet::IpNet;
pub use lane_update::LaneUpdate;
pub use record::suite::{CipherSuite, NameError};
pub use sink::seam::{DatagramSink, PacketSink, RecvMeta, SinkFull, Train, TrainSlot, Transmit};
pub use stats::{DropReason, Stats};
pub use text::TextError;
pub use tunnel::{
    BuildError, Explanation, HeldPacket, Inbound, LaneId, Lost, Outbound, Output, TunPacket, Tunnel,
    TunnelBuilder, Verdict,
};

/// Pieces for this repository's own tests and benchmarks. No part of the interface: any of it may change in any release.
/// `checks/public/tencrypt-hidden.txt` has the reason of each.
#[doc(hidden)]
pub mod internal {
    pub use crate::{
        crypto::{
            aead::{Backend, OpenError, OpeningKey, SealingKey},
            rng::Rng,
        },
        handshake::{
            Confirmed, Established, HandshakeError, Initiator, Local, PeerIdentity, Responder, verify_mac1,
            write_reset,
        },
        packet::{checksum::Sum, ecn::combine_ecn},
        record::{
            cookie::Cookie,
            macs::mac1,
            message::{Conf, Data, Init, Message, Resp, parse},
            reset::Reset,
        },
    };
}

#[cfg(test)]
mod testing {
    use std::time::Instant;

    /// A moment to count from: an `Instant` has no other constructor, and tests only add to it.
    #[expect(clippy::disallowed_methods, reason = "tests need some Instant to count from")]
    pub(crate) fn start() -> Instant {
        Instant::now()
    }
}
