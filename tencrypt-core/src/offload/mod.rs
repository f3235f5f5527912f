//! The virtio-net header: what a TUN device says of a packet's checksum and segmentation.

mod vnet;

pub use vnet::{GsoType, VnetHdr, VnetHdrError};
