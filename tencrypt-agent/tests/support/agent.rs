//! An agent of the tests' own: the other end of the channel of `tencrypt up --supervised`, written from `docs/node-protocol.md`.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tencrypt_lab::{Finished, Pod, Program};

use super::{Cluster, LIMIT, PROTECTED, Running, command, lanes};

/// The kinds of an agent's messages.
pub(crate) const HELLO: u8 = 1;
pub(crate) const POD: u8 = 2;
pub(crate) const CONFIG: u8 = 3;
pub(crate) const KEYS: u8 = 4;
pub(crate) const AUTHORITY: u8 = 5;
pub(crate) const REVOCATION: u8 = 6;
pub(crate) const CERTIFICATE: u8 = 7;
pub(crate) const FACTS: u8 = 9;
pub(crate) const COMPLETE: u8 = 10;
pub(crate) const RENEW: u8 = 11;
pub(crate) const REPORT: u8 = 12;
pub(crate) const END: u8 = 13;

/// The agent's end of a channel.
pub(crate) struct Agent(pub(crate) UnixStream);

impl Agent {
    /// Sends a message.
    pub(crate) fn send(&mut self, kind: u8, payload: &[u8]) {
        self.try_send(kind, payload).unwrap();
    }

    /// The same; the program may have gone.
    pub(crate) fn try_send(&mut self, kind: u8, payload: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&frame(kind, payload))
    }

    /// Sends a message with these descriptors beside it.
    pub(crate) fn send_with(&self, kind: u8, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let frame = frame(kind, payload);
        let sent = sendmsg(&self.0, &[IoSlice::new(&frame)], &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), frame.len());
    }

    /// Waits for the program's next message; `None`: it has closed the channel.
    pub(crate) fn next(&mut self) -> Option<Value> {
        self.0.set_read_timeout(Some(LIMIT)).unwrap();
        let mut header = [0; 5];
        match self.0.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("the program says nothing: {error}"),
        }
        let [a, b, c, d, kind] = header;
        assert_eq!(kind, 128);
        let mut payload = vec![0; u32::from_be_bytes([a, b, c, d]) as usize];
        self.0.read_exact(&mut payload).unwrap();
        Some(serde_json::from_slice(&payload).unwrap())
    }

    /// Waits for a message of this name, and passes the others by.
    pub(crate) fn wait_for(&mut self, name: &str) -> Value {
        self.wait_until(|message| message.get(name).cloned())
    }

    /// Waits for an event of this name.
    pub(crate) fn wait_for_event(&mut self, name: &str) -> Value {
        self.wait_until(|message| message["event"].get(name).cloned())
    }

    /// Waits for the message that is looked for.
    pub(crate) fn wait_until(&mut self, mut found: impl FnMut(&Value) -> Option<Value>) -> Value {
        let end = Instant::now() + LIMIT;
        let mut passed = Vec::new();
        while Instant::now() < end {
            let Some(message) = self.next() else { panic!("the channel was closed after {passed:?}") };
            if let Some(found) = found(&message) {
                return found;
            }
            passed.push(message);
        }
        panic!("not within {LIMIT:?}, but {passed:?}");
    }

    /// Waits for the channel to be closed; returns what was said before.
    pub(crate) fn wait_closed(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Gives everything up to `complete`, which the caller sends.
    pub(crate) fn give(&mut self, cluster: &Cluster, pod: &Pod, more: &str) {
        self.send(HELLO, br#"{"oldest": 1, "newest": 1, "program": "the tests"}"#);
        self.give_pod(pod);
        self.send(CONFIG, cluster.settings(more).as_bytes());
        self.send(KEYS, &fs::read(&cluster.key_file).unwrap());
    }

    /// Gives the pod and its namespace.
    pub(crate) fn give_pod(&self, pod: &Pod) {
        let namespace = fs::File::open(pod.netns().path()).unwrap();
        let text = json!({"name": format!("shop/{}", pod.v4()), "tag": "v1"}).to_string();
        self.send_with(POD, text.as_bytes(), &[namespace.as_fd()]);
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.push(kind);
    frame.extend_from_slice(payload);
    frame
}

/// Returns a pair of sockets, the second of which programs inherit that are started while it is open.
pub(crate) fn pair() -> (Agent, OwnedFd) {
    let (own, other) = UnixStream::pair().unwrap();
    let other = OwnedFd::from(other);
    fcntl_setfd(&other, FdFlags::empty()).unwrap();
    (Agent(own), other)
}

impl Cluster {
    /// The settings that an agent gives, with more TOML behind them: the project `shop`, DNS not captured.
    pub(crate) fn settings(&self, more: &str) -> String {
        let lanes = match lanes() {
            1 => String::new(),
            lanes => format!("lanes = {lanes}\n"),
        };
        let offload = std::env::var("TENCRYPT_TEST_OFFLOAD")
            .map_or(String::new(), |offload| format!("offload = \"{offload}\"\n"));
        format!(
            "[tenant]\nproject = \"shop\"\n[network]\nprotected = {PROTECTED}\n{lanes}{offload}[dns]\ncapture = false\n{more}"
        )
    }

    /// Starts `tencrypt up --supervised`, and gives it nothing yet.
    pub(crate) fn start_supervised(&self, pod: &Pod) -> (Running, Agent) {
        let (agent, channel) = pair();
        (self.start_on(pod, channel), agent)
    }

    /// The same with this end of a channel.
    pub(crate) fn start_on(&self, pod: &Pod, channel: OwnedFd) -> Running {
        let number = channel.as_raw_fd().to_string();
        let arguments: [OsString; 3] = ["up".into(), "--supervised".into(), number.into()];
        let program =
            Program::start(Path::new("/usr/bin/env"), command(self.variable(), arguments), None).unwrap();
        Running { program, netns: pod.netns().path(), variable: self.variable() }
    }

    /// Starts `tencrypt up --supervised` and gives it everything; returns once it is ready.
    pub(crate) fn supervised(&self, pod: &Pod, more: &str) -> (Running, Agent) {
        let (running, mut agent) = self.start_supervised(pod);
        agent.give(self, pod, more);
        agent.send(COMPLETE, b"");
        agent.wait_for("ready");
        self.expect_silence(pod);
        (running, agent)
    }

    /// The control socket of the pod's program.
    pub(crate) fn control_socket(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.join("run")).unwrap().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "sock"))
            .collect()
    }

    /// Takes the pod's program over as another agent, up to the reply on the control socket.
    pub(crate) fn adopt(&self, pod: &Pod) -> Agent {
        use std::os::unix::fs::MetadataExt as _;
        let namespace = fs::metadata(pod.netns().path()).unwrap();
        let name = format!("{}-{}.sock", namespace.dev(), namespace.ino());
        let mut stream = UnixStream::connect(self.directory.join("run").join(name)).unwrap();
        stream.write_all(b"{\"request\":\"adopt\"}\n").unwrap();
        let expected = b"\"adopting\"\n";
        let mut reply = [0; 11];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, expected);
        Agent(stream)
    }
}

/// Runs the program with a descriptor in place of a channel, to its end.
pub(crate) fn run_with_descriptor(cluster: &Cluster, descriptor: &str) -> Finished {
    cluster.tencrypt(["up".into(), "--supervised".into(), descriptor.into()])
}

/// Time that the program takes for what it is told, in tests that wait for it not to happen.
pub(crate) const MOMENT: Duration = Duration::from_millis(300);
