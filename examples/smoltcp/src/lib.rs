//! A pod inside of a program: a tunnel between a TCP/IP stack in user space ([smoltcp](https://docs.rs/smoltcp)) and an
//! ordinary UDP socket. There is no TUN device, no route, and nothing for which a privilege is needed.
//!
//! ```text
//! application ── smoltcp: TCP, IP ── Link ── Tunnel ── UDP socket ── network
//! ```
//!
//! [`Pod::get`] and [`Pod::serve`] are applications: HTTP over TCP, as little of it as will do.
#![forbid(unsafe_code)]

mod http;
mod link;
mod pod;

pub use pod::{Failure, Place, Pod};

/// Keys of a demonstration tenant: the same for everybody. A real tenant's come from `tencrypt genkey`.
///
/// # Errors
/// None: the core takes such keys.
pub fn demonstration_keys() -> Result<tencrypt::KeyRing, Failure> {
    let root: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    Ok(tencrypt::KeyRing::new([7; 16], [(1, &root)], 1)?)
}
