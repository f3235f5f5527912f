//! TCP transfers with a digest at both ends, and throughput.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::error::{During, Error, Result, is_timeout};
use crate::listener::Listener;
use crate::netns::NetNs;
use crate::topology::Pod;

const CHUNK: usize = 128 << 10;
/// A connection that is not made in this time counts as refused.
const CONNECT: Duration = Duration::from_secs(10);

/// The end that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two")]
pub enum Direction {
    /// The one that opened the connection.
    Upload,
    /// The server.
    Download,
}

/// Answers [`transfer`] and [`throughput`] until dropped.
pub struct TcpServer {
    listener: Listener,
}

impl TcpServer {
    /// Listens on all addresses of a pod.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16) -> Result<Self> {
        Ok(Self { listener: Listener::start(pod.netns(), port, serve)? })
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.listener.accepted()
    }
}

/// A finished transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Time from the first byte to the receiver's answer.
    pub elapsed: Duration,
    /// SHA-256 of what was sent, by the sender.
    pub sent: [u8; 32],
    /// SHA-256 of what arrived, by the receiver.
    pub received: [u8; 32],
}

impl Transfer {
    /// Tells if the bytes that arrived are those that were sent.
    pub fn is_intact(&self) -> bool {
        self.sent == self.received
    }

    /// Mbit of content a second.
    pub fn mbit_per_s(&self) -> f64 {
        rate(self.bytes, self.elapsed)
    }
}

/// Moves `bytes` of pseudo-random content that `seed` determines over one connection to a [`TcpServer`].
///
/// # Errors
/// No connection, one that broke, or [`Error::Timeout`] after `limit`.
pub fn transfer(
    from: &NetNs,
    to: SocketAddr,
    direction: Direction,
    bytes: u64,
    seed: u64,
    limit: Duration,
) -> Result<Transfer> {
    let mut stream = connect(from, to)?;
    let end = Instant::now() + limit;
    let start = Instant::now();
    let mut moved = || -> io::Result<([u8; 32], [u8; 32])> {
        let order = if direction == Direction::Upload { UPLOAD } else { DOWNLOAD };
        stream.write_all(&header(order, bytes, seed))?;
        let mine = match direction {
            Direction::Upload => send_content(&mut stream, bytes, seed, Some(end))?,
            Direction::Download => receive_content(&mut stream, bytes, Some(end))?,
        };
        before(end)?;
        let theirs = read_array(&mut stream)?;
        Ok(if direction == Direction::Upload { (mine, theirs) } else { (theirs, mine) })
    };
    let (sent, received) = within(moved(), limit, "a TCP transfer")?;
    Ok(Transfer { bytes, elapsed: start.elapsed(), sent, received })
}

/// Bytes that one connection carried, and their time.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Throughput {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Time from the first byte to the last, at the receiver.
    pub elapsed: Duration,
}

impl Throughput {
    /// Mbit of content a second.
    pub fn mbit_per_s(&self) -> f64 {
        rate(self.bytes, self.elapsed)
    }
}

/// Sends for `duration` over one connection to a [`TcpServer`], as fast as it goes; the receiver counts.
///
/// # Errors
/// No connection, or one that broke or stalled.
pub fn throughput(from: &NetNs, to: SocketAddr, duration: Duration) -> Result<Throughput> {
    let mut stream = connect(from, to)?;
    let limit = duration + CONNECT;
    let mut measured = || -> io::Result<(u64, u64)> {
        stream.set_write_timeout(Some(CONNECT))?;
        stream.set_read_timeout(Some(CONNECT))?;
        stream.write_all(&header(FLOOD, 0, 0))?;
        let chunk = vec![0x5a; CHUNK];
        let end = Instant::now() + duration;
        while Instant::now() < end {
            stream.write_all(&chunk)?;
        }
        stream.shutdown(Shutdown::Write)?;
        Ok((u64::from_le_bytes(read_array(&mut stream)?), u64::from_le_bytes(read_array(&mut stream)?)))
    };
    let (bytes, nanoseconds) = within(measured(), limit, "a throughput measurement")?;
    Ok(Throughput { bytes, elapsed: Duration::from_nanos(nanoseconds) })
}

/// Opens a connection from a namespace; bounded in time.
pub(crate) fn connect(from: &NetNs, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, CONNECT)).during("connect over TCP")?;
    stream.set_nodelay(true).during("connect over TCP")?;
    Ok(stream)
}

const UPLOAD: u8 = 1;
const DOWNLOAD: u8 = 2;
const FLOOD: u8 = 3;

/// Order, number of bytes, seed.
fn header(order: u8, bytes: u64, seed: u64) -> [u8; 17] {
    let mut header = [order; 17];
    header[1..9].copy_from_slice(&bytes.to_le_bytes());
    header[9..].copy_from_slice(&seed.to_le_bytes());
    header
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let [order] = read_array(&mut stream)?;
    let bytes = u64::from_le_bytes(read_array(&mut stream)?);
    let seed = u64::from_le_bytes(read_array(&mut stream)?);
    match order {
        UPLOAD => {
            let digest = receive_content(&mut stream, bytes, None)?;
            stream.write_all(&digest)
        }
        DOWNLOAD => {
            let digest = send_content(&mut stream, bytes, seed, None)?;
            stream.write_all(&digest)
        }
        FLOOD => {
            let (bytes, elapsed) = swallow(&mut stream)?;
            stream.write_all(&bytes.to_le_bytes())?;
            stream.write_all(&(elapsed.as_nanos() as u64).to_le_bytes())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn swallow(stream: &mut TcpStream) -> io::Result<(u64, Duration)> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    let mut start = None;
    loop {
        let length = stream.read(&mut chunk)?;
        let first = *start.get_or_insert_with(Instant::now);
        if length == 0 {
            return Ok((total, first.elapsed()));
        }
        total += length as u64;
    }
}

fn send_content(stream: &mut TcpStream, bytes: u64, seed: u64, end: Option<Instant>) -> io::Result<[u8; 32]> {
    let mut content = Content(seed);
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        set_limits(stream, end)?;
        let part = &mut chunk[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        content.fill(part);
        digest.update(&*part);
        stream.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(digest.finalize().into())
}

fn receive_content(stream: &mut TcpStream, bytes: u64, end: Option<Instant>) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        set_limits(stream, end)?;
        let room = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        let length = stream.read(&mut chunk[..room])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.update(&chunk[..length]);
        left -= length as u64;
    }
    set_limits(stream, end)?;
    Ok(digest.finalize().into())
}

fn set_limits(stream: &TcpStream, end: Option<Instant>) -> io::Result<()> {
    let Some(end) = end else { return Ok(()) };
    let left = before(end)?;
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))
}

fn before(end: Instant) -> io::Result<Duration> {
    end.checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or(io::ErrorKind::TimedOut.into())
}

fn within<T>(result: io::Result<T>, limit: Duration, what: &'static str) -> Result<T> {
    match result {
        Err(error) if is_timeout(&error) => Err(Error::Timeout { what, limit }),
        other => other.during(what),
    }
}

fn read_array<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 * 8e-6 / elapsed.as_secs_f64().max(1e-9)
}

/// SplitMix64 (Steele, Lea, Flood 2014): every seed gives different content, no part of it repeats.
struct Content(u64);

impl Content {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..word.len()]);
        }
    }
}
