//! A network namespace, held by a descriptor.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::{fs, panic, thread};

use ipnet::IpNet;

use crate::error::{During, Result};
use crate::{link, sys};

/// A network namespace. It lives as long as this value, a process or a socket in it.
#[derive(Debug)]
pub struct NetNs {
    handle: OwnedFd,
}

impl NetNs {
    /// A new, empty namespace with `lo` up.
    ///
    /// IPv4 packets from any source are accepted (`rp_filter` 0, whatever the machine's default is), and IPv6 does
    /// neither duplicate address detection nor router discovery, so that addresses work at once.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses, such as an ordinary user outside of a world.
    pub fn new() -> Result<Self> {
        let made = thread::scope(|scope| {
            let make = || -> Result<OwnedFd> {
                sys::unshare_network().during("make a network namespace")?;
                let handle = File::open("/proc/thread-self/ns/net").during("open a network namespace")?;
                for (setting, value) in DEFAULTS {
                    write_sysctl(setting, value)?;
                }
                link::up("lo")?;
                Ok(handle.into())
            };
            joined(scope.spawn(make).join())
        });
        Ok(Self { handle: made? })
    }

    /// A path by which other processes reach this namespace, as long as this process holds it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd()))
    }

    /// Runs `work` in this namespace, on a thread of its own.
    ///
    /// # Panics
    /// As `work` does; or if the namespace cannot be entered, which only lack of memory causes in a world.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            sys::enter_network(self.handle.as_fd()).expect("a namespace this process made can be entered");
            work()
        };
        thread::scope(|scope| joined(scope.spawn(inside).join()))
    }

    /// Starts `command` in this namespace. The process is killed when the calling thread ends.
    ///
    /// # Errors
    /// The process could not be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.prepare(&mut command)?;
        command.spawn().during("start a process in a namespace")
    }

    /// Makes the next spawn of `command` happen in this namespace.
    pub(crate) fn prepare(&self, command: &mut Command) -> Result<()> {
        let network = self.handle.try_clone().during("duplicate a descriptor")?;
        sys::before_exec(command, sys::ChildSetup { network: Some(network), ..Default::default() });
        Ok(())
    }

    /// Gives a device of this namespace an address and an MTU in bytes, and sets it up: a tunnel's, for example.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no such device, or it has the address already.
    pub fn set_up_device(&self, name: &str, address: IpNet, mtu: u32) -> Result<()> {
        self.run(|| {
            link::add_address(name, address)?;
            link::set_mtu(name, mtu)?;
            link::up(name)
        })
    }

    /// Writes a setting below `/proc/sys/net`, named like `ipv4/conf/eth0/rp_filter`.
    ///
    /// # Errors
    /// No such setting, or not one that a namespace may change.
    pub fn set_sysctl(&self, setting: &str, value: &str) -> Result<()> {
        self.run(|| write_sysctl(setting, value))
    }

    /// Reads a setting below `/proc/sys/net`, without its line end; `None` if there is no such setting.
    pub fn sysctl(&self, setting: &str) -> Option<String> {
        self.run(|| read_sysctl(setting))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

const DEFAULTS: [(&str, &str); 8] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// `/proc/sys/net` shows the namespace of the thread that looks (fs/proc/proc_sysctl.c, net/sysctl_net.c).
pub(crate) fn read_sysctl(setting: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys/net").join(setting)).ok()?;
    Some(text.trim_end().to_owned())
}

pub(crate) fn write_sysctl(setting: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys/net").join(setting), value).during("write a network setting")
}

fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|payload| panic::resume_unwind(payload))
}
