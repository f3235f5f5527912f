//! Records over something that is not UDP: a stream, each record behind its length. Two threads, one socket pair.
//!
//! `cargo run -p tencrypt-examples --bin custom_transport`
//!
//! A transport implements `DatagramSink` over its send buffer and calls `handle_datagrams` with what it receives. The
//! addresses in a `Train` are then names of peers, not places on a network.
#![forbid(unsafe_code)]

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use tencrypt::{DatagramSink, RecvMeta, Train, TrainSlot, TunPacket, Tunnel, offload::VnetHdr};
use tencrypt_examples::{Failure, Inbox, demonstration_keys, pod};
use tencrypt_sim::{read_udp, udp};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

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
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self { stream, pending: Vec::new(), received: Vec::new() })
    }

    /// One turn: what the tunnel has to say leaves, what has arrived comes in.
    fn turn(&mut self, tunnel: &mut Tunnel, peer: IpAddr, inbox: &mut Inbox) -> io::Result<()> {
        let mut buffer = [0; 65_535];
        tunnel.handle_timeout(Instant::now());
        while let Some(transmit) = tunnel.poll_transmit(&mut buffer, Instant::now()) {
            self.pending.extend((transmit.len as u16).to_be_bytes());
            self.pending.extend(&buffer[..transmit.len]);
        }
        self.stream.write_all(&self.pending)?;
        self.pending.clear();
        match self.stream.read(&mut buffer) {
            Ok(read) => self.received.extend(&buffer[..read]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let Some(&[high, low]) = self.received.first_chunk() {
            let end = 2 + usize::from(u16::from_be_bytes([high, low]));
            let Some(record) = self.received.get_mut(2..end) else { break };
            let meta = RecvMeta { from: SocketAddr::new(peer, 8_362), stride: (end - 2) as u16, ecn: 0 };
            tunnel.handle_datagrams(&meta, record, Instant::now(), inbox);
            // What a handshake message made due comes before the next record.
            tunnel.handle_timeout(Instant::now());
            self.received.drain(..end);
        }
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let keys = demonstration_keys()?;
    let (ours, theirs) = UnixStream::pair()?;

    let echo_keys = keys.clone();
    let echo = thread::spawn(move || -> Result<(), Failure> {
        let mut transport = Framed::new(theirs)?;
        let mut tunnel = pod(&echo_keys, &[THERE], Instant::now())?;
        for _ in 0..200 {
            let mut inbox = Inbox::default();
            transport.turn(&mut tunnel, HERE, &mut inbox)?;
            if let Some(packet) = inbox.0.pop() {
                let (from, to, text) = read_udp(&packet).ok_or("a packet came out broken")?;
                println!("there: got {:?}, answering", String::from_utf8_lossy(text));
                let mut answer = udp(to, from, &text.to_ascii_uppercase());
                let mut answer = TunPacket::new(VnetHdr::default(), &mut answer);
                let _ = tunnel.handle_outbound(&mut answer, Instant::now(), &mut transport);
                transport.turn(&mut tunnel, HERE, &mut Inbox::default())?;
                return Ok(());
            }
        }
        Err("nothing arrived".into())
    });

    let mut transport = Framed::new(ours)?;
    let mut tunnel = pod(&keys, &[HERE], Instant::now())?;
    let mut question = udp((HERE, 5_000), (THERE, 7), b"does this need udp?");
    let _ = tunnel.handle_outbound(
        &mut TunPacket::new(VnetHdr::default(), &mut question),
        Instant::now(),
        &mut transport,
    );
    let answered = (0..200).find_map(|_| {
        let mut inbox = Inbox::default();
        transport.turn(&mut tunnel, THERE, &mut inbox).ok()?;
        inbox.0.pop()
    });
    let answer = answered.ok_or("no answer")?;
    let (_, _, text) = read_udp(&answer).ok_or("a packet came out broken")?;
    println!("here: got {:?}", String::from_utf8_lossy(text));
    assert_eq!(text, b"DOES THIS NEED UDP?");
    echo.join().map_err(|_| "the other side panicked")?
}
