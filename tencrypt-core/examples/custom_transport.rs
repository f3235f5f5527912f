//! Records over something that is not UDP: a stream, each record behind its length. Two threads, one socket pair.
//!
//! `cargo run -p tencrypt --example custom_transport`
//!
//! A transport implements `DatagramSink` over its send buffer and calls `handle_datagrams` with what it receives. The
//! addresses in a `Train` are then names of peers, not places on a network.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "the core takes its time from its caller, who has a clock")]

mod common;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use common::{Failure, Inbox, demonstration_keys, pod, text, udp};
use tencrypt::{
    DEFAULT_PORT, DatagramSink, Outbound, Output, RecvMeta, Train, TrainSlot, TunPacket, Tunnel,
    offload::VnetHdr,
};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Longest wait for a datagram: a real loop would wait for the device at the same time.
const TICK: Duration = Duration::from_millis(20);
/// Time for everything here to have happened.
const LIMIT: Duration = Duration::from_secs(10);

/// Records in a byte stream: two bytes of length, big endian, and the record.
struct Framed {
    stream: UnixStream,
    pending: Vec<u8>,
    received: Vec<u8>,
}

struct Frame<'s> {
    transport: &'s mut Framed,
    at: usize,
}

impl DatagramSink for Framed {
    type Slot<'s> = Frame<'s>;

    /// Room for one record at the end of the buffer, its length in front.
    fn reserve(&mut self, want: Train) -> Option<Frame<'_>> {
        let len = if want.count == 1 { want.last } else { want.stride };
        let at = self.pending.len();
        self.pending.extend(len.to_be_bytes());
        self.pending.resize(at + 2 + usize::from(len), 0);
        Some(Frame { transport: self, at })
    }
}

impl TrainSlot for Frame<'_> {
    fn records(&self) -> u16 {
        1
    }

    fn buffer(&mut self) -> &mut [u8] {
        &mut self.transport.pending[self.at + 2..]
    }

    fn commit(mut self, _records: u16, len: usize) {
        let end = self.at + 2 + len;
        self.transport.pending.truncate(end);
        self.at = end;
    }
}

impl Drop for Frame<'_> {
    /// Whatever was not committed is rolled back.
    fn drop(&mut self) {
        let at = self.at;
        self.transport.pending.truncate(at);
    }
}

impl Framed {
    fn new(stream: UnixStream) -> Self {
        Self { stream, pending: Vec::new(), received: Vec::new() }
    }

    /// The next whole record, if there is one.
    fn next_record(&mut self) -> Option<Vec<u8>> {
        let &[high, low] = self.received.first_chunk()?;
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        let record = self.received.get(2..end)?.to_vec();
        self.received.drain(..end);
        Some(record)
    }

    /// Waits for bytes, no longer than `wait`.
    fn fill(&mut self, wait: Duration) -> io::Result<()> {
        // A timeout of zero would mean to wait for ever.
        self.stream.set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
        let mut buffer = [0; 4_096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.received.extend(&buffer[..read]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// A tunnel over a stream to its one peer.
struct Pod {
    tunnel: Tunnel,
    transport: Framed,
    peer: Ipv4Addr,
}

impl Pod {
    fn send(&mut self, packet: &mut [u8]) -> Result<(), Failure> {
        let mut packet = TunPacket::new(VnetHdr::default(), packet);
        match self.tunnel.handle_packet(&mut packet, Instant::now(), &mut self.transport) {
            Outbound::Sent { .. } | Outbound::Held => self.drain(),
            other => Err(format!("nothing here becomes {other:?}").into()),
        }
    }

    /// Waits for packets until there is one.
    fn receive(&mut self) -> Result<Vec<u8>, Failure> {
        let end = Instant::now() + LIMIT;
        let mut inbox = Inbox::default();
        while inbox.0.is_empty() && Instant::now() < end {
            let due = self.tunnel.next_timeout();
            let wait = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
            self.transport.fill(wait)?;
            while let Some(mut record) = self.transport.next_record() {
                let from = SocketAddr::new(self.peer.into(), DEFAULT_PORT);
                let meta = RecvMeta { from, stride: record.len() as u16, ecn: 0 };
                self.tunnel.handle_datagrams(&meta, &mut record, Instant::now(), &mut inbox);
                // What a handshake message made due comes before the next record.
                self.drain()?;
            }
            self.drain()?;
        }
        inbox.0.pop().ok_or_else(|| "nothing arrived".into())
    }

    /// Takes everything the tunnel has to say after an input, in the order of the contract, and does what is due.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 65_535];
        loop {
            let now = Instant::now();
            match self.tunnel.poll_output(&mut buffer, now) {
                Output::Transmit(transmit) => {
                    self.transport.pending.extend((transmit.len as u16).to_be_bytes());
                    self.transport.pending.extend(&buffer[..transmit.len]);
                }
                Output::Event(event) => println!("with {}: {event:?}", self.peer),
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Timeout(due) if due.is_some_and(|due| due <= now) => self.tunnel.handle_timeout(now),
                Output::Timeout(_) => break,
            }
        }
        self.transport.stream.write_all(&self.transport.pending)?;
        self.transport.pending.clear();
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let keys = demonstration_keys()?;
    let (ours, theirs) = UnixStream::pair()?;

    let echo_keys = keys.clone();
    let echo = thread::spawn(move || -> Result<(), Failure> {
        let tunnel = pod(&echo_keys, THERE, Instant::now())?;
        let mut there = Pod { tunnel, transport: Framed::new(theirs), peer: HERE };
        let question = there.receive()?;
        println!("there: got {:?}, answering", String::from_utf8_lossy(text(&question)?));
        there.send(&mut udp(THERE, HERE, &text(&question)?.to_ascii_uppercase())?)
    });

    let tunnel = pod(&keys, HERE, Instant::now())?;
    let mut here = Pod { tunnel, transport: Framed::new(ours), peer: THERE };
    here.send(&mut udp(HERE, THERE, b"does this need udp?")?)?;
    let answer = here.receive()?;
    println!("here: got {:?}", String::from_utf8_lossy(text(&answer)?));
    assert_eq!(text(&answer)?, b"DOES THIS NEED UDP?");
    echo.join().map_err(|_| "the other side panicked")?
}

#[test]
fn it_runs() -> Result<(), Failure> {
    main()
}
