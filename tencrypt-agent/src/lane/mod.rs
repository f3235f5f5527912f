//! A lane: one thread that owns a queue of the device, a transport and a tunnel, and runs every packet to completion.

pub(crate) mod awaiting_bypass;
pub(crate) mod bypass;
pub(crate) mod channel;
mod commands;
pub(crate) mod data_path;
pub(crate) mod delivery;
pub(crate) mod events;
pub(crate) mod freshness;
mod patience;
pub(crate) mod pod_status;
mod refusals;
pub(crate) mod run;
pub(crate) mod threads;
