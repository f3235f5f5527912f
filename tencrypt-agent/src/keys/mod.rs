//! The tenant's keys and this pod's certificate: their files, and following them while they change.

pub(crate) mod certificates;
pub(crate) mod credentials;
pub mod file;
pub(crate) mod followed;
pub(crate) mod in_force;
pub(crate) mod material;
