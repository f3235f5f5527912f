//! Tests of packets, and the packets that all tests use.

pub(crate) mod samples;
mod views;
pub(crate) mod work;
