//! The roles in which this executable is started again.

use std::env;
use std::process::Command;

use crate::error::{During, Result};

/// The variable that names a re-executed process's role; unset in a process that a user started.
pub(crate) const ROLE: &str = "TENCRYPT_LAB_ROLE";
pub(crate) const ROLE_WORLD: &str = "world";
pub(crate) const ROLE_RESOLVE: &str = "resolve";

/// This executable, to be started again.
pub(crate) fn this_program() -> Result<Command> {
    Ok(Command::new(env::current_exe().during("find this executable")?))
}
