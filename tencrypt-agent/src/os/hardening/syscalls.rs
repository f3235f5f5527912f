//! The system calls that a running program has a use for. The others are refused with EPERM: an error somewhere, not the
//! end of the protection of a pod, if the list should lack one on some system.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// System calls of the data path, the control plane, libc and the runtime once everything is set up: taken
/// from traces of a program's life, and from what these would use beside it (another allocation size, another kernel).
/// Above all no `fork`, `execve`, `ptrace`, `process_vm_readv`, `mount`, `setns`, `unshare`, `bpf`, `io_uring_setup`,
/// `init_module`, `perf_event_open`, `open_by_handle_at`.
const ALLOWED: &[libc::c_long] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_memfd_secret,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and signals.
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // Files: keys and certificates are read again, /proc and /sys are looked at, the control socket is removed.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_faccessat,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_socketpair,
    // Waiting and the time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    // The rest.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getrandom,
    libc::SYS_getuid,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older forms, which newer architectures lack.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// A flag that `clone` must have, and those it must not: a thread in all the namespaces of the one that makes it, never a
/// process. A copy of this program would have its keys, and seal other packets under the same counters.
const THREAD: libc::c_int = libc::CLONE_THREAD;
const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// Refuses all others to every thread of the process, for good. False where the kernel or the architecture has no such
/// filter.
pub(super) fn restrict() -> bool {
    programs()
        .is_some_and(|programs| programs.iter().all(|program| apply_filter_all_threads(program).is_ok()))
}

/// In the order in which they are to be applied: the last one refuses further ones.
fn programs() -> Option<[BpfProgram; 2]> {
    // The flags of clone3 are in memory, where a filter cannot look. Where the kernel seems not to have it, libc takes
    // clone (glibc, sysdeps/unix/sysv/linux/clone-internal.c; musl knows no other).
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut allowed: BTreeMap<libc::c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(OLDER).map(|number| (*number, Vec::new())).collect();
    allowed.insert(libc::SYS_clone, vec![threads_alone()?]);
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Some([
        program(no_clone3, SeccompAction::Allow, missing)?,
        program(allowed, refused, SeccompAction::Allow)?,
    ])
}

/// The flags are the first argument of clone on every architecture that has a filter here (clone(2)).
fn threads_alone() -> Option<SeccompRule> {
    let looked_at = SeccompCmpOp::MaskedEq((THREAD | NAMESPACES).unsigned_abs().into());
    let is_thread =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, looked_at, THREAD.unsigned_abs().into()).ok()?;
    SeccompRule::new(vec![is_thread]).ok()
}

fn program(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    others: SeccompAction,
    matching: SeccompAction,
) -> Option<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().ok()?;
    SeccompFilter::new(rules, others, matching, architecture).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, io, process::Command, thread};

    use super::*;
    use crate::os::sys;

    /// Runs `work` under the filters, on a thread of its own, for they stay.
    fn restricted<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).expect("no_new_privs");
            for program in programs().expect("filters for this architecture") {
                seccompiler::apply_filter(&program).expect("seccomp");
            }
            work()
        });
        thread.join().expect("the thread survives")
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        let (started, read) = restricted(|| {
            let started = Command::new("/proc/self/exe").arg("--list").spawn().map_err(|error| error.kind());
            let read = fs::read("/proc/self/stat").map(|bytes| !bytes.is_empty());
            (started.map(|_| ()), read.ok())
        });
        assert_eq!(started, Err(io::ErrorKind::PermissionDenied));
        assert_eq!(read, Some(true));
    }

    #[test]
    fn threads_start_and_the_process_does_not_multiply() {
        let code = |result: io::Result<()>| result.map_err(|error| error.raw_os_error());
        assert_eq!(code(sys::fork()), Ok(()), "it can, without the filters");
        assert_eq!(code(sys::clone3_of_nothing()), Err(Some(libc::EINVAL)), "the kernel has it");
        let (forked, clone3, thread) = restricted(move || {
            let thread = thread::Builder::new().spawn(|| ());
            (
                code(sys::fork()),
                code(sys::clone3_of_nothing()),
                thread.map(|thread| thread.join().is_ok()).ok(),
            )
        });
        assert_eq!(forked, Err(Some(libc::EPERM)));
        assert_eq!(clone3, Err(Some(libc::ENOSYS)));
        assert_eq!(thread, Some(true));
    }
}
