#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`Capture`]: routes, a rule and nftables chains, from a [`CapturePlan`]. [`Capture::clean`] removes what a program
//!   that is gone has left.
//! - [`Survey`]: what a capture would find in a namespace, and if there is one. Looking changes nothing.
//! - [`TunDevice`]: packets with their offload state, several queues; [`steer`] says which queue the kernel gives a flow.
//! - [`NetNs`]: enters a namespace. [`Monitor`] tells what changes in one.
//! - [`RawSockets`]: send what leaves untouched. [`SocketTable`] knows which destinations are still in use, [`RouteLookup`]
//!   which of them the kernel leads around the device.
//!
//! No protocol state is kept here.
//!
//! # Threads
//!
//! Sockets and devices belong to the namespace of the thread that opens them. Open everything on a thread made by
//! [`NetNs::run`] or [`NetNs::spawn`]; use it from any.

#[cfg(not(target_os = "linux"))]
compile_error!("tencrypt-tun needs Linux: network namespaces, TUN, netlink and nftables are its");

mod addresses;
mod backoff;
mod capture;
mod counting;
mod desired;
mod destinations;
mod device;
mod enforce;
mod error;
mod filtered;
mod link;
mod lookup;
mod monitor;
mod name;
mod nat;
mod neighbours;
mod netlink;
mod netns;
mod nft;
mod others;
mod plan;
mod probe;
mod ranges;
mod raw;
mod reconcile;
mod routing;
mod rules;
mod ruleset;
mod sock_diag;
mod sockets;
mod stand_in;
mod standing;
mod steering;
mod survey;
mod sys;
mod sysctl;
mod table;
mod table_state;
mod underlay;

pub use capture::{Capture, Cleaned, Followed};
pub use desired::Part;
pub use device::{Calls, Delivered, DeviceError, DeviceOffload, Received, TunDevice, TunOptions};
pub use enforce::Counters;
pub use error::{CaptureError, Occupied, Step};
pub use filtered::Filtered;
pub use lookup::RouteLookup;
pub use monitor::{Change, Monitor};
pub use name::{InterfaceName, InvalidInterfaceName};
pub use netns::{NetNs, NetNsError, NetNsId};
pub use plan::CapturePlan;
pub use raw::RawSockets;
pub use sock_diag::{BoundServer, SocketTable};
pub use sockets::{bind_to_interface, forbid_fragmentation, mark_socket, set_buffers};
pub use standing::PartState;
pub use steering::steer;
pub use survey::{Captured, Survey, Surveyed};
pub use tencrypt::IpNet;
pub use underlay::Mtu;

/// The firewall mark of the tunnel's own packets: what bears it is routed by the main table and
/// passes the chains.
pub const MARK: u32 = 0x8362;
