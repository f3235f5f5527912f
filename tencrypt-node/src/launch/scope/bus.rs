//! A connection to a message bus, or to systemd itself, with one limit of time for everything.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{
    marshal::{Call, Writer},
    message::{HEAD, Kind, Malformed, Message, whole},
};

/// The name of the bus itself, and of its interface.
const BUS: &str = "org.freedesktop.DBus";

/// The object of the bus.
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// The most bytes of a line of the authentication. An `OK` has 38.
const MOST_LINE: usize = 512;

/// The most signals that are kept while a reply is waited for: those of one unit, a few of each job.
const MOST_SIGNALS: usize = 256;

/// The pause between two attempts to connect to a socket at which too many wait already.
const PAUSE: Duration = Duration::from_millis(10);

/// The most characters of a text of somebody else that get into an error's line.
const MOST_SAID: usize = 300;

/// The reason why something was not said or heard.
#[derive(Debug, thiserror::Error)]
pub(in crate::launch) enum BusError {
    /// Nobody listens there.
    #[error("{}: {source}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection broke.
    #[error("{}: {source}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The other end is silent.
    #[error("{}: no answer in time: {step}", .path.display())]
    Late {
        /// The socket.
        path: PathBuf,
        /// The word or method that has no answer.
        step: &'static str,
    },
    /// The other end does not take this user.
    #[error("{}: not authenticated: {said}", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The other end's line.
        said: String,
    },
    /// The other end has sent something else than D-Bus.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// The part that makes no sense.
        reason: Malformed,
    },
    /// A method has failed.
    #[error("{member}: {name}: {said}")]
    Method {
        /// The method.
        member: &'static str,
        /// The name of the error.
        name: String,
        /// The text beside it.
        said: String,
    },
}

/// A connection, on which one call is made after the other.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    path: PathBuf,
    until: Instant,
    serial: u32,
    signals: Vec<Message>,
    /// The sender of the last reply: nobody else's signals count.
    sender: Option<String>,
    /// The word or method that is waited for.
    step: &'static str,
}

impl Bus {
    /// Connects to the socket at `path` and authenticates as this process's user. Everything that follows has to be done at `until`.
    ///
    /// # Errors
    /// [`BusError::Connect`], or the other end does not speak D-Bus with this user.
    pub(super) fn open(path: &Path, until: Instant) -> Result<Self, BusError> {
        let stream =
            stream(path, until).map_err(|source| BusError::Connect { path: path.to_owned(), source })?;
        let (path, signals, sender) = (path.to_owned(), Vec::new(), None);
        let mut bus = Self { stream, path, until, serial: 0, signals, sender, step: "AUTH" };
        // "Authentication Protocol": a zero byte, and the user's number in decimal, in hexadecimal digits.
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.write(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let said = bus.line()?;
        if said != "OK" && !said.starts_with("OK ") {
            return Err(BusError::Refused { path: bus.path, said: shortened(&said) });
        }
        bus.write(b"BEGIN\r\n")?;
        Ok(bus)
    }

    /// Says hello, as a bus wants it before anything else, and asks for the signals that match `rule`.
    ///
    /// # Errors
    /// It has no answer, or the bus refuses it.
    pub(super) fn register(&mut self, rule: &str) -> Result<(), BusError> {
        self.call(BUS, BUS_PATH, BUS, "Hello", "", Writer::default())?;
        let mut body = Writer::default();
        body.text(rule);
        self.call(BUS, BUS_PATH, BUS, "AddMatch", "s", body)?;
        Ok(())
    }

    /// Calls a method and waits for its reply. Signals that come before it are kept.
    ///
    /// # Errors
    /// It has no answer, or is an error.
    pub(super) fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &'static str,
        signature: &str,
        body: Writer,
    ) -> Result<Message, BusError> {
        self.step = member;
        self.serial = self.serial.wrapping_add(1).max(1);
        let message = Call { destination, path, interface, member, signature, body }.message(self.serial);
        self.write(&message)?;
        loop {
            let message = self.next()?;
            match message.kind {
                Kind::Return if message.reply_to == Some(self.serial) => {
                    self.sender.clone_from(&message.sender);
                    return Ok(message);
                }
                Kind::Error if message.reply_to == Some(self.serial) => {
                    let said = message.arguments("s").and_then(|mut arguments| arguments.text());
                    let said = shortened(&said.unwrap_or_default());
                    let name = shortened(&message.error.unwrap_or_default());
                    return Err(BusError::Method { member, name, said });
                }
                Kind::Signal if self.signals.len() < MOST_SIGNALS => self.signals.push(message),
                Kind::Signal => return Err(self.malformed(Malformed("too many signals"))),
                // Replies to nothing, and calls of others: these get no answer.
                _ => {}
            }
        }
    }

    /// Waits for a signal of whoever has sent the last reply, that `read` finds something in. Others are forgotten.
    ///
    /// # Errors
    /// None comes in time.
    pub(super) fn signal<T>(&mut self, mut read: impl FnMut(&Message) -> Option<T>) -> Result<T, BusError> {
        // Whoever is on a bus can send a signal to somebody. The bus says who: "Header Fields", SENDER.
        let mut found = |message: &Message, sender: &Option<String>| {
            (message.kind == Kind::Signal && message.sender == *sender).then(|| read(message)).flatten()
        };
        let kept = std::mem::take(&mut self.signals);
        if let Some(found) = kept.iter().find_map(|message| found(message, &self.sender)) {
            return Ok(found);
        }
        loop {
            let message = self.next()?;
            if let Some(found) = found(&message, &self.sender) {
                return Ok(found);
            }
        }
    }

    /// The error of a message that makes no sense.
    pub(super) fn malformed(&self, reason: Malformed) -> BusError {
        BusError::Malformed { path: self.path.clone(), reason }
    }

    /// The next message.
    fn next(&mut self) -> Result<Message, BusError> {
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let length = whole(&head).map_err(|reason| self.malformed(reason))?;
        let mut bytes = head.to_vec();
        bytes.resize(length, 0);
        self.fill(bytes.get_mut(HEAD..).unwrap_or_default())?;
        Message::read(&bytes).map_err(|reason| self.malformed(reason))
    }

    /// The next line of the authentication, without its end.
    fn line(&mut self) -> Result<String, BusError> {
        let mut line = Vec::new();
        // Byte after byte: nothing behind the line may be taken.
        while !line.ends_with(b"\r\n") {
            if line.len() == MOST_LINE {
                return Err(self.malformed(Malformed("a line of the authentication that does not end")));
            }
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Reads until `bytes` is full.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BusError> {
        let mut full = 0;
        while let Some(rest) = bytes.get_mut(full..).filter(|rest| !rest.is_empty()) {
            let left = self.left()?;
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(rest));
            match read {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => full += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// Writes everything.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        let left = self.left()?;
        let written = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write_all(bytes));
        written.map_err(|error| self.broken(error))
    }

    /// The time that is left.
    fn left(&self) -> Result<Duration, BusError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.late()) } else { Ok(left) }
    }

    /// The error of a connection that broke, or on which nothing happens.
    fn broken(&self, source: io::Error) -> BusError {
        match source.kind() {
            // The kernel's answer when a time limit has passed (SO_RCVTIMEO, socket(7)).
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.late(),
            _ => BusError::Broken { path: self.path.clone(), source },
        }
    }

    /// The error of silence.
    fn late(&self) -> BusError {
        BusError::Late { path: self.path.clone(), step: self.step }
    }
}

/// A socket that is connected to the one at `path`. While too many wait there it is tried again.
fn stream(path: &Path, until: Instant) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    // Without NONBLOCK it would wait for its turn without a limit (unix_stream_connect, net/unix/af_unix.c).
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Err(rustix::io::Errno::AGAIN) if Instant::now() < until => thread::sleep(PAUSE),
            connected => break connected?,
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The beginning of a text of somebody else.
fn shortened(text: &str) -> String {
    text.chars().take(MOST_SAID).collect()
}
