//! The seam between the core and a transport: where sealed records and opened packets go.
//!
//! A transport implements [`DatagramSink`] over its send buffer. The core asks for room for a [`Train`], seals
//! straight into the room it is given, and commits; nothing is copied on the way. A transport that can send only
//! one datagram a call hands out room for one record at a time; one with segmentation offload for the whole train.

#[cfg(any(test, feature = "bytes"))]
pub mod bytes;
pub(crate) mod seam;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "bytes"))]
pub(crate) use seam::SinkFull;
pub(crate) use seam::{DatagramSink, PacketSink, RecvMeta, Train, TrainSlot, Transmit};
