//! The proof that two pods speak encrypted, at one of them: something is sent, and every frame of the pod's interfaces is looked at
//! meanwhile. `kube verify` starts it in the agents' containers, at both pods at once.
//!
//! A socket in the pod's namespace without the data path's mark is led into the tunnel as any application's is.

mod capture;
mod command;
mod exchange;
mod frame;
mod sys;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tencrypt_agent::failure::{Exit, Failure};
use tencrypt_tun::{NetNs, NetNsError};

use self::{capture::Capture, exchange::exchange};
pub(crate) use self::{
    capture::Counted,
    command::{Arguments, Canary, Ends, Protocol, Send, Task, Watch},
};

/// Time after the last word in which records still come: the end of a connection, an acknowledgement.
const QUIET: Duration = Duration::from_millis(200);

/// Ports that are tried: each was free for TCP, and may be taken for UDP.
const TRIES: usize = 16;

/// A line of a probe, which is JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    /// Frames are looked at from now on.
    Watching {
        /// A port of the pod at which nobody listens.
        closed_port: u16,
    },
    /// The end of the look.
    Watched(Counted),
    /// The end of a probe.
    Sent {
        /// The answer, in words; none: there was none.
        answer: Option<String>,
        /// The last error of the kernel, where there was one: it did not send, or heard that it cannot arrive.
        refusal: Option<String>,
        /// The frames that were seen.
        counted: Counted,
    },
}

/// Does the task, and hands its lines to `say`.
///
/// # Errors
/// The namespace is not there or may not be entered, or the kernel gives no socket.
pub(crate) fn run(task: &Task, mut say: impl FnMut(&str) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut say = |said: &Said| say(&(serde_json::to_string(said).map_err(Failure::runtime)? + "\n"));
    match task {
        Task::Send(probe) => say(&send(probe)?),
        Task::Watch(Watch { ends, seconds }) => {
            let namespace = namespace(&ends.netns)?;
            let (capture, closed_port) =
                inside(&namespace, || Ok((Capture::start(ends)?, closed_port(&ends.own)?)))?;
            say(&Said::Watching { closed_port })?;
            wait_for_a_line(Duration::from_secs(*seconds));
            thread::sleep(QUIET);
            say(&Said::Watched(capture.end().map_err(of_io)?))
        }
    }
}

fn send(probe: &Send) -> Result<Said, Failure> {
    let namespace = namespace(&probe.ends.netns)?;
    let (answer, counted) = inside(&namespace, || {
        let capture = Capture::start(&probe.ends)?;
        let answer = exchange(probe)?;
        thread::sleep(QUIET);
        Ok((answer, capture.end()?))
    })?;
    let (answer, refusal) = match answer {
        Ok(answer) => (Some(answer.to_owned()), None),
        Err(refusal) => (None, refusal.map(|error| error.to_string())),
    };
    Ok(Said::Sent { answer, refusal, counted })
}

/// Opens the pod's namespace. The node's own is none: nothing is sent from there.
fn namespace(name: &str) -> Result<NetNs, Failure> {
    let namespace = NetNs::open(name).map_err(of_namespace)?;
    if namespace.is_host() {
        return Err(Failure::new(Exit::Usage, format_args!("`{name}` is the node's own network namespace")));
    }
    Ok(namespace)
}

fn inside<T: std::marker::Send>(
    namespace: &NetNs,
    work: impl FnOnce() -> io::Result<T> + std::marker::Send,
) -> Result<T, Failure> {
    namespace.run(work).map_err(of_namespace)?.map_err(of_io)
}

fn of_namespace(error: NetNsError) -> Failure {
    let exit = if error.is_permission() { Exit::NotPermitted } else { Exit::Runtime };
    match std::error::Error::source(&error) {
        Some(source) => Failure::new(exit, format_args!("{error}: {source}")),
        None => Failure::new(exit, error),
    }
}

fn of_io(error: io::Error) -> Failure {
    Failure::new(Exit::of_io(&error), error)
}

/// Finds a port at which nobody listens, neither for TCP nor for UDP.
fn closed_port(own: &[IpAddr]) -> io::Result<u16> {
    let own = own.first().copied().ok_or(io::ErrorKind::InvalidInput)?;
    for _ in 0..TRIES {
        let port = TcpListener::bind((own, 0))?.local_addr()?.port();
        if UdpSocket::bind(SocketAddr::new(own, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Waits for a line on standard input, at most that long. The end of standard input is no line: some runtimes give none.
fn wait_for_a_line(limit: Duration) {
    let (line, read) = mpsc::channel();
    // It is left where it waits when the process ends.
    let _reader = thread::spawn({
        let line = line.clone();
        move || {
            let mut text = String::new();
            if io::stdin().read_line(&mut text).is_ok_and(|bytes| bytes > 0) {
                let _ = line.send(());
            }
        }
    });
    // This thread has a sender too: without a line it waits until the time is over.
    let _ = read.recv_timeout(limit);
    drop(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_said() {
        let counted = Counted { records_out: 2, plain_kinds: vec!["tcp".into()], ..Counted::default() };
        for said in [
            Said::Watching { closed_port: 40_000 },
            Said::Watched(counted.clone()),
            Said::Sent { answer: Some("refused".into()), refusal: None, counted },
        ] {
            let text = serde_json::to_string(&said).unwrap();
            assert_eq!(serde_json::from_str::<Said>(&text).unwrap(), said, "{text}");
        }
    }

    #[test]
    fn nothing_is_sent_from_the_nodes_own_namespace_nor_from_none() {
        let refused = namespace("/proc/self/ns/net").unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.reason.ends_with("is the node's own network namespace"), "{}", refused.reason);
        assert_eq!(namespace("4-1").unwrap_err().reason, "no network namespace `4-1`");
    }

    #[test]
    fn a_closed_port_is_free_for_both() {
        let own: IpAddr = "127.0.0.1".parse().unwrap();
        let port = closed_port(&[own]).unwrap();
        assert!(TcpListener::bind((own, port)).is_ok() && UdpSocket::bind((own, port)).is_ok());
    }
}
