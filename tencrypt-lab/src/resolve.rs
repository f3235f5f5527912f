//! The system's resolver as a pod's application uses it: getaddrinfo with the pod's resolv.conf.
//!
//! libc keeps one resolv.conf per process, so each question is asked by a child process: this executable once more,
//! which leaves by [`crate::init`]. In a mount namespace of its own the pod's file lies over `/etc/resolv.conf`.

use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::error::{During, Error, Result, is_timeout};
use crate::netns::NetNs;
use crate::role::{ROLE, ROLE_RESOLVE, this_program};
use crate::sys;

const FILE: &str = "TENCRYPT_LAB_RESOLV_CONF";
const NAME: &str = "TENCRYPT_LAB_RESOLVE_NAME";
const TARGET: &str = "/etc/resolv.conf";

/// Addresses of `name` by the system's resolver, in a namespace, with the file `resolv_conf` in place of
/// `/etc/resolv.conf`; duplicates removed, order kept.
///
/// A copy of the files in `/etc` (not of directories) takes the place of `/etc` where `/etc/resolv.conf` is missing, or
/// is a link to nowhere. Only `files` and `dns` of nsswitch.conf are used and a running name cache is hidden,
/// so the question cannot leave by a service of the machine.
///
/// # Errors
/// [`Error::Resolver`] with the resolver's words if it knows no address, [`Error::Timeout`] after `limit`.
pub fn resolve(from: &NetNs, resolv_conf: &Path, name: &str, limit: Duration) -> Result<Vec<IpAddr>> {
    const WHAT: &str = "ask the system's resolver";
    let (mut result, result_end) = UnixStream::pair().during(WHAT)?;
    let mut command = this_program()?;
    command
        .args(env::args_os().skip(1))
        .env(ROLE, ROLE_RESOLVE)
        .env(FILE, fs::canonicalize(resolv_conf).during("find resolv.conf")?)
        .env(NAME, name)
        // The answer comes this way; the standard output has the test harness's lines.
        .stdin(Stdio::from(OwnedFd::from(result_end)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = from.spawn(command)?;
    result.set_read_timeout(Some(limit)).during(WHAT)?;
    let mut text = String::new();
    let read = result.read_to_string(&mut text);
    let end = Instant::now() + Duration::from_secs(1);
    while read.is_ok() && child.try_wait().during(WHAT)?.is_none() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    // Killing a process that has ended is no error; one that has not is of no use any more.
    let _ = child.kill();
    child.wait().during(WHAT)?;
    match read {
        Err(error) if is_timeout(&error) => Err(Error::Timeout { what: WHAT, limit }),
        Err(error) => Err(error).during(WHAT),
        Ok(_) => parse(&text),
    }
}

/// The child's whole life; returns its exit code.
pub(crate) fn child() -> i32 {
    let answer = answer().unwrap_or_else(|error| format!("error {error}\n"));
    let sent = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(|parent| UnixStream::from(parent).write_all(answer.as_bytes()));
    i32::from(sent.is_err())
}

fn answer() -> Result<String> {
    let file = PathBuf::from(env::var_os(FILE).ok_or(Error::Malformed("no file given"))?);
    let name = env::var(NAME).map_err(|_| Error::Malformed("no name given"))?;
    replace(&file)?;
    let found = (name.as_str(), 0).to_socket_addrs().map_err(|error| Error::Resolver(error.to_string()))?;
    Ok(found.map(|address| format!("address {}\n", address.ip())).chain(["done\n".to_owned()]).collect())
}

fn parse(text: &str) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("address", address)) => {
                let address = address.parse().map_err(|_| Error::Malformed("not an address"))?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Some(("error", words)) => return Err(Error::Resolver(words.to_owned())),
            _ => return if line == "done" { Ok(addresses) } else { Err(Error::Malformed("not an answer")) },
        }
    }
    Err(Error::Ended("it had answered; does main call tencrypt_lab::init?"))
}

fn replace(file: &Path) -> Result<()> {
    sys::unshare_mounts().during("make a mount namespace")?;
    let switch = b"hosts: files dns\n";
    match fs::canonicalize(TARGET) {
        Ok(target) => {
            bind(file, &target)?;
            let scratch = c"/tmp";
            if Path::new("/etc/nsswitch.conf").exists() {
                // The file to bind from lies in this namespace's own memory; resolv.conf is bound already.
                sys::mount_tmpfs(scratch).during("mount a memory file system")?;
                fs::write("/tmp/nsswitch.conf", switch).during("write nsswitch.conf")?;
                bind(Path::new("/tmp/nsswitch.conf"), Path::new("/etc/nsswitch.conf"))?;
            }
        }
        Err(_) => {
            let resolv_conf = fs::read(file).during("read resolv.conf")?;
            copy_etc()?;
            fs::write(TARGET, resolv_conf).during("write resolv.conf")?;
            fs::write("/etc/nsswitch.conf", switch).during("write nsswitch.conf")?;
        }
    }
    for cache in ["/run/nscd", "/var/run/nscd"] {
        if Path::new(cache).is_dir() {
            sys::mount_tmpfs(&path_text(Path::new(cache))?).during("hide the name cache")?;
        }
    }
    Ok(())
}

/// Replaces `/etc` by a memory file system with those of its files that this user may read.
fn copy_etc() -> Result<()> {
    /// Larger files have no part in resolving names, bytes.
    const LARGEST: u64 = 1 << 20;
    let mut files = Vec::new();
    for entry in fs::read_dir("/etc").during("read /etc")?.flatten() {
        let path = entry.path();
        if fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= LARGEST)
            && let Ok(bytes) = fs::read(&path)
        {
            files.push((path, bytes));
        }
    }
    sys::mount_tmpfs(c"/etc").during("mount a memory file system")?;
    files.iter().try_for_each(|(path, bytes)| fs::write(path, bytes)).during("copy /etc")
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    sys::mount_bind(&path_text(from)?, &path_text(to)?).during("mount a file over another")
}

fn path_text(path: &Path) -> Result<CString> {
    let bytes: &OsStr = path.as_os_str();
    CString::new(bytes.as_bytes()).map_err(|_| Error::Malformed("a path with a zero byte"))
}
