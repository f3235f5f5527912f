//! UDP transport of tencrypt.
