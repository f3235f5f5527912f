#![doc = include_str!("../README.md")]
#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    reason = "the library is the program's: it promises no interface"
)]

#[cfg(not(target_os = "linux"))]
compile_error!("tencrypt-agent needs Linux: it works in network namespaces, with TUN and nftables");

mod commands;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod control;
#[cfg(feature = "demo")]
mod demo;
#[doc(hidden)]
pub mod escape;
#[doc(hidden)]
pub mod failure;
#[doc(hidden)]
pub mod hex;
#[doc(hidden)]
pub mod keys;
mod lane;
#[doc(hidden)]
pub mod layout;
#[doc(hidden)]
pub mod logging;
#[doc(hidden)]
pub mod node;
#[doc(hidden)]
pub mod os;
#[doc(hidden)]
pub mod report;
mod supervisor;

pub use self::commands::{run, undo};
