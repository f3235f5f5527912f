//! The client of the agent's socket, for the commands that show something.

use std::{
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use tencrypt_agent::{
    escape::Escaped,
    failure::{Exit, Failure},
};
use tencrypt_cni::call::is_permitted;

/// The time of a whole question.
const LIMIT: Duration = Duration::from_secs(5);

/// Most bytes of an answer, its head included.
const ANSWER_LIMIT: usize = 64 << 20;

/// Most bytes of the head of an answer.
const HEAD_LIMIT: usize = 8 << 10;

/// Most fields of that head.
const FIELDS: usize = 32;

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// Most characters of the agent's own words in an error.
const WORDS: usize = 400;

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens.
    #[error("no agent runs at {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The right to ask is missing.
    #[error("{}: not permitted: ask as root, or as the agent's user", socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
    },
    /// The listener is neither root nor the own user.
    #[error("{}: the listener is another user's", socket.display())]
    Stranger {
        /// The socket.
        socket: PathBuf,
    },
    /// The answer is not there in time.
    #[error("the agent sent no answer within 5 s")]
    Timeout,
    /// The answer is longer than it may be.
    #[error("the agent's answer is longer than 64 MiB")]
    TooLong,
    /// The bytes that came are no answer, or a part of one.
    #[error("the agent's answer makes no sense: {reason}")]
    Garbled {
        /// The fault.
        reason: &'static str,
    },
    /// The agent answered that it has none.
    #[error("the agent answered {code}: {}", Escaped(text))]
    Refused {
        /// The HTTP status.
        code: u16,
        /// Its words.
        text: String,
    },
    /// The connection failed.
    #[error("{}: {source}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error {
            ClientError::NotRunning { .. } => Exit::NotRunning,
            ClientError::NotPermitted { .. } => Exit::NotPermitted,
            _ => Exit::Runtime,
        };
        Self::new(exit, error)
    }
}

/// Gets the page `path` of the agent that listens at `socket`: all of it within 5 seconds.
///
/// # Errors
/// See [`ClientError`]: each is one line.
pub(crate) fn get(socket: &Path, path: &str) -> Result<String, ClientError> {
    get_within(socket, path, LIMIT)
}

fn get_within(socket: &Path, path: &str, limit: Duration) -> Result<String, ClientError> {
    let deadline = Instant::now() + limit;
    let explained = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { socket: socket.to_owned() }
        }
        io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket: socket.to_owned() },
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Timeout,
        _ => ClientError::Io { socket: socket.to_owned(), source },
    };
    let mut stream = connected(socket, deadline).map_err(explained)?;
    if !is_permitted(&stream).map_err(explained)? {
        return Err(ClientError::Stranger { socket: socket.to_owned() });
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    match send(&mut stream, request.as_bytes(), deadline) {
        // The other end may have answered and gone already.
        Err(error) if is_gone(&error) => {}
        sent => sent.map_err(explained)?,
    }
    let answer = receive(&mut stream, deadline).map_err(explained)?.ok_or(ClientError::TooLong)?;
    match parse(&answer)? {
        (200, body) => Ok(body),
        (403, _) => Err(ClientError::NotPermitted { socket: socket.to_owned() }),
        (code, text) => {
            Err(ClientError::Refused { code, text: text.trim_end().chars().take(WORDS).collect() })
        }
    }
}

/// Connects. The time of a socket for sending counts here too: where the other end accepts nobody, it is over with EAGAIN
/// (`unix_stream_connect`, net/unix/af_unix.c).
fn connected(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(socket.as_fd(), Timeout::Send, Some(left(deadline)?))?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match connect(socket.as_fd(), &address).map_err(io::Error::from) {
            Ok(()) => return Ok(UnixStream::from(socket)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the time that is left: never none, which sockets take for no limit.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
}

fn send(stream: &mut UnixStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(bytes)
}

/// Receives all that comes until the other end closes; `None`: it is too much.
fn receive(stream: &mut UnixStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut answer = Vec::new();
    let mut piece = vec![0; PIECE];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(Some(answer)),
            Ok(read) if answer.len() + read > ANSWER_LIMIT => return Ok(None),
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // It closed without reading all: what it has sent is all there.
            Err(error) if is_gone(&error) => return Ok(Some(answer)),
            Err(error) => return Err(error),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Parses an answer into its status and its body, which has to be as long as it says.
fn parse(answer: &[u8]) -> Result<(u16, String), ClientError> {
    let garbled = |reason| ClientError::Garbled { reason };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(&answer[..answer.len().min(HEAD_LIMIT)]) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err(garbled("it is cut off")),
        Err(_) => return Err(garbled("it is no HTTP")),
    };
    let code = response.code.ok_or(garbled("it has no status"))?;
    let mut lengths =
        response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("content-length"));
    let (Some(length), None) = (lengths.next(), lengths.next()) else {
        return Err(garbled("it does not say how long it is"));
    };
    let length = str::from_utf8(length.value).ok().and_then(|length| length.parse::<usize>().ok());
    let body = &answer[head..];
    match length {
        Some(length) if length == body.len() => {}
        Some(length) if length > body.len() => return Err(garbled("it is cut off")),
        _ => return Err(garbled("it is not as long as it says")),
    }
    let body = str::from_utf8(body).map_err(|_| garbled("it is no text"))?;
    Ok((code, body.to_owned()))
}

#[cfg(test)]
mod tests;
