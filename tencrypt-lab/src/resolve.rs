//! r
pub(crate) fn child() -> i32 { 0 }
