//! The operating system, and nothing of tencrypt: files, memory, privileges.

pub(crate) mod clock;
pub mod files;
pub mod followed;
pub(crate) mod hardening;
pub mod kernel_log;
pub(crate) mod limits;
pub mod notice;
pub mod notify;
pub mod rundir;
pub mod secret_memory;
pub(crate) mod sys;
pub mod uevents;

pub use self::sys::watch_readable;
