//! A watch: a stream of lines of JSON for as long as the server likes.

use std::{io, time::Duration};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::{
    connection::Connection,
    error::ClientError,
    lines::{LINE_LIMIT, LineTooLong, Lines},
};

/// Time that is left to a stream whose limit ran out while nobody read it: what has come meanwhile counts.
const GRACE: Duration = Duration::from_secs(1);

/// The longest silence, which the sum of a time and a silence can hold.
const LONGEST_SILENCE: Duration = Duration::from_hours(24);

/// An open stream of lines. Dropping it closes its connection.
#[derive(Debug)]
pub(crate) struct Watch {
    body: Incoming,
    lines: Lines,
    clock: Clock,
    is_over: bool,
    server: String,
    /// After `body`: it ends last.
    _connection: Connection,
}

impl Watch {
    /// Makes the watch of a body that comes by `connection`, and may be silent for as long as `silence`.
    pub(super) fn new(connection: Connection, body: Incoming, silence: Duration, server: &str) -> Self {
        let clock = Clock::new(silence, Instant::now());
        let server = server.to_owned();
        Self { body, lines: Lines::default(), clock, is_over: false, server, _connection: connection }
    }

    /// Waits for the next line, of at most 4 MiB, and returns it without its line feed; `None`: the server has ended the stream
    /// after a whole line. An event of the type `ERROR` is a line like any other. Nothing is lost if this is dropped while it
    /// waits, as by `select!`.
    ///
    /// # Errors
    /// [`ClientError::Timeout`]: nothing came for as long as it may be silent. [`ClientError::Cut`]: the stream ended within a line,
    /// or the connection before it. [`ClientError::TooLong`], [`ClientError::Malformed`]. The stream is over after each: `None`
    /// follows.
    pub(crate) async fn next(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, ClientError> {
        let next = self.read().await;
        if !matches!(next, Ok(Some(_))) {
            self.is_over = true;
            self.lines = Lines::default();
        }
        next
    }

    /// Reads until there is a line.
    async fn read(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, ClientError> {
        let cut = |server: &str, kind| ClientError::Cut { server: server.to_owned(), kind };
        while !self.is_over {
            let line = self.lines.next().map_err(|LineTooLong| ClientError::TooLong {
                server: self.server.clone(),
                part: "a line of the watch",
                limit: LINE_LIMIT,
            })?;
            if line.is_some() {
                return Ok(line);
            }
            let deadline = self.clock.deadline(Instant::now());
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| ClientError::Timeout {
                server: self.server.clone(),
                step: "the next line of the watch",
                after: self.clock.silence,
            })?;
            match frame {
                None if self.lines.is_at_end_of_line() => return Ok(None),
                None => return Err(cut(&self.server, io::ErrorKind::UnexpectedEof)),
                Some(frame) => {
                    let frame = frame.map_err(|error| ClientError::of_http(&error, &self.server))?;
                    self.clock = Clock::new(self.clock.silence, Instant::now());
                    self.lines.push(frame.data_ref().map_or(&[][..], |data| data));
                }
            }
        }
        Ok(None)
    }
}

/// The clock of a silence. It goes on while nobody waits: who waits for short times again and again must notice it too.
#[derive(Debug)]
struct Clock {
    silence: Duration,
    deadline: Instant,
    has_grace: bool,
}

impl Clock {
    /// Starts at `now`, when something came.
    fn new(silence: Duration, now: Instant) -> Self {
        let silence = silence.min(LONGEST_SILENCE);
        Self { silence, deadline: now + silence, has_grace: true }
    }

    /// Returns the time until which a wait that begins `now` may last. The limit may have passed while nobody read: [`GRACE`] is
    /// added then, once.
    fn deadline(&mut self, now: Instant) -> Instant {
        if now >= self.deadline && self.has_grace {
            self.has_grace = false;
            self.deadline = now + GRACE;
        }
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_counts_over_many_short_waits_and_has_one_grace() {
        let start = Instant::now();
        let mut clock = Clock::new(Duration::from_secs(60), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(clock.deadline(at(1)), at(60));
        assert_eq!(clock.deadline(at(59)), at(60));
        assert_eq!(clock.deadline(at(100)), at(101), "nobody read for a while");
        assert_eq!(clock.deadline(at(200)), at(101));
    }
}
