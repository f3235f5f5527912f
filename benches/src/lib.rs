//! The benchmarks' common parts: packets, sinks, connected tunnels, and a count of what is allocated.
//!
//! Time stands still here: a `Tunnel` is given one moment for every call, so that no timer fires in between and what
//! is measured is the packet's own cost.

pub mod alloc;
pub mod packets;
pub mod pair;
pub mod sinks;
mod sys;
#[cfg(feature = "peers")]
pub mod wireguard;

/// Records of a train: what fits a datagram of 65,507 bytes, the most that UDP over IPv4 carries, 1,472 bytes each.
pub const TRAIN: usize = 44;
