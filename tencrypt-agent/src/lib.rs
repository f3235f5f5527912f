//! The program `tencrypt`: it enters a pod's network namespace and wires device, tunnel, transport and DNS proxy
//! together.
//!
//! A library only so that its parts can be tested and fuzzed; it promises no stable interface. Embed `tencrypt`
//! and the adapters instead.

mod commands;
#[doc(hidden)]
pub mod config;
mod control;
#[cfg(feature = "demo")]
mod demo;
mod escape;
#[doc(hidden)]
pub mod failure;
#[doc(hidden)]
pub mod keys;
mod lane;
mod logging;
mod os;
mod report;
mod supervisor;

pub use self::commands::run;
