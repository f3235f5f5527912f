//! The commands of the program: arguments, one file for each command that does something itself, and the texts printed.

pub(crate) mod ca;
pub(crate) mod cli;
pub(crate) mod output;
pub(crate) mod rotate;
pub(crate) mod up;

use std::{ffi::OsString, process::ExitCode};

use self::cli::{Cli, Command};
use crate::{
    control::{self, Reply, Request},
    failure::{Exit, Failure},
    keys::file as keyfile,
    logging,
    os::netns,
};

/// Runs the program with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

/// Runs the program with `arguments`, the first of which is its name. A failure is one line on standard error.
pub(crate) fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match cli::parse(arguments).and_then(|parsed| parsed.map_or(Ok(()), execute)) {
        Ok(()) => Exit::Success.into(),
        Err(failure) => {
            failure.report();
            failure.exit.into()
        }
    }
}

fn execute(cli: Cli) -> Result<(), Failure> {
    logging::start(cli.verbose)?;
    match cli.command {
        Command::Ca { command } => ca::run(command),
        Command::Genkey { file, epoch } => keyfile::generate(&file, epoch).map_err(Failure::from),
        Command::Rotate(step) => {
            let (file, step) = step.step();
            output::print(&rotate::rotate(file, step)?)
        }
        Command::Up { netns, config } => up::up(&netns, &config),
        Command::Down { netns } => up::down(&netns),
        Command::Status { netns, json } => match ask(&netns, &Request::Status)? {
            Reply::Status(status) => output::print(&output::status(&status, json)),
            other => Err(unexpected(other)),
        },
        Command::Peers { netns, json } => match ask(&netns, &Request::Peers)? {
            Reply::Peers(peers) => output::print(&output::peers(&peers, json)),
            other => Err(unexpected(other)),
        },
        Command::Explain { netns, source, destination, json } => {
            match ask(&netns, &Request::Explain { source, destination })? {
                Reply::Explanation(explanation) => output::print(&output::explanation(&explanation, json)),
                other => Err(unexpected(other)),
            }
        }
        #[cfg(feature = "demo")]
        Command::Demo { json, spoil } => crate::demo::run(crate::demo::Options { json, spoil }),
        Command::Completions { shell } => output::print(&cli::completions(shell)),
    }
}

fn ask(netns: &str, request: &Request) -> Result<Reply, Failure> {
    Ok(control::client::ask(&netns::NetNsRef::open(netns)?, request)?)
}

fn unexpected(reply: Reply) -> Failure {
    match reply {
        Reply::Refused(reason) => Failure::runtime(reason),
        _ => Failure::runtime("the running tencrypt answered something else: another version?"),
    }
}
