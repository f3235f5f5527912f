//! The command line of the subcommand `launch`, which the agent writes and the launcher reads.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;

use super::group::{Group, Limits};

/// The variables of the environment that a data path is given if the agent says so: its folder for sockets, and what it logs.
pub(super) const PASSED_ON: [&str; 2] = ["TENCRYPT_RUN_DIR", "TENCRYPT_LOG"];

/// The PATH of a data path: it starts nothing, and no folder that a person could write to is among these.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line behind `launch`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(super) task: Task,
}

/// The tasks of the launcher.
#[derive(Debug, Eq, PartialEq, Subcommand)]
pub(super) enum Task {
    /// Starts a program. Standard input is its channel, a socket, and standard output becomes its standard error.
    Start(Start),
    /// Removes the control groups of a pod.
    Forget(Forget),
}

/// Whoever makes the control groups of pods.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Groups {
    /// systemd where process 1 is that, else the launcher.
    #[default]
    Auto,
    /// systemd, as transient scopes.
    Scope,
    /// The launcher, by the files of the hierarchies.
    Files,
}

impl Groups {
    /// The word for it, as it is read.
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Scope => "scope",
            Self::Files => "files",
        }
    }
}

/// The sockets by which systemd is reached.
#[derive(Clone, Debug, Eq, PartialEq, Args)]
pub(super) struct Sockets {
    /// That of the system bus ("Well-known Message Bus Instances", D-Bus Specification, with the /run of today).
    #[arg(long, hide = true, value_name = "SOCKET", default_value = SYSTEM_BUS)]
    pub(super) system_bus: PathBuf,
    /// systemd's own, for where there is no bus.
    #[arg(long, hide = true, value_name = "SOCKET", default_value = SYSTEMD)]
    pub(super) systemd: PathBuf,
}

/// The default of the system bus.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// The default of systemd's own socket (manager_setup_private_bus, src/core/dbus.c).
const SYSTEMD: &str = "/run/systemd/private";

impl Default for Sockets {
    fn default() -> Self {
        Self { system_bus: SYSTEM_BUS.into(), systemd: SYSTEMD.into() }
    }
}

/// The place of a task: the namespaces in which it is done, and whoever makes the groups there.
#[derive(Clone, Debug, Default, Eq, PartialEq, Args)]
pub(super) struct Surroundings {
    /// Does not enter the namespaces of process 1.
    #[arg(long)]
    pub(super) here: bool,
    /// Makes the groups by systemd or by the files of the hierarchies.
    #[arg(long, value_enum, value_name = "WAY", default_value = "auto")]
    pub(super) groups: Groups,
    #[command(flatten)]
    pub(super) sockets: Sockets,
}

/// The start of a program.
#[derive(Debug, Eq, PartialEq, Args)]
pub(super) struct Start {
    #[command(flatten)]
    pub(super) surroundings: Surroundings,
    /// The control group in which it is to be. Without it, it is in that of the launcher.
    #[arg(long, value_name = "BASE/POD")]
    pub(super) group: Option<Group>,
    /// The most memory of the group, in bytes.
    #[arg(long, value_name = "BYTES", requires = "group", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) memory: Option<u64>,
    /// The most processor time of the group, in thousandths of a core.
    #[arg(long, value_name = "THOUSANDTHS", requires = "group", value_parser = clap::value_parser!(u32).range(10..))]
    pub(super) cpu: Option<u32>,
    /// The most processes and threads of the group.
    #[arg(long, value_name = "COUNT", requires = "group", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pids: Option<u32>,
    /// The program, as an absolute path, and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub(super) command: Vec<OsString>,
}

/// The end of a pod's control groups.
#[derive(Debug, Eq, PartialEq, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    pub(super) surroundings: Surroundings,
    /// The control group.
    #[arg(value_name = "BASE/POD")]
    pub(super) group: Group,
}

impl Task {
    /// The words of the command line that are read as this.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["launch".into()];
        let (name, Surroundings { here, groups, sockets }) = match self {
            Self::Start(start) => ("start", &start.surroundings),
            Self::Forget(forget) => ("forget", &forget.surroundings),
        };
        words.push(name.into());
        words.extend(here.then(|| "--here".into()));
        if *groups != Groups::default() {
            words.push(format!("--groups={}", groups.word()).into());
        }
        let default = Sockets::default();
        for (name, socket, default) in [
            ("--system-bus=", &sockets.system_bus, &default.system_bus),
            ("--systemd=", &sockets.systemd, &default.systemd),
        ] {
            if socket != default {
                let mut word = OsString::from(name);
                word.push(socket);
                words.push(word);
            }
        }
        match self {
            Self::Start(start) => {
                let mut option = |name: &str, value: Option<String>| {
                    words.extend(value.map(|value| format!("--{name}={value}").into()));
                };
                option("group", start.group.as_ref().map(ToString::to_string));
                option("memory", start.memory.map(|bytes| bytes.to_string()));
                option("cpu", start.cpu.map(|thousandths| thousandths.to_string()));
                option("pids", start.pids.map(|count| count.to_string()));
                words.push("--".into());
                words.extend(start.command.iter().cloned());
            }
            Self::Forget(forget) => words.push(forget.group.to_string().into()),
        }
        words
    }
}

impl Start {
    /// The limits of the group.
    pub(super) fn limits(&self) -> Limits {
        Limits { memory: self.memory, cpu: self.cpu, pids: self.pids }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::*;

    /// A command line that has `launch` alone.
    #[derive(Debug, Parser)]
    enum Line {
        Launch(Arguments),
    }

    fn read(words: &[OsString]) -> Result<Task, clap::Error> {
        let Line::Launch(arguments) =
            Line::try_parse_from(std::iter::once(&OsString::from("program")).chain(words))?;
        Ok(arguments.task)
    }

    fn start() -> Start {
        let command = ["/usr/bin/tencrypt", "up", "--supervised", "3"].map(OsString::from).to_vec();
        Start {
            surroundings: Surroundings::default(),
            group: None,
            memory: None,
            cpu: None,
            pids: None,
            command,
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let group = Group::new("tencrypt", "4-17").unwrap();
        let sockets = || Sockets { system_bus: "/a b".into(), systemd: "-c".into() };
        let of = |here, groups, sockets| Surroundings { here, groups, sockets };
        let forget = |surroundings| Forget { surroundings, group: group.clone() };
        let full = Start {
            surroundings: of(true, Groups::Scope, Sockets::default()),
            group: Some(group.clone()),
            memory: Some(u64::MAX),
            cpu: Some(10),
            ..start()
        };
        for task in [
            Task::Start(Start { pids: Some(1), ..full }),
            Task::Start(start()),
            Task::Start(Start {
                command: vec!["/p".into(), "--here".into(), "--".into(), "".into()],
                ..start()
            }),
            Task::Start(Start { surroundings: of(false, Groups::Files, sockets()), ..start() }),
            Task::Forget(forget(of(true, Groups::Scope, Sockets::default()))),
            Task::Forget(forget(of(false, Groups::Auto, sockets()))),
        ] {
            assert_eq!(read(&task.words()).unwrap(), task);
        }
    }

    #[test]
    fn limits_without_a_group_and_limits_that_stop_everything_are_refused() {
        let refused = |start: Start| read(&Task::Start(start).words()).unwrap_err().kind();
        assert_eq!(refused(Start { memory: Some(1), ..start() }), ErrorKind::MissingRequiredArgument);
        let group = || Some(Group::new("tencrypt", "a").unwrap());
        for limit in [
            Start { group: group(), memory: Some(0), ..start() },
            Start { group: group(), cpu: Some(9), ..start() },
            Start { group: group(), pids: Some(0), ..start() },
        ] {
            assert_eq!(refused(limit), ErrorKind::ValueValidation);
        }
        assert_eq!(refused(Start { command: vec![], ..start() }), ErrorKind::MissingRequiredArgument);
    }
}
