//! Linux adapter of tencrypt: what happens in a pod's network namespace.
//!
//! A [`Capture`] sends a namespace's protected traffic to a [`TunDevice`] and lets nothing past it: routes, a rule and
//! nftables chains. [`NetNs`] enters the namespace, [`Monitor`] tells what changes in it,
//! [`RawSockets`] send what leaves untouched, [`SocketTable`] knows which destinations are still in use. No protocol
//! state is kept here.
//!
//! Sockets and devices belong to the namespace of the thread that opens them. Open everything on a thread made by
//! [`NetNs::run`] or [`NetNs::spawn`]; use it from any.

mod capture;
mod device;
mod enforce;
mod error;
mod link;
mod monitor;
mod name;
mod netlink;
mod netns;
mod nft;
mod plan;
mod probe;
mod ranges;
mod raw;
mod routing;
mod ruleset;
mod sock_diag;
mod sockets;
mod steering;
mod sys;
mod sysctl;
mod underlay;

pub use capture::{Capture, Cleaned, Followed};
pub use device::{Calls, Delivered, DeviceError, Offload, Offloads, Received, TunDevice};
pub use enforce::Counters;
pub use error::{CaptureError, Occupied, Step};
pub use monitor::{Change, Monitor};
pub use name::{InterfaceName, InvalidInterfaceName};
pub use netns::{NetNs, NetNsError, NetNsId};
pub use plan::{CapturePlan, UnknownSources};
pub use raw::RawSockets;
pub use sock_diag::SocketTable;
pub use sockets::{bind_to_interface, forbid_fragmentation, mark_socket, set_buffers};
pub use steering::steer;
pub use underlay::Mtu;

/// The firewall mark of the tunnel's own packets: what bears it is routed by the main table and
/// passes the chains.
pub const MARK: u32 = 0x8362;
