//! Namespaces of the tests' own: every test runs again in a child process that has left the host's namespace.

#![expect(dead_code, reason = "each test binary uses a part")]

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tencrypt::IpNet;
use tencrypt_tun::{CapturePlan, DeviceOffload, NetNs};

pub(crate) mod net;
pub(crate) mod state;
pub(crate) mod sys;

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
    sys::leave_host_first(&mut command);
    let output = command.output().expect("the test starts again");
    let shown = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert!(output.status.success() && shown.contains("1 passed"), "{test} inside a namespace: {shown}");
    print!("{shown}");
}

/// Role that this process plays.
pub(crate) fn role() -> String {
    std::env::var(ROLE).unwrap_or_default()
}

/// The current test again, in the same namespace, playing `role`; its standard output is to be read.
pub(crate) fn player(test: &str, role: &str) -> Child {
    let mut command = again(test, role);
    sys::die_with_parent_first(&mut command);
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
    sys::drop_capabilities_first(&mut command, capabilities);
    command.output().expect("the test starts again")
}

/// A namespace beside the test's own.
pub(crate) fn another_namespace() -> NetNs {
    let made = std::thread::spawn(|| {
        sys::unshare_network().expect("a second namespace");
        net::Net::new().up("lo");
        NetNs::current().expect("/proc")
    });
    made.join().expect("a second namespace")
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
    let [interface, tun] = ["eth0", "tenc0"].map(|name| name.parse().expect("name"));
    let protected = vec![prefix("10.128.0.0/16"), prefix("fd00:128::/32")];
    let mut plan = CapturePlan::new(interface, tun, 8362, protected);
    plan.exempt = vec![prefix("10.128.1.2/32")];
    plan
}

/// The same with these offloads of the device.
pub(crate) fn plan_with(offload: DeviceOffload) -> CapturePlan {
    let mut plan = plan();
    plan.offload = offload;
    plan
}

fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}
