//! A client's connection.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::{Instant, sleep_until, timeout},
};

use super::{IDLE, input::ClientInput};
use crate::{
    framing::{Framing, frame},
    interceptor::ClientKey,
};

/// Bytes of answers that wait for one connection; one answer always may. A client that does not read loses it.
const MAX_QUEUED: usize = 256 * 1024;

/// Something to write to a connection.
#[derive(Debug)]
pub(super) enum Output {
    /// The end of an answer.
    Last(Arc<[u8]>),
    /// A part of an answer.
    Part(Arc<[u8]>),
    /// No more of an answer: the stream ends, as the server's has, once other answers are written.
    End,
}

/// Bytes that wait to be written to a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue(Arc<(AtomicUsize, Notify)>);

impl Queue {
    /// Takes bytes in; returns false if they are too many.
    pub(super) fn push(&self, bytes: usize) -> bool {
        let queued = self.0.0.fetch_add(bytes, Ordering::Relaxed);
        queued == 0 || queued + bytes <= MAX_QUEUED
    }

    fn pop(&self, bytes: usize) {
        self.0.0.fetch_sub(bytes, Ordering::Relaxed);
        self.0.1.notify_waiters();
    }

    /// Waits until there is room for a message of any length. Cancel safe.
    pub(super) async fn room(&self) {
        loop {
            // Registered before the look, so that what is written in between is not missed.
            let written = self.0.1.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.0.0.load(Ordering::Relaxed) <= MAX_QUEUED / 2 {
                return;
            }
            written.await;
        }
    }
}

/// One connection, on its own task.
pub(super) struct Served {
    pub(super) client: ClientKey,
    pub(super) peer: SocketAddr,
    pub(super) queue: Queue,
    pub(super) max_query: usize,
}

impl Served {
    /// Passes on queries and writes answers, in whatever order they come (RFC 7766 section 6.2.1.1), until the client
    /// is done, idle, or sends what is no message.
    pub(super) async fn serve(
        &self,
        mut stream: TcpStream,
        mut outputs: mpsc::UnboundedReceiver<Output>,
        sender: &mpsc::Sender<ClientInput>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.split();
        let mut framing = Framing::new(self.max_query);
        let mut part = [0; 4096];
        let (mut unanswered, mut at_end) = (0_usize, false);
        let mut idle_at = Instant::now() + IDLE;
        while !at_end || unanswered > 0 {
            tokio::select! {
                length = reader.read(&mut part), if !at_end => {
                    let length = length?;
                    at_end = length == 0;
                    framing.push(&part[..length]);
                    while let Some(bytes) = framing.next_message().map_err(|_| io::ErrorKind::InvalidData)? {
                        let message = ClientInput::Message { client: self.client, peer: self.peer, bytes };
                        sender.send(message).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                        unanswered += 1;
                        idle_at = Instant::now() + IDLE;
                    }
                }
                output = outputs.recv() => {
                    let Some(output) = output else { return Ok(()) };
                    let (bytes, is_last) = match &output {
                        Output::Last(bytes) => (Some(bytes), true),
                        Output::Part(bytes) => (Some(bytes), false),
                        Output::End => (None, true),
                    };
                    if let Some(bytes) = bytes {
                        let framed = frame(bytes).ok_or(io::ErrorKind::InvalidData)?;
                        timeout(IDLE, writer.write_all(&framed)).await??;
                        self.queue.pop(bytes.len());
                    }
                    at_end |= matches!(output, Output::End);
                    unanswered -= usize::from(is_last && unanswered > 0);
                    idle_at = Instant::now() + IDLE;
                }
                () = sleep_until(idle_at) => return Ok(()),
            }
        }
        Ok(())
    }
}
