//! IP packets: the layout is checked once, every access after that is a fixed offset, every change keeps the
//! checksums right.

mod address;
pub mod checksum;
mod ecn;
mod flow;
mod ip;
mod layout;
mod rewrite;

pub use address::{is_host_address, is_link_local, is_tunnel_address};
pub use ecn::combine_ecn;
pub use flow::Flow;
pub use ip::IpPacket;
pub use layout::{Fragment, IpVersion, Layout, MAX_EXTENSION_HEADERS, ParseError, Transport};
pub use rewrite::{ChecksumPosition, Rewrite, RewriteError};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::samples;
