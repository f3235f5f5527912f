//! The command line.

use std::{
    ffi::OsString,
    net::IpAddr,
    os::fd::RawFd,
    path::{Path, PathBuf},
};

use clap::{
    Args, Parser, Subcommand,
    builder::NonEmptyStringValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::Shell;
use tencrypt_tun::{NetNs, NetNsError};

#[cfg(feature = "demo")]
use crate::demo::Observation;
use crate::{
    commands::{ca::IssueArguments, rotate::Step},
    failure::{Exit, Failure},
    logging::Format,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed while running
  2  the command line, the configuration or the key file is wrong
  3  nothing runs in that namespace
  4  not permitted
  5  another `tencrypt up` holds the namespace

Environment:
  TENCRYPT_LOG      error, warn, info, debug or trace, where -v is not given
  NO_COLOR          not empty: no colour in the log
  TENCRYPT_RUN_DIR  directory of the control sockets; default /run/tencrypt for
                    root, else $XDG_RUNTIME_DIR/tencrypt, else /tmp/tencrypt-UID

Examples:
  tencrypt genkey tenant.key
  tencrypt check --netns shop-1 --config tencrypt.toml
  tencrypt up --netns shop-1 --config tencrypt.toml
  tencrypt status --netns shop-1
  tencrypt list";

/// Encrypts the traffic between the pods of one tenant.
#[derive(Debug, Parser)]
#[command(name = "tencrypt", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// Say more: -v what happens, -vv with addresses and names, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Form of the log: text, or json, an object a line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_parser = log_format)]
    pub log_format: Format,
    /// The task.
    #[command(subcommand)]
    pub command: Command,
}

/// A task of the program.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the tenant's certificate authority: make it, sign
    #[command(after_help = "A pod's key is made when `tencrypt up` starts, so its certificate is issued
while it runs. `tencrypt inspect` shows what is in a file.

Examples:
  tencrypt ca init shop.ca
  tencrypt ca issue --ca shop.ca --netns shop-1 --pod web-0 --out web-0.cert")]
    Ca {
        /// The task.
        #[command(subcommand)]
        command: CaCommand,
    },
    /// Write a new tenant key file
    #[command(after_help = "The file is made with mode 0600 and never overwritten. Every pod of the tenant
needs the same file.

Examples:
  tencrypt genkey tenant.key
  tencrypt genkey /etc/tencrypt/shop.key --epoch 3")]
    Genkey {
        /// The file to make
        file: PathBuf,
        /// Generation of the key
        #[arg(long, value_name = "N", default_value_t = 1)]
        epoch: u8,
    },
    /// Change the tenant's key, in three steps
    #[command(
        subcommand,
        after_help = "The steps, each one taken in the file of every pod before the next: add,
activate, retire. A running tencrypt takes the file up within a second;
`tencrypt status` shows which epochs it accepts and sends, and which peers still
use an old one. Retire an epoch when none does.

Examples:
  tencrypt rotate add tenant.key
  tencrypt rotate activate tenant.key
  tencrypt rotate retire tenant.key"
    )]
    Rotate(Rotation),
    /// Show the content of a file: keys, certificate, authority or revocation; no secret of it
    #[command(after_help = "Of a key it shows the fingerprint, which is the same on every node that has the
same key.

Examples:
  tencrypt inspect shop.key
  tencrypt inspect web-0.cert --ca shop.ca.pub
  tencrypt inspect shop.revoked --json")]
    Inspect {
        /// The file
        file: PathBuf,
        /// The authority's public key, to verify the signature of a certificate
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Say what `up` would do, and change nothing
    #[command(after_help = "Without --netns it reads the files alone. Exits as `up` would: 0 if it would
start.

Examples:
  tencrypt check --config tencrypt.toml
  tencrypt check --config tencrypt.toml --netns shop-1")]
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The pod's network namespace: a name below /run/netns, a path, a process id, or an id that `list` prints
        #[arg(long, value_name = "NAME|PATH|PID", value_parser = NonEmptyStringValueParser::new())]
        netns: Option<String>,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Protect a namespace, in the foreground until SIGTERM or SIGINT
    #[command(after_help = "Prints \"ready\" once traffic is protected, and tells the service manager that
NOTIFY_SOCKET names (sd_notify); with --supervised it tells the agent instead.
docs/node-protocol.md says what is spoken over FD.

Examples:
  tencrypt up --netns shop-1 --config tencrypt.toml
  tencrypt up --netns /proc/4711/ns/net --config /etc/tencrypt/shop.toml -v")]
    Up(UpArguments),
    /// End protection: stop what runs there, remove device, routes and rules
    #[command(after_help = "Works too when the running tencrypt was killed.

Examples:
  tencrypt down --netns shop-1")]
    Down {
        /// The pod's network namespace.
        #[command(flatten)]
        namespace: Namespace,
    },
    /// Show all tunnels of this machine, and namespaces that are closed
    #[command(after_help = "Namespaces are found by their names below /run/netns and by the processes in
them. Those of others need root.

Examples:
  tencrypt list
  tencrypt list --json")]
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show project, MTU, peers, problems and counters
    #[command(after_help = "Examples:
  tencrypt status --netns shop-1
  tencrypt status --netns shop-1 -w
  tencrypt status --netns shop-1 --json")]
    Status {
        /// The pod's network namespace.
        #[command(flatten)]
        namespace: Namespace,
        /// Show it again each second, until it is interrupted or the tunnel ends
        #[arg(short, long)]
        watch: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show the pods with which there is a session
    #[command(after_help = "Examples:
  tencrypt peers --netns shop-1
  tencrypt peers --netns /proc/4711/ns/net --json")]
    Peers {
        /// The pod's network namespace.
        #[command(flatten)]
        namespace: Namespace,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Say what would happen to a packet, and why
    #[command(
        allow_missing_positional = true,
        after_help = "SRC is this pod's own address unless given.

Examples:
  tencrypt explain --netns shop-1 10.244.2.7
  tencrypt explain --netns shop-1 10.244.1.5 10.96.0.10 --json"
    )]
    Explain {
        /// The pod's network namespace.
        #[command(flatten)]
        namespace: Namespace,
        /// Source address
        #[arg(value_name = "SRC")]
        source: Option<IpAddr>,
        /// Destination address
        #[arg(value_name = "DST")]
        destination: IpAddr,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show it on this machine: pods, a service, an intruder, a sniffer; no root needed
    #[cfg(feature = "demo")]
    #[command(after_help = "Takes some 15 seconds. Exits 0 only if everything that is shown was observed.

Examples:
  tencrypt demo
  tencrypt demo --json")]
    Demo {
        /// For programs: one object, at the end
        #[arg(long)]
        json: bool,
        /// For tests of the demo itself: spoil an observation, which must then fail
        #[arg(long = "break", value_name = "OBSERVATION", hide = true)]
        spoil: Option<Observation>,
    },
    /// Write the manual pages into a directory
    #[command(after_help = "Examples:
  tencrypt man /usr/local/share/man/man1")]
    Man {
        /// The directory, which must exist
        directory: PathBuf,
    },
    /// Print a completion script
    #[command(after_help = "Examples:
  tencrypt completions bash
  tencrypt completions zsh
  tencrypt completions fish")]
    Completions {
        /// The shell: bash, zsh or fish
        #[arg(value_parser = shell)]
        shell: Shell,
    },
}

/// The options of `up`.
#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// The pod's network namespace: a name below /run/netns, a path, a process id, or an id that `list` prints
    #[arg(
        long,
        value_name = "NAME|PATH|PID",
        required_unless_present = "supervised",
        value_parser = NonEmptyStringValueParser::new()
    )]
    netns: Option<String>,
    /// The configuration file
    #[arg(long, value_name = "FILE", required_unless_present = "supervised")]
    config: Option<PathBuf>,
    /// Take namespace, configuration and keys from the node's agent: its stream socket is open at this descriptor
    #[arg(long, value_name = "FD", conflicts_with_all = ["netns", "config"])]
    supervised: Option<RawFd>,
}

/// The source of what `up` is to do.
#[derive(Debug)]
pub(crate) enum Origin {
    /// In files.
    Files {
        /// The namespace, as it is called.
        netns: String,
        /// The configuration file.
        config: PathBuf,
    },
    /// From the node's agent.
    Agent {
        /// The number of the descriptor of its channel.
        descriptor: RawFd,
    },
}

impl UpArguments {
    /// Returns where `up` hears what to do.
    pub(crate) fn origin(self) -> Origin {
        let Self { netns, config, supervised } = self;
        match (supervised, netns, config) {
            (None, Some(netns), Some(config)) => Origin::Files { netns, config },
            (Some(descriptor), _, _) => Origin::Agent { descriptor },
            _ => unreachable!("the command line's rules ask for both where there is no agent"),
        }
    }
}

/// The option that names a namespace.
#[derive(Debug, Args)]
pub(crate) struct Namespace {
    /// The pod's network namespace: a name below /run/netns, a path, a process id, or an id that `list` prints
    #[arg(long, value_name = "NAME|PATH|PID", value_parser = NonEmptyStringValueParser::new())]
    netns: String,
}

impl Namespace {
    /// Opens the namespace.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be opened.
    pub(crate) fn open(&self) -> Result<NetNs, NetNsError> {
        NetNs::open(&self.netns)
    }
}

/// A task of the authority.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make an authority: FILE with its secret, FILE.pub for the pods' configuration
    #[command(after_help = "FILE is made with mode 0600. Neither file is ever overwritten.

Examples:
  tencrypt ca init shop.ca")]
    Init {
        /// The file for the secret
        file: PathBuf,
    },
    /// Sign a certificate for a pod
    #[command(after_help = "A file that is there under the name of --out is replaced if it is a certificate,
and left alone if not.

Examples:
  tencrypt ca issue --ca shop.ca --netns shop-1 --pod web-0 --out web-0.cert
  tencrypt ca issue --ca shop.ca --netns shop-1 --pod web-0 --generation 2 \\
    --out web-0.cert
  tencrypt ca issue --ca shop.ca --tenant-key shop.key --pod web-0 \\
    --address 10.244.1.5 --address fd00::5 --out web-0.cert --public-key \\
    4ac3e9f60b2d75815e90c1a7d38f24b67c0d91e2a85b3f64d17c28e905ba6f43")]
    Issue(IssueArguments),
}

/// A step of a rotation.
#[derive(Debug, Subcommand)]
pub(crate) enum Rotation {
    /// Add an epoch with a fresh key: accepted, not sent
    #[command(after_help = "Examples:
  tencrypt rotate add tenant.key")]
    Add {
        /// The key file
        file: PathBuf,
    },
    /// Send another epoch, once every pod accepts it
    #[command(after_help = "Examples:
  tencrypt rotate activate tenant.key
  tencrypt rotate activate tenant.key --epoch 3")]
    Activate {
        /// The key file
        file: PathBuf,
        /// The epoch to send; else the next after the one that is sent
        #[arg(long, value_name = "N")]
        epoch: Option<u8>,
    },
    /// Remove an epoch, once no pod uses it: who holds its key alone gets silence
    #[command(after_help = "Examples:
  tencrypt rotate retire tenant.key
  tencrypt rotate retire tenant.key --epoch 1")]
    Retire {
        /// The key file
        file: PathBuf,
        /// The epoch to remove; else the oldest before the one that is sent
        #[arg(long, value_name = "N")]
        epoch: Option<u8>,
    },
}

impl Rotation {
    /// The file and what is done to it.
    #[must_use]
    pub(crate) fn step(&self) -> (&Path, Step) {
        match self {
            Self::Add { file } => (file, Step::Add),
            Self::Activate { file, epoch } => (file, Step::Activate(*epoch)),
            Self::Retire { file, epoch } => (file, Step::Retire(*epoch)),
        }
    }
}

/// A command line that was read.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// It asks for a task.
    Command(Cli),
    /// Help or version is printed; the program is to exit with this code.
    Printed(Exit),
}

/// Reads the command line. Help that was asked for goes to standard output; where a command was left out, its help goes
/// to standard error, and it is a mistake.
///
/// # Errors
/// A usage [`Failure`] of one line.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let error = match Cli::try_parse_from(arguments) {
        Ok(cli) => return Ok(Parsed::Command(cli)),
        Err(error) => error,
    };
    let exit = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Success,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Exit::Usage,
        _ => return Err(Failure::new(Exit::Usage, one_line(&error))),
    };
    // A reader that has gone away is no failure.
    let _ = error.print();
    Ok(Parsed::Printed(exit))
}

/// Reads the name of a form of the log.
fn log_format(name: &str) -> Result<Format, &'static str> {
    match name {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json"),
    }
}

/// Reads the name of a shell that the project tests.
fn shell(name: &str) -> Result<Shell, &'static str> {
    match name {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err("expected bash, zsh or fish"),
    }
}

/// clap's first paragraph without its line ends, and its suggestions.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let suggestions = suggestions(error);
    if suggestions.is_empty() {
        format!("{line}; see `tencrypt --help`")
    } else {
        format!("{line}; did you mean {}? See `tencrypt --help`", suggestions.join(" or "))
    }
}

/// Words that are like a mistyped one, each in backticks.
fn suggestions(error: &clap::Error) -> Vec<String> {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let words = kinds.iter().filter_map(|kind| error.get(*kind)).flat_map(|value| match value {
        ContextValue::String(word) => vec![word.clone()],
        ContextValue::Strings(words) => words.clone(),
        _ => Vec::new(),
    });
    words.map(|word| format!("`{word}`")).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse_words(words: &[&str]) -> Result<Parsed, Failure> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command, however deep, with its words.
    fn commands(command: &clap::Command, words: &[String]) -> Vec<(Vec<String>, clap::Command)> {
        let words = [words, &[command.get_name().to_owned()]].concat();
        let below = command.get_subcommands().flat_map(|sub| commands(sub, &words)).collect::<Vec<_>>();
        [vec![(words, command.clone())], below].concat()
    }

    /// The command lines of a help text, a line with a backslash at its end together with the next.
    fn examples(help: &str) -> Vec<String> {
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_default();
        let joined = examples.replace("\\\n", " ");
        joined.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn every_example_in_the_help_is_a_valid_command_line_of_its_command() {
        let mut count = 0;
        for (words, command) in commands(&Cli::command(), &[]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = examples(&help);
            assert!(!examples.is_empty(), "{words:?} has no example");
            for example in &examples {
                let split: Vec<&str> = example.split_whitespace().collect();
                assert!(matches!(parse_words(&split), Ok(Parsed::Command(_))), "{example}");
                assert!(split.iter().zip(&words).all(|(found, word)| found == word), "{example}");
            }
            count += examples.len();
        }
        assert!(count >= 25, "{count}");
    }

    #[test]
    fn no_line_below_the_options_is_wrapped_at_80_columns() {
        for (words, command) in commands(&Cli::command(), &[]) {
            let below = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let help = command.term_width(80).render_help().to_string();
            assert!(help.trim_end().ends_with(below.trim_end()), "{words:?}: {help}");
        }
    }

    #[test]
    fn explain_takes_one_address_or_two() {
        let addresses = |words: &[&str]| {
            let all = [&["tencrypt", "explain", "--netns", "x"], words].concat();
            match parse_words(&all).unwrap() {
                Parsed::Command(Cli { command: Command::Explain { source, destination, .. }, .. }) => {
                    (source, destination)
                }
                other => panic!("{other:?}"),
            }
        };
        let (one, two) = ("10.0.0.1".parse().unwrap(), "fd00::2".parse().unwrap());
        assert_eq!(addresses(&["10.0.0.1"]), (None, one));
        assert_eq!(addresses(&["10.0.0.1", "fd00::2"]), (Some(one), two));
    }

    #[test]
    fn a_usage_error_is_one_line() {
        for words in [
            &["tencrypt", "nonsense"][..],
            &["tencrypt", "-v"],
            &["tencrypt", "up"],
            &["tencrypt", "up", "--netns", "", "--config", "x"],
            &["tencrypt", "explain", "--netns", "x", "not-an-address"],
            &["tencrypt", "genkey", "x", "--epoch", "256"],
            &["tencrypt", "completions", "tcsh"],
        ] {
            let failure = parse_words(words).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{words:?}");
            assert!(!failure.reason.contains('\n') && failure.reason.len() > 20, "{}", failure.reason);
        }
    }

    #[test]
    fn a_command_that_is_left_out_is_a_mistake_answered_by_help() {
        for words in [&["tencrypt"][..], &["tencrypt", "ca"], &["tencrypt", "rotate"]] {
            assert!(matches!(parse_words(words), Ok(Parsed::Printed(Exit::Usage))), "{words:?}");
        }
        for words in [&["tencrypt", "--help"][..], &["tencrypt", "ca", "--help"], &["tencrypt", "--version"]]
        {
            assert!(matches!(parse_words(words), Ok(Parsed::Printed(Exit::Success))), "{words:?}");
        }
    }

    #[test]
    fn a_mistyped_word_is_answered_by_the_one_that_was_meant() {
        for (words, meant) in [
            (&["tencrypt", "staus"][..], "`status`"),
            (&["tencrypt", "status", "--netns", "x", "--josn"], "`--json`"),
            (&["tencrypt", "rotate", "actvate", "k"], "`activate`"),
        ] {
            let reason = parse_words(words).unwrap_err().reason;
            assert!(reason.contains(&format!("; did you mean {meant}? See ")), "{reason}");
        }
        let reason = parse_words(&["tencrypt", "zzzzzz"]).unwrap_err().reason;
        assert!(!reason.contains("did you mean"), "{reason}");
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for exit in
            [Exit::Success, Exit::Runtime, Exit::Usage, Exit::NotRunning, Exit::NotPermitted, Exit::Held]
        {
            let code = format!("\n  {}  ", exit as u8);
            assert!(EXIT_CODES.contains(&code), "{exit:?}");
        }
    }
}
