//! The agent's end of the channel to a pod's program: orders out, what the program says in.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tencrypt_agent::node::{HEADER_LEN, Order, OrderError, said::Said};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// The kind of a program's frames.
const SAID: u8 = 128;

/// Longest message of a program in bytes. A status, without peers, has some 4,000.
const LONGEST: usize = 1 << 20;

/// Time that a program may take for an order. It reads at all times; one that was stopped does not.
const PATIENCE: Duration = Duration::from_secs(5);

/// The request that takes a running program over, and its answer.
const ADOPT: &[u8] = b"{\"request\":\"adopt\"}\n";
const ADOPTING: &[u8] = b"\"adopting\"\n";
/// Longest answer in bytes: a refusal with its reason.
const LONGEST_ANSWER: usize = 4 << 10;

/// The channel to a program.
#[derive(Debug)]
pub(crate) struct Channel {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// Of a message that has come in part.
    partial: Vec<u8>,
}

/// The reason why a channel is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The kernel's answer.
    #[error("the program's channel: {0}")]
    Io(#[from] io::Error),
    /// The program does not take what it is told.
    #[error("the program reads nothing for {} s", PATIENCE.as_secs())]
    Deaf,
    /// The program says something that makes no sense.
    #[error("the program says what makes no sense: {0}")]
    Garbled(String),
    /// It is no program of an agent.
    #[error("the program refuses: {0}")]
    Refused(String),
    /// Something is too long for a message.
    #[error(transparent)]
    Order(#[from] OrderError),
}

impl Channel {
    /// Makes a channel, and the end of it that the program is given.
    ///
    /// # Errors
    /// The kernel gives no sockets.
    pub(crate) fn pair() -> Result<(Self, StdStream), ChannelError> {
        let (own, other) = StdStream::pair()?;
        own.set_nonblocking(true)?;
        Ok((Self::new(UnixStream::from_std(own)?), other))
    }

    /// Takes over the program that listens at the control socket `path`.
    ///
    /// # Errors
    /// Nobody listens there, it is another user's, or it refuses.
    pub(crate) async fn adopt(path: &Path) -> Result<Self, ChannelError> {
        timeout(PATIENCE, Self::ask_to_adopt(path)).await.map_err(|_| ChannelError::Deaf)?
    }

    async fn ask_to_adopt(path: &Path) -> Result<Self, ChannelError> {
        let mut stream = UnixStream::connect(path).await?;
        let own = rustix::process::geteuid().as_raw();
        let user = stream.peer_cred()?.uid();
        if user != 0 && user != own {
            return Err(ChannelError::Refused(format!("it is of user {user}")));
        }
        stream.write_all(ADOPT).await?;
        let mut answer = Vec::new();
        // A byte at a time: behind the line there may be frames.
        while answer.last() != Some(&b'\n') && answer.len() < LONGEST_ANSWER {
            answer.push(stream.read_u8().await?);
        }
        if answer == ADOPTING {
            return Ok(Self::new(stream));
        }
        let text = String::from_utf8_lossy(&answer);
        Err(ChannelError::Refused(text.trim().to_owned()))
    }

    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer, partial: Vec::new() }
    }

    /// Sends an order.
    ///
    /// # Errors
    /// The program has gone, or does not read.
    pub(crate) async fn send(&mut self, order: &Order) -> Result<(), ChannelError> {
        let [header, payload] = order.parts();
        let sent = timeout(PATIENCE, async {
            self.writer.write_all(header).await?;
            self.writer.write_all(payload).await
        });
        Ok(sent.await.map_err(|_| ChannelError::Deaf)??)
    }

    /// Sends an order with a descriptor beside its first byte.
    ///
    /// # Errors
    /// The program has gone, or does not read.
    pub(crate) async fn send_with(
        &mut self,
        order: &Order,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), ChannelError> {
        let [header, payload] = order.parts();
        let first = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            let descriptors = [descriptor];
            if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("there is no room for a descriptor"));
            }
            let stream: &UnixStream = self.writer.as_ref();
            Ok(sendmsg(stream.as_fd(), &[IoSlice::new(header)], &mut beside, SendFlags::NOSIGNAL)?)
        };
        let stream: &UnixStream = self.writer.as_ref();
        let sent = timeout(PATIENCE, stream.async_io(Interest::WRITABLE, first));
        let sent = sent.await.map_err(|_| ChannelError::Deaf)??;
        let rest = timeout(PATIENCE, async {
            self.writer.write_all(header.get(sent..).unwrap_or_default()).await?;
            self.writer.write_all(payload).await
        });
        Ok(rest.await.map_err(|_| ChannelError::Deaf)??)
    }

    /// Waits for what the program says next; `None`: it has closed the channel. May be cancelled.
    ///
    /// # Errors
    /// The program says something that makes no sense.
    pub(crate) async fn next(&mut self) -> Result<Option<Said>, ChannelError> {
        loop {
            let wanted = match self.partial.first_chunk::<HEADER_LEN>() {
                Some(header) => HEADER_LEN + length(*header)?,
                None => HEADER_LEN,
            };
            if self.partial.len() == wanted && wanted > HEADER_LEN {
                let read = serde_json::from_slice(self.partial.get(HEADER_LEN..).unwrap_or_default());
                self.partial.clear();
                return read.map(Some).map_err(|error| ChannelError::Garbled(error.to_string()));
            }
            let left = wanted - self.partial.len();
            let read = (&mut self.reader).take(left as u64).read_buf(&mut self.partial).await;
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The length of the payload behind a header.
fn length([a, b, c, d, kind]: [u8; HEADER_LEN]) -> Result<usize, ChannelError> {
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    match kind {
        SAID if (1..=LONGEST).contains(&length) => Ok(length),
        SAID => Err(ChannelError::Garbled(format!("a message of {length} bytes"))),
        _ => Err(ChannelError::Garbled(format!("a message of kind {kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
        frame.push(kind);
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test]
    async fn what_comes_in_pieces_and_is_waited_for_in_vain_meanwhile_is_read_whole() {
        let (mut channel, mut program) = Channel::pair().unwrap();
        let bytes = framed(SAID, br#"{"ready":{"public_key":"00"}}"#);
        for byte in &bytes[..bytes.len() - 1] {
            program.write_all(&[*byte]).unwrap();
            let cancelled = timeout(Duration::from_millis(1), channel.next()).await;
            assert!(cancelled.is_err());
        }
        program.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert!(matches!(channel.next().await, Ok(Some(Said::Ready { public_key })) if public_key == "00"));
        drop(program);
        assert!(matches!(channel.next().await, Ok(None)));
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_an_error_and_takes_no_memory() {
        for (bytes, reason) in [
            (framed(7, b"{}"), "of kind 7"),
            (framed(SAID, b""), "of 0 bytes"),
            (vec![0xff, 0xff, 0xff, 0xff, SAID], "of 4294967295 bytes"),
            (framed(SAID, b"{}"), "expected value"),
            (framed(SAID, b"\xff\xfe"), "expected value"),
            (framed(SAID, br#"{"unheard":1}"#), "unknown variant"),
        ] {
            let (mut channel, mut program) = Channel::pair().unwrap();
            program.write_all(&bytes).unwrap();
            let error = channel.next().await.expect_err(reason).to_string();
            assert!(error.contains(reason) || reason == "expected value", "{error}");
            assert!(channel.partial.capacity() < 4096, "{reason}");
        }
    }

    #[tokio::test]
    async fn a_program_that_does_not_read_is_not_waited_for() {
        tokio::time::pause();
        let (mut channel, program) = Channel::pair().unwrap();
        let order = Order::new(tencrypt_agent::node::Kind::Facts, &vec![b' '; 1 << 20]).unwrap();
        assert!(matches!(channel.send(&order).await, Err(ChannelError::Deaf)));
        drop(program);
        assert!(matches!(channel.send(&order).await, Err(ChannelError::Io(_))));
    }

    #[tokio::test]
    async fn an_order_goes_over_with_its_descriptor() {
        let (mut channel, mut program) = Channel::pair().unwrap();
        let order = Order::complete().unwrap();
        let file = std::fs::File::open("/proc/self/ns/net").unwrap();
        channel.send_with(&order, file.as_fd()).await.unwrap();
        let mut bytes = [0; HEADER_LEN];
        program.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, 0, 10]);
    }

    #[tokio::test]
    async fn only_a_program_that_says_so_is_adopted() {
        let path = std::env::temp_dir().join(format!("tencrypt-node-{}-adopt.sock", std::process::id()));
        for (answer, is_taken) in [
            (&b"\"adopting\"\n"[..], true),
            (b"{\"refused\":\"it reads files\"}\n", false),
            (b"\"adopting\"", false),
            (b"", false),
        ] {
            let _ = std::fs::remove_file(&path);
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let answer = answer.to_vec();
            let program = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; ADOPT.len()];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(request, ADOPT);
                stream.write_all(&answer).unwrap();
            });
            assert_eq!(Channel::adopt(&path).await.is_ok(), is_taken);
            program.join().unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Channel::adopt(&path).await, Err(ChannelError::Io(_))));
    }
}
