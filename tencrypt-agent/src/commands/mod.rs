//! The commands of the program: arguments, one file for each command that does something itself, and the texts printed.

mod absence;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod cli;
mod completions;
pub(crate) mod inspect;
pub(crate) mod list;
mod man;
pub(crate) mod output;
pub(crate) mod rotate;
pub(crate) mod up;

use std::{ffi::OsString, io::IsTerminal as _, process::ExitCode, time::Duration};

use tencrypt_tun::{NetNs, NetNsError};

use self::cli::{CaCommand, Cli, Command, Parsed};
use crate::{
    control::{self, Reply, Request},
    failure::{Exit, Failure},
    keys::file as keyfile,
    logging,
};

pub use self::up::undo;

/// Pause between two reports of `status --watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal and leads to its upper left corner (ECMA-48: ED, CUP).
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

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
    logging::start(cli.verbose, cli.log_format)?;
    match cli.command {
        Command::Ca { command } => match command {
            CaCommand::Init { file } => ca::init(&file),
            CaCommand::Issue(arguments) => ca::issue(&arguments),
        },
        Command::Genkey { file, epoch } => keyfile::generate(&file, epoch).map_err(Failure::from),
        Command::Rotate(step) => {
            let (file, step) = step.step();
            output::print(&rotate::rotate(file, step)?)
        }
        Command::Inspect { file, ca, json } => inspect::inspect(&file, ca.as_deref(), json),
        Command::Check { config, netns, json } => check::check(&config, netns.as_deref(), json),
        Command::List { json } => list::list(json),
        Command::Up(arguments) => up::up(&arguments.origin()),
        Command::Down { namespace } => up::down(&namespace.open()?),
        Command::Status { namespace, watch, json } => show_status(&namespace.open()?, watch, json),
        Command::Peers { namespace, json } => match ask(&namespace.open()?, &Request::Peers)? {
            Reply::Peers(peers) => output::print(&output::peers(&peers, json)),
            other => Err(other.unexpected()),
        },
        Command::Explain { namespace, source, destination, json } => {
            match ask(&namespace.open()?, &Request::Explain { source, destination })? {
                Reply::Explanation(explanation) => output::print(&output::explanation(&explanation, json)),
                other => Err(other.unexpected()),
            }
        }
        #[cfg(feature = "demo")]
        Command::Demo { json, spoil } => crate::demo::run(crate::demo::Options { json, spoil }),
        Command::Man { directory } => man::write(&directory),
        Command::Completions { shell } => output::print(&completions::script(shell)),
    }
}

fn ask(namespace: &NetNs, request: &Request) -> Result<Reply, Failure> {
    control::client::ask(namespace, request).map_err(|error| absence::failure(namespace, error))
}

/// Shows the status of the program in `namespace`: once, or each [`WATCH_INTERVAL`] for as long as it runs and somebody reads.
fn show_status(namespace: &NetNs, watch: bool, json: bool) -> Result<(), Failure> {
    // Its end belongs to what is watched: the last report stays on the screen.
    let clear = if watch && !json && std::io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        let status = match ask(namespace, &Request::Status)? {
            Reply::Status(status) => status,
            other => return Err(other.unexpected()),
        };
        let text = output::status(&status, json);
        if !output::print_more(&format!("{clear}{text}"))? || !watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_INTERVAL);
        if clear.is_empty() && !json {
            output::print("\n")?;
        }
    }
}

impl From<NetNsError> for Failure {
    fn from(error: NetNsError) -> Self {
        let exit = if error.is_permission() { Exit::NotPermitted } else { Exit::Runtime };
        Self::from_error(exit, &error)
    }
}
