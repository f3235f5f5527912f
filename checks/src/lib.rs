//! What must hold of the repository itself.
#![forbid(unsafe_code)]
