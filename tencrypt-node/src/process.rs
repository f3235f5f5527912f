//! A process that is not a child of this one.

use std::{
    ffi::OsString,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tencrypt_agent::os::watch_readable;
use tokio::{io::unix::AsyncFd, runtime::Handle};

/// The most entries of a folder of a process that are looked at: a data path has some thirty descriptors and four threads.
const MOST_ENTRIES: usize = 4_096;

/// A process, held by a descriptor: when it has ended this means nobody else, even if its number is given out again.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// The process with the number `pid`. One that has ended and was not waited for is one too.
    ///
    /// # Errors
    /// There is none (ESRCH), the number is none, or this is not called within a tokio runtime.
    ///
    /// # Panics
    /// In a tokio runtime that was built without I/O.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        // Without a runtime what follows would panic.
        let _runtime = Handle::try_current().map_err(io::Error::other)?;
        Ok(Self { pid, pidfd: watch_readable(pidfd_open(pid, PidfdFlags::empty())?)? })
    }

    /// Returns when the process has ended, at once if it has already.
    pub(crate) async fn ended(&self) {
        // pidfd_open(2): readable once it has ended, and from then on.
        if self.pidfd.readable().await.is_err() {
            // The runtime ends, and nothing that waits in it goes on.
            std::future::pending::<()>().await;
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended and was waited for (ESRCH), or it may not be sent one (EPERM).
    pub(crate) fn kill(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(self.pidfd.get_ref(), signal)?)
    }

    /// The path of its executable, as the namespace of mounts has it from which that was started. The kernel adds ` (deleted)` to the
    /// path of a file that was removed or replaced (proc_pid_exe(5)).
    ///
    /// # Errors
    /// The process has ended, or this takes a right that is missing (CAP_SYS_PTRACE).
    pub(crate) fn executable(&self) -> io::Result<PathBuf> {
        let path = rustix::fs::readlinkat(self.folder()?, "exe", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
    }

    /// A descriptor of the network namespace with these two numbers, taken from this process: one that a thread of it is in, or that it
    /// has open.
    ///
    /// # Errors
    /// It has none of that namespace (`NotFound`), has ended, or this takes a right that is missing (CAP_SYS_PTRACE).
    pub(crate) fn netns(&self, device: u64, inode: u64) -> io::Result<OwnedFd> {
        let folder = self.folder()?;
        let tasks = entries(&folder, "task")?.map(|name| format!("task/{name}/ns/net"));
        let descriptors = entries(&folder, "fd")?.map(|name| format!("fd/{name}"));
        let is_wanted = |stat: &rustix::fs::Stat| (stat.st_dev, stat.st_ino) == (device, inode);
        for path in tasks.chain(descriptors) {
            // A thread or descriptor that has gone meanwhile is none. What is another file is not opened: that can have an effect.
            if rustix::fs::statat(&folder, &path, AtFlags::empty()).is_ok_and(|stat| is_wanted(&stat))
                && let Ok(file) = rustix::fs::openat(&folder, &path, OPEN, Mode::empty())
                && rustix::fs::fstat(&file).is_ok_and(|stat| is_wanted(&stat))
                && tencrypt_cni::netns::check(file.as_fd()).is_ok()
            {
                return Ok(file);
            }
        }
        let pid = self.pid.as_raw_nonzero();
        let reason = format!("process {pid} has no network namespace {device}-{inode}");
        Err(io::Error::new(io::ErrorKind::NotFound, reason))
    }

    /// The folder of this process, and of no other one, in `/proc`.
    fn folder(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/{}", self.pid.as_raw_nonzero());
        let folder = rustix::fs::open(path, OFlags::DIRECTORY | OPEN, Mode::empty())?;
        // As long as the pidfd has its number nobody else has had it, so the folder is this process's. It stays that: without the process
        // there is nothing in it.
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.pidfd.get_ref().as_raw_fd()))?;
        let number = about.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
        if number == Some(self.pid.as_raw_nonzero().to_string().as_str()) {
            Ok(folder)
        } else {
            Err(Errno::SRCH.into())
        }
    }
}

/// The way in which files of another process are opened: without waiting.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The numbers that are the names in a folder of a process, up to [`MOST_ENTRIES`].
fn entries(process: &OwnedFd, folder: &str) -> io::Result<impl Iterator<Item = u32>> {
    let folder = rustix::fs::openat(process, folder, OFlags::DIRECTORY | OPEN, Mode::empty())?;
    let numbers = Dir::new(folder)?
        .map_while(Result::ok)
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok());
    Ok(numbers.take(MOST_ENTRIES))
}

#[cfg(test)]
mod tests;
