//! IP packets: the layout is checked once, every access after that is a fixed offset, every change keeps the
//! checksums right.
//!
//! ```
//! use tencrypt::packet::{Flow, IpPacket, Rewrite};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // UDP from 10.0.0.1, port 5000, to 10.0.0.2, port 53.
//! let mut bytes = *b"\x45\0\0\x20\0\0\x40\0\x40\x11\x26\xcb\x0a\0\0\x01\x0a\0\0\x02\
//!     \x13\x88\0\x35\0\x0c\xff\x53data";
//! let mut packet = IpPacket::parse(&mut bytes[..])?;
//! let flow = packet.flow().ok_or("not a first fragment")?;
//! assert_eq!((flow.source_port, flow.destination_port), (5000, 53));
//!
//! let to = Flow { destination: [10, 0, 0, 3].into(), destination_port: 5353, ..flow };
//! packet.rewrite(Rewrite::between(flow, to), false)?;
//! assert_eq!(packet.flow(), Some(to));
//! packet.rewrite(Rewrite::between(to, flow), false)?;
//! assert_eq!(packet.bytes()[26..28], [0xff, 0x53], "and back: the UDP checksum is what it was");
//! # Ok(())
//! # }
//! ```

mod address;
pub(crate) mod checksum;
pub(crate) mod ecn;
mod flow;
mod ip;
mod layout;
mod rewrite;

pub use address::{is_host_address, is_tunnel_address};
pub(crate) use ecn::combine_ecn;
pub use flow::Flow;
pub use ip::IpPacket;
pub use layout::{Fragment, IpVersion, Layout, ParseError, Transport};
pub use rewrite::{Rewrite, RewriteError};

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::{samples, work::parses};
