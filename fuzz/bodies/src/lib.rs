//! The bodies of the fuzz targets: each takes any bytes and panics if an invariant does not hold.
//!
//! They are a crate of the workspace, so that stable Rust compiles them and `cargo test` replays the corpora
//! (`tests/corpus.rs`); `fuzz/fuzz_targets` hands them to libFuzzer. The same bytes always do the same.
#![forbid(unsafe_code)]

#[cfg(feature = "config")]
mod channel;
mod cni;
#[cfg(feature = "config")]
mod config;
#[cfg(feature = "config")]
mod control;
mod dns;
mod handshake;
mod input;
mod member;
mod packet;
mod record;
mod trust;

#[cfg(feature = "config")]
pub use channel::channel;
pub use cni::cni;
#[cfg(feature = "config")]
pub use config::config;
#[cfg(feature = "config")]
pub use control::control;
pub use dns::dns;
pub use handshake::handshake;
pub use member::member;
pub use packet::packet;
pub use record::record;
pub use trust::trust;

/// A fuzz target by name.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "the replay takes it apart")]
pub struct Target {
    /// The name of the target and of its corpus directory.
    pub name: &'static str,
    /// Its body.
    pub body: fn(&[u8]),
}

/// All targets that the features switch on.
pub const TARGETS: &[Target] = &[
    Target { name: "packet", body: packet },
    Target { name: "record", body: record },
    Target { name: "handshake", body: handshake },
    Target { name: "dns", body: dns },
    Target { name: "member", body: member },
    Target { name: "trust", body: trust },
    Target { name: "cni", body: cni },
    #[cfg(feature = "config")]
    Target { name: "config", body: config },
    #[cfg(feature = "config")]
    Target { name: "control", body: control },
    #[cfg(feature = "config")]
    Target { name: "channel", body: channel },
];
