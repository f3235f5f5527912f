//! A TCP server inside a pod: one thread accepts, one thread a connection serves.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{During, Result};
use crate::netns::NetNs;

/// No read or write of a server waits longer.
const STALL: Duration = Duration::from_secs(30);

/// Serves until dropped; connections being served then go on to their end.
pub(crate) struct Listener {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on `port` of all addresses of a namespace, both families.
    pub(crate) fn start<F>(netns: &NetNs, port: u16, serve: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    {
        let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = netns.run(|| TcpListener::bind(everywhere)).during("listen on a TCP port")?;
        listener.set_nonblocking(true).during("listen on a TCP port")?;
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (stop, accepted, serve) = (Arc::clone(&stop), Arc::clone(&accepted), Arc::new(serve));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok((stream, _)) = listener.accept() else {
                        thread::sleep(Duration::from_millis(2));
                        continue;
                    };
                    accepted.fetch_add(1, Ordering::Relaxed);
                    let serve = Arc::clone(&serve);
                    // What goes wrong on a connection, its client sees and reports.
                    thread::spawn(move || prepare(&stream).and_then(|()| serve(stream)).ok());
                }
            }
        });
        Ok(Self { stop, accepted, thread: Some(thread) })
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to return, and its panic would have been printed.
            let _ = thread.join();
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))
}
