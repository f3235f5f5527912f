//! The plugin's place on a node: its program, its entry in the network configuration, and the attachments that were made without it.

pub(crate) mod attached;
mod configuration;
mod derived;
mod exchange;
mod file;
pub(crate) mod networks;
pub(crate) mod program;
#[cfg(test)]
mod testing;
