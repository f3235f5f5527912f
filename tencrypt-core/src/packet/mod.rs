//! IP packets: a layout that is validated once, and views that cannot fail afterwards.
//!
//! [`IpPacket::parse`] is the only place where lengths are believed or not. What it accepts has an IP header that fits,
//! extension headers that fit, and, unless it is a later fragment, a TCP, UDP, ICMP or ICMPv6 header that fits. Every
//! accessor and setter afterwards is infallible. Protocols it does not know are carried as they are.

pub mod checksum;
mod flow;
mod ip;
mod layout;
mod opened;
mod rewrite;

pub use flow::Flow;
pub use ip::{IpPacket, combine_ecn};
pub use layout::{Fragment, Layout, ParseError, Transport};
pub use opened::Opened;
pub use rewrite::{Rewrite, RewriteError};

#[cfg(test)]
pub(crate) mod testing;
