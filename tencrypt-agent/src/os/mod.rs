//! The operating system, and nothing of tencrypt: files, memory, namespaces, privileges.

pub(crate) mod escape;
pub(crate) mod files;
pub(crate) mod hardening;
pub(crate) mod netns;
pub(crate) mod rundir;
pub(crate) mod secret_memory;
pub(crate) mod sys;
