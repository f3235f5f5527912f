//! The command line.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tencrypt_agent::{failure::Exit, logging::Format};

use crate::{kube, launch, probe};

const AFTER: &str = "\
Exit codes:
  0  done
  1  it failed while running
  2  the command line or the settings are wrong
  3  no agent runs
  4  not permitted
  5  another agent runs

Environment:
  TENCRYPT_LOG      error, warn, info, debug or trace, where -v is not given
  NO_COLOR          not empty: no colour in the log
  TENCRYPT_RUN_DIR  directory of the sockets; default /run/tencrypt for root,
                    else $XDG_RUNTIME_DIR/tencrypt, else /tmp/tencrypt-UID

Examples:
  tencrypt-node run
  tencrypt-node pods
  tencrypt-node status --json";

const KUBE: &str = "\
Exit codes:
  0  all that can be protected is; it was found encrypted
  1  it could not be found out: kubectl, the API or an agent does not answer
  2  the command line is wrong
  6  something is not protected or not known; it was not found encrypted

Examples:
  kubectl tencrypt status
  kubectl tencrypt verify shop
  kubectl tencrypt verify shop --from web-0 --to db-0 --context production --json";

/// The name under which the program is `kube`: that of a plugin of kubectl.
const PLUGIN: &str = "kubectl-tencrypt";

/// Looks at tencrypt in a cluster.
#[derive(Debug, Parser)]
#[command(name = PLUGIN, bin_name = "kubectl tencrypt", version, after_help = KUBE, max_term_width = 100)]
struct Plugin {
    /// Say more: -v what happens, -vv with addresses and names, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// The rest.
    #[command(flatten)]
    arguments: kube::Arguments,
}

/// Keeps a data path for each pod of this node that is to be protected.
#[derive(Debug, Parser)]
#[command(name = "tencrypt-node", version, after_help = AFTER, max_term_width = 100)]
pub(super) struct Cli {
    /// Say more: -v what happens, -vv with addresses and names, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Form of the log: text, or json, an object a line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_parser = log_format)]
    pub(super) log_format: Format,
    /// The task.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// A task of the program.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Be the agent: until a signal; the data paths go on
    Run {
        /// The settings; default /etc/tencrypt/node.toml, which may be absent
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the agent: tenants, numbers of pods, faults
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the pods
    Pods {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Take the plugin out of the network configuration; the agent must not run, or it is put back
    Unchain {
        /// The settings; default /etc/tencrypt/node.toml, which may be absent
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the metrics, as Prometheus reads them
    Metrics,
    /// Look at a cluster through kubectl, from an administrator's machine; as kubectl-tencrypt: kubectl tencrypt
    #[command(after_help = KUBE)]
    Kube(kube::Arguments),
    /// Start or forget a data path; the agent's own
    #[command(hide = true)]
    Launch(launch::Arguments),
    /// Send from a pod, or look at its interfaces; `kube verify` says so
    #[command(hide = true)]
    Probe(probe::Arguments),
}

/// Reads the arguments. What is to be printed instead was printed.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_plugin = |called: &OsString| Path::new(called).file_name().is_some_and(|name| name == PLUGIN);
    let read = if arguments.first().is_some_and(is_plugin) {
        Plugin::try_parse_from(arguments).map(|Plugin { verbose, arguments }| Cli {
            verbose,
            log_format: Format::Text,
            command: Command::Kube(arguments),
        })
    } else {
        Cli::try_parse_from(arguments)
    };
    read.map_err(|error| {
        let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
        // Nobody to print to is no failure.
        let _ = error.print();
        exit.into()
    })
}

fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json".to_owned()),
    }
}
