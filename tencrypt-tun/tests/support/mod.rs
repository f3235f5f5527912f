//! Namespaces of the tests' own: every test runs again in a child process that has left the host's namespace.

#![expect(unsafe_code, reason = "unshare, prctl and signals have no safe wrapper in the test's dependencies")]
#![expect(dead_code, reason = "each test binary uses a part")]

use std::{
    ffi::CString,
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tencrypt::UnansweredPolicy;
use tencrypt_tun::{CapturePlan, NetNs};

pub(crate) mod net;
pub(crate) mod state;

/// Set in the child: what it is to play. The test's body itself is played by `main`.
const ROLE: &str = "TENCRYPT_TUN_TEST_ROLE";

/// Runs `body` in a fresh network namespace, in a process of its own; as an ordinary user also in a fresh user
/// namespace, as its root. `test` is the test's own path, as libtest knows it.
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ROLE).is_some() {
        if role() == "main" {
            net::Net::new().up("lo");
        }
        return body();
    }
    let mut command = again(test, "main");
    // SAFETY: leave_host makes system calls only, on memory prepared before the fork.
    unsafe {
        let map = IdMap::of_caller();
        command.pre_exec(move || leave_host(&map));
    }
    let output = command.output().expect("the test starts again");
    let shown = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert!(output.status.success() && shown.contains("1 passed"), "{test} inside a namespace: {shown}");
}

/// Role that this process plays.
pub(crate) fn role() -> String {
    std::env::var(ROLE).unwrap_or_default()
}

/// The current test again, in the same namespace, playing `role`; its standard output is to be read.
pub(crate) fn player(test: &str, role: &str) -> Child {
    let mut command = again(test, role);
    // SAFETY: prctl is one system call.
    unsafe {
        command.pre_exec(die_with_parent);
    }
    command.stdout(Stdio::piped()).spawn().expect("the test starts again")
}

/// As [`player`], without `CAP_NET_ADMIN`; waits for its end.
pub(crate) fn powerless_player(test: &str, role: &str) -> std::process::Output {
    const CAP_NET_ADMIN: libc::c_ulong = 12;
    player_without(&[CAP_NET_ADMIN], test, role)
}

/// As [`player`], without these capabilities; waits for its end.
pub(crate) fn player_without(
    capabilities: &'static [libc::c_ulong],
    test: &str,
    role: &str,
) -> std::process::Output {
    let mut command = again(test, role);
    // SAFETY: prctl is one system call.
    unsafe {
        command.pre_exec(|| {
            die_with_parent()?;
            capabilities
                .iter()
                .try_for_each(|capability| checked(libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0)))
        });
    }
    command.output().expect("the test starts again")
}

/// A namespace beside the test's own.
pub(crate) fn another_namespace() -> NetNs {
    let made = std::thread::spawn(|| {
        // SAFETY: moves the calling thread only, which ends after this.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNET) }).expect("a second namespace");
        net::Net::new().up("lo");
        NetNs::current().expect("/proc")
    });
    made.join().expect("a second namespace")
}

/// Sets an option of a socket to these four bytes.
pub(crate) fn set_option(socket: &socket2::Socket, level: i32, name: i32, value: &[u8; 4]) {
    // SAFETY: the kernel reads the four bytes of `value`, which lives across the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), 4) };
    checked(result).expect("socket option");
}

/// Waits for `condition`, at most five seconds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().expect("prefix")
}

/// The pod of these tests: eth0 with 10.128.1.5/24 and fd00:128:1::5/64, gateway .1.
pub(crate) fn plan() -> CapturePlan {
    CapturePlan {
        interface: "eth0".parse().expect("name"),
        tun: "tenc0".parse().expect("name"),
        port: 8362,
        protected: vec![prefix("10.128.0.0/16"), prefix("fd00:128::/32")],
        exempt: vec![prefix("10.128.1.2/32")],
        external: Vec::new(),
        internal: Vec::new(),
        nameservers: Vec::new(),
        unknown: UnansweredPolicy::Drop,
        enforce: true,
        queue: CapturePlan::QUEUE,
    }
}

fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
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
