//! The agent, end to end: `tencrypt-node run` with the programs `tencrypt` and `tencrypt-cni`, in namespaces of each test's own.

mod api;
mod directory;
mod kubernetes;
mod plugin;
mod probe;
mod runtime;
mod strays;
mod support;
