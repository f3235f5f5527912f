//! Load: made by threads of this program, whose sockets are in the namespaces of the two ends.

pub(crate) mod latency;
pub(crate) mod tcp;
pub(crate) mod udp;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The interval at which a thread that waits looks for its end.
const LOOK: Duration = Duration::from_millis(100);

/// A load that runs until it is finished or dropped.
pub(crate) struct Flow {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Flow {
    /// The amount that the receivers have received: bytes of TCP, datagrams of UDP.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// The amount that the senders' sockets have taken.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// A connection broke.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn start(senders: impl Work, receivers: impl Work) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = vec![spawn(&shared, receivers), spawn(&shared, senders)];
        Self { shared, threads }
    }

    fn end(&mut self) -> io::Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            let ended =
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the load panicked")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // What dropped it without finishing has a failure of its own.
        let _ = self.end();
    }
}

fn spawn(shared: &Arc<Shared>, work: impl Work) -> JoinHandle<io::Result<()>> {
    let shared = Arc::clone(shared);
    thread::spawn(move || work(&shared))
}

trait Work: FnOnce(&Shared) -> io::Result<()> + Send + 'static {}
impl<F: FnOnce(&Shared) -> io::Result<()> + Send + 'static> Work for F {}

/// Tells if an operation is to be tried again after a look around.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
