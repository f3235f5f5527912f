//! System calls of the tests without a safe wrapper in their dependencies.

#![expect(
    unsafe_code,
    reason = "unshare, prctl and setsockopt have no safe wrapper in the test's dependencies"
)]

use std::{
    ffi::CString,
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

/// Has the command leave this network namespace before it starts, and die with this process. As an ordinary user it
/// leaves the user namespace too, and is root in the new one.
pub(super) fn leave_host_first(command: &mut Command) {
    let map = IdMap::of_caller();
    // SAFETY: leave_host makes system calls only, on memory prepared before the fork.
    unsafe {
        command.pre_exec(move || leave_host(&map));
    }
}

/// Has the command die with this process.
pub(super) fn die_with_parent_first(command: &mut Command) {
    // SAFETY: prctl is one system call.
    unsafe {
        command.pre_exec(die_with_parent);
    }
}

/// Has the command start without these capabilities, and die with this process.
pub(super) fn drop_capabilities_first(command: &mut Command, capabilities: &'static [libc::c_ulong]) {
    // SAFETY: prctl is one system call.
    unsafe {
        command.pre_exec(|| {
            die_with_parent()?;
            capabilities
                .iter()
                .try_for_each(|capability| checked(libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0)))
        });
    }
}

/// Moves the calling thread into a new network namespace.
pub(super) fn unshare_network() -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Sets an option of a socket to these bytes.
pub(crate) fn set_option(socket: &socket2::Socket, level: i32, name: i32, value: &[u8]) {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads the bytes of `value`, which lives across the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    checked(result).expect("socket option");
}

/// Files and contents that make the caller root of its new user namespace; nothing for root, who needs none.
struct IdMap(Option<[(CString, CString); 3]>);

impl IdMap {
    fn of_caller() -> Self {
        // SAFETY: these calls only return numbers.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let text = |text: String| CString::new(text).expect("no zero byte");
        Self((user != 0).then(|| {
            [
                (text("/proc/self/setgroups".into()), text("deny".into())),
                (text("/proc/self/uid_map".into()), text(format!("0 {user} 1"))),
                (text("/proc/self/gid_map".into()), text(format!("0 {group} 1"))),
            ]
        }))
    }
}

/// Between fork and exec: system calls only.
fn leave_host(map: &IdMap) -> io::Result<()> {
    die_with_parent()?;
    let user = if map.0.is_some() { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: unshare moves this process, which has one thread; open, write and close work on prepared strings.
    unsafe {
        checked(libc::unshare(user | libc::CLONE_NEWNET))?;
        for (path, content) in map.0.iter().flatten() {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            checked(file)?;
            let written = libc::write(file, content.as_ptr().cast(), content.as_bytes().len());
            let result = if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
            libc::close(file);
            result?;
        }
    }
    Ok(())
}

fn die_with_parent() -> io::Result<()> {
    // SAFETY: one system call.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
