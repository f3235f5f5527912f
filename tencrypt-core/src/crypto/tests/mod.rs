//! Test vectors, and the count of public-key operations.

pub(crate) mod work;
pub(crate) mod wycheproof;
