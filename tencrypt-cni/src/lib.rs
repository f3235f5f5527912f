#![doc = include_str!("../README.md")]
//!
//! # Contract
//!
//! [`plugin::run`] is the program, with the node behind a trait ([`Host`]). [`call`] is the protocol between it and the node agent,
//! both ends of it, and [`list`] is the file that decides where the agent does not answer: the agent uses them as they are here.
//!
//! Nothing that a runtime, a file or another process says makes them panic, wait for ever or take more memory than their limits
//! say. What is not understood is refused, and a pod of which nobody says that it may start unprotected does not start.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "tencrypt-cni needs Linux: network namespaces, and descriptors that go over Unix sockets, are its"
);

pub mod call;
mod config;
pub mod conflist;
mod environment;
mod failure;
mod host;
pub mod list;
mod names;
pub mod netns;
pub mod plugin;
mod previous;
mod sys;
mod text;
mod version;

pub use environment::Environment;
pub use host::{Host, Node};
