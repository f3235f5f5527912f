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
mod escape;
#[doc(hidden)]
pub mod failure;
mod hex;
#[doc(hidden)]
pub mod keys;
mod lane;
mod logging;
#[doc(hidden)]
pub mod node;
mod os;
mod report;
mod supervisor;

pub use self::commands::run;
