//! The program `tencrypt`: it enters a pod's network namespace and wires device, tunnel, transport and DNS proxy
//! together.
//!
//! A library only so that its parts can be tested and fuzzed; it promises no stable interface. Embed `tencrypt`
//! and the adapters instead.

pub mod authority;
pub mod cli;
pub mod config;
pub mod control;
mod credentials;
pub mod data_path;
pub mod delivery;
#[cfg(feature = "demo")]
pub mod demo;
mod escape;
pub mod externals;
pub mod failure;
mod files;
pub mod hardening;
mod key_source;
pub mod keyfile;
pub mod knowledge;
pub mod lane;
pub mod logging;
pub mod netns;
pub mod offload;
pub mod opening;
pub mod output;
pub mod protect;
pub mod renewal;
pub mod resolver;
pub mod rotate;
pub mod rundir;
mod secret_memory;
pub mod suite_fit;
pub mod sys;
mod threads;
pub mod up;
mod watcher;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use crate::{
    cli::{Cli, Command},
    control::{Reply, Request},
    failure::{Exit, Failure},
};

/// Runs the program with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

/// Runs the program with `arguments`, the first of which is its name. A failure is one line on standard error.
pub fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
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
        Command::Ca { command } => authority::run(command),
        Command::Genkey { file, epoch } => keyfile::generate(&file, epoch).map_err(Failure::from),
        Command::Rotate(step) => {
            let (file, step) = step.step();
            print(&rotate::rotate(file, step)?)
        }
        Command::Up { netns, config } => up::up(&netns, &config),
        Command::Down { netns } => up::down(&netns),
        Command::Status { netns, json } => match ask(&netns, &Request::Status)? {
            Reply::Status(status) => print(&output::status(&status, json)),
            other => Err(unexpected(other)),
        },
        Command::Peers { netns, json } => match ask(&netns, &Request::Peers)? {
            Reply::Peers(peers) => print(&output::peers(&peers, json)),
            other => Err(unexpected(other)),
        },
        Command::Explain { netns, source, destination, json } => {
            match ask(&netns, &Request::Explain { source, destination })? {
                Reply::Explanation(explanation) => print(&output::explanation(&explanation, json)),
                other => Err(unexpected(other)),
            }
        }
        #[cfg(feature = "demo")]
        Command::Demo { json, spoil } => demo::run(demo::Options { json, spoil }),
        Command::Completions { shell } => print(&cli::completions(shell)),
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

/// Writes to standard output. A reader that has gone away (`tencrypt peers | head -1`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format_args!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
