//! Requests and replies of 16 bytes over UDP, sent by the clock and not by the replies before: what waits long in a
//! queue is not asked less often for it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{LOOK, is_passing};
use crate::network::Network;

/// Time between two requests.
pub(crate) const INTERVAL: Duration = Duration::from_millis(2);
/// Time for the last replies to come.
const GRACE: Duration = Duration::from_millis(500);

/// Times there and back.
pub(crate) struct Latency {
    /// Of every request that was answered, microseconds, sorted.
    pub(crate) micros: Vec<f64>,
    /// Requests.
    pub(crate) sent: u64,
}

impl Latency {
    /// Requests that were not answered, percent.
    pub(crate) fn lost(&self) -> f64 {
        let answered = self.micros.len() as f64;
        100.0 * (1.0 - answered / (self.sent as f64).max(1.0)).max(0.0)
    }
}

/// Waits until `target`, the server's address, answers: until the tunnel's handshake is done.
///
/// # Errors
///
/// No socket, or no answer within `limit`.
pub(crate) fn wait_for_answer(network: &Network, target: IpAddr, limit: Duration) -> io::Result<()> {
    let echo = Echo::new(network, target)?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if !echo.exchange(LOOK, LOOK / 4, LOOK)?.micros.is_empty() {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("{target} does not answer")))
}

/// Sends a request every [`INTERVAL`] for `duration`.
///
/// # Errors
///
/// No socket, or one that broke.
pub(crate) fn measure(network: &Network, target: IpAddr, duration: Duration) -> io::Result<Latency> {
    Echo::new(network, target)?.exchange(duration, INTERVAL, GRACE)
}

struct Echo {
    client: UdpSocket,
    server: UdpSocket,
}

impl Echo {
    fn new(network: &Network, target: IpAddr) -> io::Result<Self> {
        let any = (Ipv4Addr::UNSPECIFIED, 0);
        let [client, server] = network.ends();
        let server = server.run(|| UdpSocket::bind(any))?;
        let to = SocketAddr::new(target, server.local_addr()?.port());
        let client = client.run(|| -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(LOOK))?;
            socket.set_write_timeout(Some(LOOK))?;
        }
        Ok(Self { client, server })
    }

    /// Requests for `duration`, then replies for `grace` more, less if all have come.
    fn exchange(&self, duration: Duration, interval: Duration, grace: Duration) -> io::Result<Latency> {
        let stop = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        let start = Instant::now();
        thread::scope(|scope| {
            let server = scope.spawn(|| self.answer(&stop));
            let requests = scope.spawn(|| self.ask(start, duration, interval, &sent));
            let replies = self.gather(start, &requests, grace, &sent);
            stop.store(true, Ordering::Relaxed);
            let panicked = |_| Err(io::Error::other("a thread of the measurement panicked"));
            requests.join().unwrap_or_else(panicked)?;
            server.join().unwrap_or_else(panicked)?;
            let mut micros = replies?;
            micros.sort_by(f64::total_cmp);
            Ok(Latency { micros, sent: sent.load(Ordering::Relaxed) })
        })
    }

    fn answer(&self, stop: &AtomicBool) -> io::Result<()> {
        let mut request = [0; 16];
        while !stop.load(Ordering::Relaxed) {
            match self.server.recv_from(&mut request) {
                Ok((length, from)) => passing(self.server.send_to(&request[..length], from))?,
                Err(error) => passing(Err(error))?,
            }
        }
        Ok(())
    }

    /// A request is its number and when it was sent, nanoseconds since `start`.
    fn ask(
        &self,
        start: Instant,
        duration: Duration,
        interval: Duration,
        sent: &AtomicU64,
    ) -> io::Result<()> {
        let mut due = Duration::ZERO;
        loop {
            thread::sleep(due.saturating_sub(start.elapsed()));
            let now = start.elapsed();
            if now >= duration {
                return Ok(());
            }
            let number = sent.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 16];
            request[..8].copy_from_slice(&number.to_le_bytes());
            request[8..].copy_from_slice(&(now.as_nanos() as u64).to_le_bytes());
            passing(self.client.send(&request))?;
            // A slot that was missed is left out: two at once would measure each other.
            while due <= start.elapsed() {
                due += interval;
            }
        }
    }

    fn gather(
        &self,
        start: Instant,
        requests: &thread::ScopedJoinHandle<'_, io::Result<()>>,
        grace: Duration,
        sent: &AtomicU64,
    ) -> io::Result<Vec<f64>> {
        let mut micros = Vec::new();
        let mut last_sent = None;
        let mut reply = [0; 16];
        loop {
            if requests.is_finished() {
                let since = last_sent.get_or_insert_with(Instant::now).elapsed();
                if micros.len() as u64 >= sent.load(Ordering::Relaxed) || since >= grace {
                    return Ok(micros);
                }
            }
            match self.client.recv(&mut reply) {
                Ok(16) => {
                    let then =
                        Duration::from_nanos(u64::from_le_bytes(reply[8..].try_into().unwrap_or_default()));
                    micros.push(start.elapsed().saturating_sub(then).as_nanos() as f64 / 1e3);
                }
                Ok(_) => return Err(io::Error::other("a reply of another length")),
                Err(error) => passing(Err(error))?,
            }
        }
    }
}

/// Nothing is wrong with a socket because a queue is full or nobody listens yet.
fn passing(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) if !is_passing(&error) && !is_refusal(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_refusal(error: &io::Error) -> bool {
    let passing = [libc::ENOBUFS, libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPERM];
    error.raw_os_error().is_some_and(|code| passing.contains(&code))
}
