//! The driver's words for its handles.

use crate::{ForeignAddress, interceptor::Stats};

/// Counters, and the last foreign address.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) stats: Stats,
    pub(super) foreign_address: Option<ForeignAddress>,
}
