//! The operating system, and nothing of tencrypt: files, memory, privileges.

pub(crate) mod clock;
pub(crate) mod files;
pub(crate) mod followed;
pub(crate) mod hardening;
pub(crate) mod limits;
pub(crate) mod notify;
pub(crate) mod rundir;
pub(crate) mod secret_memory;
pub(crate) mod sys;
