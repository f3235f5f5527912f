//! The commands of the program: arguments, one file for each command that does something itself, and the texts printed.

pub(crate) mod ca;
pub(crate) mod cli;
mod completions;
pub(crate) mod output;
pub(crate) mod rotate;
pub(crate) mod up;

use std::{ffi::OsString, process::ExitCode};

use tencrypt_tun::NetNsError;

use self::cli::{CaCommand, Cli, Command, Namespace, Parsed};
use crate::{
    control::{self, Reply, Request},
    failure::{Exit, Failure},
    keys::file as keyfile,
    logging,
};

/// Runs the program with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

/// Runs the program with `arguments`, the first of which is its name. A failure is one line on standard error, a command left out its help.
pub(crate) fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match cli::parse(arguments) {
        Ok(Parsed::Command(cli)) => execute(cli).map(|()| Exit::Success),
        Ok(Parsed::Printed(exit)) => Ok(exit),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report();
            failure.exit.into()
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    logging::start(cli.verbose)?;
    match cli.command {
        Command::Ca { command } => match command {
            CaCommand::Init { file } => ca::init(&file),
            CaCommand::Issue(arguments) => ca::issue(&arguments),
            CaCommand::Inspect { file, ca, json } => ca::inspect(&file, ca.as_deref(), json),
        },
        Command::Genkey { file, epoch } => keyfile::generate(&file, epoch).map_err(Failure::from),
        Command::Rotate(step) => {
            let (file, step) = step.step();
            output::print(&rotate::rotate(file, step)?)
        }
        Command::Up { namespace, config } => up::up(&namespace, &config),
        Command::Down { namespace } => up::down(&namespace.open()?),
        Command::Status { namespace, json } => match ask(&namespace, &Request::Status)? {
            Reply::Status(status) => output::print(&output::status(&status, json)),
            other => Err(other.unexpected()),
        },
        Command::Peers { namespace, json } => match ask(&namespace, &Request::Peers)? {
            Reply::Peers(peers) => output::print(&output::peers(&peers, json)),
            other => Err(other.unexpected()),
        },
        Command::Explain { namespace, source, destination, json } => {
            match ask(&namespace, &Request::Explain { source, destination })? {
                Reply::Explanation(explanation) => output::print(&output::explanation(&explanation, json)),
                other => Err(other.unexpected()),
            }
        }
        #[cfg(feature = "demo")]
        Command::Demo { json, spoil } => crate::demo::run(crate::demo::Options { json, spoil }),
        Command::Completions { shell } => output::print(&completions::script(shell)),
    }
}

fn ask(namespace: &Namespace, request: &Request) -> Result<Reply, Failure> {
    Ok(control::client::ask(&namespace.open()?, request)?)
}

impl From<NetNsError> for Failure {
    fn from(error: NetNsError) -> Self {
        let exit = if error.is_permission() { Exit::NotPermitted } else { Exit::Runtime };
        Self::from_error(exit, &error)
    }
}
