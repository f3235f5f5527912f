//! Tests that look inside a tunnel.

mod adopted;
mod closing;
mod decisions;
mod erasure;
pub(crate) mod erasure_search;
mod late;
mod limits;
mod output;
pub(super) mod pair;
mod passing;
mod proofs;
mod questions;
mod redaction;
mod resets;
mod resumed;
mod services;
pub(crate) mod twin;
mod work;
