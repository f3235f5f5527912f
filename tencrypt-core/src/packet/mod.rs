//! IP packets: the layout is checked once, every access after that is a fixed offset, every change keeps the
//! checksums right.
//!
//! ```
//! use tencrypt::packet::{Flow, IpPacket, Rewrite, checksum::Sum};
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
//! let udp = &packet.bytes()[packet.layout().transport_offset()..];
//! let sum = Sum::new().pseudo_header(to.source, to.destination, to.protocol, udp.len() as u32).bytes(udp);
//! assert_eq!(sum.checksum(), 0, "still right");
//! # Ok(())
//! # }
//! ```

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
pub(crate) use tests::{samples, work::parses};
