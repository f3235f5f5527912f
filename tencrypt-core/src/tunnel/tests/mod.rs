//! Tests that look inside a tunnel.

mod decisions;
mod erasure;
pub(crate) mod erasure_search;
mod limits;
mod output;
pub(super) mod pair;
mod passing;
mod questions;
mod redaction;
pub(crate) mod twin;
mod work;
