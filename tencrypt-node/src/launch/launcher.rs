//! The launcher: a process of one thread that puts itself where a data path belongs, starts it there, and ends.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::{
    fs::FileType,
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    process::setsid,
};

use super::{
    command::{Arguments, Forget, Groups, PASSED_ON, PATH, Start, Surroundings, Task},
    group::Group,
    groups::{self, GroupError, Hierarchies},
    namespaces::{NamespaceError, enter_those_of_process_1},
    scope::{self, ScopeError},
    sys,
};

/// The number of the channel in the program that is started.
const CHANNEL: i32 = 3;

/// The time that the last processes of a pod have to be gone from its groups: they were killed, and have memory to give back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The value by which the kernel rates the program when it is out of memory: that of a pod of the class `system-node-critical`
/// (guaranteedOOMScoreAdj, pkg/kubelet/qos/policy.go since Kubernetes 1.20; -998 before). Under the limit of its own group it is
/// killed all the same.
const OOM_SCORE: &str = "-997";

/// Does what the command line says, and writes one line to standard error: where the program is accounted if it is in a group of its
/// own, or the reason why it was not started.
///
/// To be called before the program opens anything or has a second thread.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.task {
        Task::Start(start) => launch(start),
        Task::Forget(forget) => remove(forget).map(|()| None),
    };
    let (line, code) = match done {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(groups)) => (groups.to_string(), ExitCode::SUCCESS),
        Err(error) => (error.to_string(), ExitCode::FAILURE),
    };
    // Whoever has closed it does not want to know.
    let _ = writeln!(io::stderr(), "{}", line.replace(char::is_control, "?"));
    code
}

/// The reason why a task was not done.
#[derive(Debug, thiserror::Error)]
enum TaskError {
    /// The program has no absolute path.
    #[error("the program is no absolute path: {}", .0.display())]
    Relative(PathBuf),
    /// The descriptors that the launcher was started with cannot be put in order.
    #[error("the launcher's descriptors: {0}")]
    Descriptors(io::Error),
    /// Standard input is something else.
    #[error("standard input is no socket: it has to be the program's channel")]
    NoChannel,
    /// The namespaces of process 1 cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A control group cannot be made, entered or removed.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// systemd does not give a control group.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The kernel does not take the value for when it is out of memory.
    #[error("cannot write {OOM_SCORE} to {OOM_FILE}: {0}")]
    OomScore(io::Error),
    /// There is no session of its own.
    #[error("cannot begin a session: {0}")]
    Session(rustix::io::Errno),
    /// The program is not started.
    #[error("cannot start {}: {source}", .program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Starts the program, and says where it is accounted if it has a group.
fn launch(start: &Start) -> Result<Option<Entered>, TaskError> {
    let Some((program, arguments)) = start.command.split_first() else {
        return Err(TaskError::Relative(PathBuf::new()));
    };
    let program = Path::new(program);
    if !program.is_absolute() {
        return Err(TaskError::Relative(program.to_owned()));
    }
    sys::close_inherited().map_err(TaskError::Descriptors)?;
    // Open until the program has it: dropping it closes it here.
    let _channel = channel()?;
    if !start.surroundings.here {
        enter_those_of_process_1()?;
    }
    let entered = start.group.as_ref().map(|group| enter(start, group)).transpose()?;
    match become_daemon().and_then(|()| spawn(program, arguments)) {
        Ok(()) => Ok(entered),
        Err(error) => {
            if let Some(Entered::Files(entered)) = entered {
                entered.undo();
            }
            Err(error)
        }
    }
}

/// The group that this process is in.
enum Entered {
    /// It was made in the hierarchies' files.
    Files(groups::Entered),
    /// systemd has made it, and removes it with the last process in it.
    Scope(scope::Entered),
}

impl std::fmt::Display for Entered {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(entered) => entered.fmt(to),
            Self::Scope(entered) => entered.fmt(to),
        }
    }
}

/// Moves this process into its group, in whatever way the command line or the machine wants.
fn enter(start: &Start, group: &Group) -> Result<Entered, TaskError> {
    if !is_systemds(start.surroundings.groups) {
        return Ok(Entered::Files(Hierarchies::here()?.enter(group, &start.limits())?));
    }
    let entered = scope::enter(group, &start.limits(), &start.surroundings.sockets)?;
    Hierarchies::here()?.settle(&entered.folder(), &start.limits())?;
    Ok(Entered::Scope(entered))
}

/// Tells if it is systemd that makes the groups. To be asked in the namespaces in which they are made.
fn is_systemds(groups: Groups) -> bool {
    match groups {
        Groups::Auto => scope::is_booted(),
        Groups::Scope => true,
        Groups::Files => false,
    }
}

/// Removes the groups of a pod.
fn remove(forget: &Forget) -> Result<(), TaskError> {
    let Surroundings { here, groups, sockets } = &forget.surroundings;
    if !here {
        enter_those_of_process_1()?;
    }
    if is_systemds(*groups) {
        return Ok(scope::forget(&forget.group, sockets, PATIENCE)?);
    }
    Ok(Hierarchies::here()?.remove(&forget.group, PATIENCE)?)
}

/// Makes the socket that is standard input the descriptor [`CHANNEL`], which the program keeps.
fn channel() -> Result<OwnedFd, TaskError> {
    let error = |errno: rustix::io::Errno| TaskError::Descriptors(errno.into());
    let input = io::stdin();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&input).map_err(error)?.st_mode);
    if kind != FileType::Socket {
        return Err(TaskError::NoChannel);
    }
    // The lowest that is free, and all from this on are.
    let channel = fcntl_dupfd_cloexec(&input, CHANNEL).map_err(error)?;
    if channel.as_raw_fd() != CHANNEL {
        return Err(TaskError::Descriptors(io::ErrorKind::AlreadyExists.into()));
    }
    fcntl_setfd(&channel, FdFlags::empty()).map_err(error)?;
    Ok(channel)
}

/// The file of [`OOM_SCORE`].
const OOM_FILE: &str = "/proc/self/oom_score_adj";

/// Takes what the program is to inherit: the value for when memory is short, if that is allowed, and a session without a terminal.
///
/// The session is begun here and not in the program. So the program does not lead it, and no terminal that it opens becomes its own.
fn become_daemon() -> Result<(), TaskError> {
    let written = OpenOptions::new()
        .write(true)
        .open(OOM_FILE)
        .and_then(|mut file| file.write_all(OOM_SCORE.as_bytes()));
    match written {
        // To lower it takes CAP_SYS_RESOURCE (__set_oom_adj, fs/proc/base.c).
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        written => written.map_err(TaskError::OomScore)?,
    }
    setsid().map(drop).map_err(TaskError::Session)
}

/// Starts the program as a child, which nobody here waits for: this process ends at once, and the child stays.
///
/// SIGPIPE is as the kernel has it by default, for the standard library sees to it. Signals that are blocked or ignored otherwise are
/// so in the program too: there is no safe call that changes it. An agent of this program blocks none.
fn spawn(program: &Path, arguments: &[OsString]) -> Result<(), TaskError> {
    let its_errors = io::stdout().as_fd().try_clone_to_owned().map_err(TaskError::Descriptors)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/").process_group(0);
    command.envs(PASSED_ON.iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value))));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(its_errors);
    match command.spawn() {
        Ok(_) => Ok(()),
        Err(source) => Err(TaskError::Program { program: program.to_owned(), source }),
    }
}
