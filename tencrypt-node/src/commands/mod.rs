//! The command line, and what each command does.

mod cli;
mod kube;
mod run;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tencrypt_agent::{
    escape::Escaped,
    failure::{Exit, Failure},
    logging,
    os::rundir::RunDir,
};
use tencrypt_cni::plugin::TYPE;

use self::cli::{Cli, Command};
use crate::{
    client,
    install::networks::Networks,
    launch,
    output::{self, document},
    probe,
    settings::Settings,
};

/// Runs the program with the arguments of this process.
#[must_use]
pub fn run() -> ExitCode {
    run_with(std::env::args_os())
}

fn run_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match cli::parse(arguments) {
        Ok(Cli { command: Command::Launch(arguments), .. }) => return launch::run(&arguments),
        Ok(cli) => execute(cli),
        Err(exit) => return exit,
    };
    match outcome {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("tencrypt-node: {}", Escaped(&failure.reason));
            failure.exit.into()
        }
    }
}

fn execute(cli: Cli) -> Result<ExitCode, Failure> {
    logging::start(cli.verbose, cli.log_format)?;
    let done = match cli.command {
        Command::Kube(arguments) => {
            let (text, exit) = kube::report(&arguments)?;
            return print(&text).map(|()| exit);
        }
        Command::Run { config } => run::run(config.as_deref()),
        Command::Status { json } => {
            let text = client::get(&socket()?, "/status")?;
            let report = document::read_status(&text).map_err(Failure::runtime)?;
            print(&output::status(&report, json))
        }
        Command::Pods { json } => {
            let text = client::get(&socket()?, "/pods")?;
            let pods = document::read_pods(&text).map_err(Failure::runtime)?;
            print(&output::pods(&pods, json))
        }
        Command::Unchain { config } => unchain(config.as_deref()),
        Command::Metrics => print(&client::get(&socket()?, "/metrics")?),
        Command::Probe(arguments) => probe::run(&arguments.task, print),
        // Taken before logging was started: its standard error is for one line.
        Command::Launch(_) => Ok(()),
    };
    done.map(|()| Exit::Success.into())
}

/// The socket of the agent that runs.
fn socket() -> Result<PathBuf, Failure> {
    match RunDir::existing()? {
        Some(run_dir) => Ok(run_dir.path().join(run::SOCKET)),
        None => Err(Failure::new(Exit::NotRunning, "no agent runs: there is no run directory")),
    }
}

/// Takes the plugin out of every network configuration: pods are started without it from then on.
fn unchain(config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::read(config).map_err(|error| Failure::new(Exit::Usage, error))?;
    let folder = settings.plugin.unwrap_or_default().networks;
    let entry = serde_json::json!({ "type": TYPE }).to_string();
    let networks = Networks::of(&folder, entry).map_err(Failure::runtime);
    let (removed, faults) = networks?.remove().map_err(Failure::runtime)?;
    for name in &removed {
        print(&format!("{}: taken out\n", folder.join(name).display()))?;
    }
    match faults.first() {
        Some(fault) => Err(Failure::runtime(format_args!("{}: {}", fault.name, fault.reason))),
        None => Ok(()),
    }
}

/// Prints a text. That nobody reads any more is no failure.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::runtime(format_args!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
