//! The agent's side: starts the launcher and hears what it says.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::process::Process;

use super::{
    command::{Forget, Groups, PASSED_ON, PATH, Sockets, Start, Surroundings, Task},
    error::LaunchError,
    group::{Group, Limits},
};

/// The time that the launcher has. It needs milliseconds, and up to two seconds where it waits for the end of processes.
const LIMIT: Duration = Duration::from_secs(5);

/// The most of a launcher's words that is read, in bytes.
const MOST_WORDS: u64 = 4_096;

/// The way to start data paths that outlive this process.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    /// This program, or another one that has the subcommand `launch`.
    program: PathBuf,
    /// Data paths stay in the namespaces of this process, even if these are not those of process 1.
    here: bool,
    /// Whoever makes the control groups.
    groups: Groups,
}

/// A data path that is to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Its program, as an absolute path: one of the node, if this process is in a container, and one of this process if it stays here.
    pub(crate) program: PathBuf,
    /// Its arguments. Its channel is descriptor 3.
    pub(crate) arguments: Vec<OsString>,
    /// Its TENCRYPT_RUN_DIR, the folder of its socket.
    pub(crate) run_dir: Option<PathBuf>,
    /// Its TENCRYPT_LOG, which says how much it logs.
    pub(crate) log: Option<String>,
    /// Its control group. Without one it stays in that of this process, and ends with it where that is a container's or a unit's.
    pub(crate) group: Option<Group>,
    /// The limits of the group. Without a group there are none.
    pub(crate) limits: Limits,
    /// Its standard error; without it, that of this process. In a container that is a pipe whose other end the container's runtime reads
    /// until it is closed: a data path that holds it keeps the container from ending.
    pub(crate) stderr: Option<OwnedFd>,
}

impl Launcher {
    /// The launcher that is this program. Data paths are started beside process 1, or, with `here`, in this process's own namespaces.
    pub(crate) fn own(here: bool) -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), here, groups: Groups::default() }
    }

    /// The launcher that is another program.
    #[cfg(test)]
    pub(crate) fn other(program: PathBuf, here: bool) -> Self {
        Self { program, here, groups: Groups::default() }
    }

    /// The same launcher, with control groups that are made like this.
    pub(crate) fn with_groups(self, groups: Groups) -> Self {
        Self { groups, ..self }
    }

    /// Starts a data path with `channel` as its descriptor 3, and returns once it runs: it is no child of this process. The copy of the
    /// channel that this process had is closed. Its pid is in the `hello` that it says.
    ///
    /// Nothing of this process's environment but what `launch` has gets to it, and no descriptor but the channel and standard error. To
    /// be called within a tokio runtime. If the future is dropped the launcher is killed, and a data path may have been started.
    ///
    /// # Errors
    /// The launcher has not started it; a group that was made for it is gone again. After [`LaunchError::Late`] neither is certain.
    pub(crate) async fn launch(&self, launch: &Launch, channel: OwnedFd) -> Result<(), LaunchError> {
        let mut command = vec![launch.program.clone().into_os_string()];
        command.extend_from_slice(&launch.arguments);
        let task = Task::Start(Start {
            surroundings: self.surroundings(),
            group: launch.group.clone(),
            memory: launch.limits.memory,
            cpu: launch.limits.cpu,
            pids: launch.limits.pids,
            command,
        });
        let its_errors = match &launch.stderr {
            Some(given) => given.try_clone()?,
            None => io::stderr().as_fd().try_clone_to_owned()?,
        };
        let mut command = self.command(&task);
        command.stdin(channel).stdout(its_errors);
        let values =
            [launch.run_dir.as_ref().map(|path| path.as_os_str()), launch.log.as_ref().map(AsRef::as_ref)];
        for (name, value) in PASSED_ON.iter().zip(values) {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let words = finish(command, LIMIT).await?;
        if !words.is_empty() {
            tracing::debug!(program = %launch.program.display(), "{words}");
        }
        Ok(())
    }

    /// Removes the control groups of a pod whose data path has ended, and waits up to two seconds for its last processes to be gone
    /// from them. Groups that are not there are fine.
    ///
    /// # Errors
    /// A group is still there, for instance as a process is in it.
    pub(crate) async fn forget(&self, group: &Group) -> Result<(), LaunchError> {
        let task = Task::Forget(Forget { surroundings: self.surroundings(), group: group.clone() });
        let mut command = self.command(&task);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        finish(command, LIMIT).await.map(drop)
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings { here: self.here, groups: self.groups, sockets: Sockets::default() }
    }

    /// The launcher's command line, with an environment of its own.
    fn command(&self, task: &Task) -> Command {
        let mut command = Command::new(&self.program);
        command.args(task.words()).env_clear().env("PATH", PATH).stderr(Stdio::piped());
        command
    }
}

/// Runs a launcher, and returns the line that it has written if it succeeds within `limit`.
///
/// # Errors
/// It cannot be started, fails, or has not ended.
async fn finish(mut command: Command, limit: Duration) -> Result<String, LaunchError> {
    let mut running = Running(command.spawn()?);
    // It keeps the descriptors that it was to pass on.
    drop(command);
    let process = Process::open(running.0.id())?;
    if tokio::time::timeout(limit, process.ended()).await.is_err() {
        return Err(LaunchError::Late(limit.as_secs()));
    }
    let status = running.0.wait()?;
    match (running.words()?, status) {
        (words, status) if status.success() => Ok(words),
        (words, status) if words.is_empty() => Err(LaunchError::Ended(status)),
        (words, _) => Err(LaunchError::Refused(words)),
    }
}

/// A launcher that is killed if nobody waits for its end any more.
struct Running(Child);

impl Running {
    /// The first line that the launcher, which has ended, has written to standard error. What a started program does with it, if it has
    /// got hold of it, is not waited for.
    fn words(&mut self) -> io::Result<String> {
        let Some(pipe) = self.0.stderr.take() else { return Ok(String::new()) };
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        let mut words = Vec::new();
        match pipe.take(MOST_WORDS).read_to_end(&mut words) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        let words = String::from_utf8_lossy(&words);
        let line = words.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        // That is what clap begins with when it refuses a command line.
        Ok(line.strip_prefix("error: ").unwrap_or(line).to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing for a process that was waited for.
        let _ = self.0.kill();
        let _: io::Result<ExitStatus> = self.0.wait();
    }
}

#[cfg(test)]
mod tests;
