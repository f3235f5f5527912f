//! Records over something that is not UDP: a TCP connection, each record behind its length. Two pods on tokio, which ask
//! and answer.
//!
//! `cargo run -p tencrypt-example-tcp`
//!
//! The addresses that a tunnel sends to are names of peers, not places on a network: here there is one peer, at the other
//! end of the connection. A tunnel stays on one thread, so the runtime has no other.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    fs::File,
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tencrypt::{
    Event, Identity, KeyRing, Outbound, Output, RecvMeta, Seed, TunPacket, Tunnel, TunnelConfig,
    offload::VnetHdr,
    sink::bytes::{BytesMut, DatagramQueue, PacketQueue},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
};

type Failure = Box<dyn Error + Send + Sync>;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Bytes of an IPv4 header without options.
const HEADER: usize = 20;
/// Datagrams or packets that may wait at once.
const ROOM: usize = 64;
/// Time for everything here to have happened.
const LIMIT: Duration = Duration::from_secs(10);

/// A tunnel over a connection to its one peer, below an application that sends and takes packets.
struct Pod {
    tunnel: Tunnel,
    peer: Ipv4Addr,
    stream: TcpStream,
    /// Bytes of the stream that are no whole record yet.
    received: BytesMut,
    datagrams: DatagramQueue,
    packets: PacketQueue,
    buffer: Vec<u8>,
}

impl Pod {
    fn new(own: Ipv4Addr, peer: Ipv4Addr, stream: TcpStream) -> Result<Self, Failure> {
        // The same for everybody; a real tenant's comes from `tencrypt genkey`.
        let keys = Arc::new(KeyRing::new([7; 16], [(1, &std::array::from_fn(|at| at as u8))], 1)?);
        let mut config = TunnelConfig::new(["10.0.0.0/8".parse()?]);
        // The application takes finished packets only.
        config.vnet = false;
        let identity = Identity::generate(seed()?, &[own.into()]);
        Ok(Self {
            tunnel: Tunnel::builder(config, keys, identity).build(seed()?, Instant::now())?,
            peer,
            stream,
            received: BytesMut::new(),
            datagrams: DatagramQueue::new(ROOM),
            packets: PacketQueue::new(ROOM),
            buffer: vec![0; 65_535],
        })
    }

    /// Carries packets from and to the application until it, or the peer, hangs up.
    async fn run(mut self, mut sent: Receiver<Vec<u8>>, arrived: Sender<BytesMut>) -> Result<(), Failure> {
        loop {
            let due = self.drain().await?;
            for packet in self.packets.drain() {
                if arrived.send(packet.bytes).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                packet = sent.recv() => match packet {
                    Some(mut packet) => self.send(&mut packet)?,
                    None => return Ok(()),
                },
                read = self.stream.read_buf(&mut self.received) => match read? {
                    0 => return Ok(()),
                    _ => self.receive().await?,
                },
                () = sleep_until(due) => self.tunnel.handle_timeout(Instant::now()),
            }
        }
    }

    fn send(&mut self, packet: &mut [u8]) -> Result<(), Failure> {
        let mut packet = TunPacket::new(VnetHdr::default(), packet);
        match self.tunnel.handle_packet(&mut packet, Instant::now(), &mut self.datagrams) {
            Outbound::Sent { .. } | Outbound::Held => Ok(()),
            other => Err(format!("nothing here becomes {other:?}").into()),
        }
    }

    /// Takes the records that have come whole.
    async fn receive(&mut self) -> Result<(), Failure> {
        while let Some(mut record) = next_record(&mut self.received) {
            let from = SocketAddr::new(self.peer.into(), TunnelConfig::DEFAULT_PORT);
            let meta = RecvMeta::new(from, record.len() as u16);
            self.tunnel.handle_datagrams(&meta, &mut record, Instant::now(), &mut self.packets);
            // What a handshake message makes due comes before the next record.
            self.drain().await?;
        }
        Ok(())
    }

    /// Takes everything the tunnel has to say, in its order, and does what is due. Returns when something is again.
    async fn drain(&mut self) -> Result<Option<Instant>, Failure> {
        let due = loop {
            let now = Instant::now();
            match self.tunnel.poll_output(&mut self.buffer, now) {
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Transmit(transmit) => {
                    self.datagrams.push(&transmit, &self.buffer)?;
                }
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::Opened(mut held) => {
                    let packet = held.as_packet();
                    self.packets.push(packet.vnet(), packet.bytes())?;
                }
                Output::Event(Event::PeerUp { peer, .. }) => println!("a session with {peer}, {}", self.peer),
                Output::Event(_) => {}
                Output::Timeout(Some(due)) if due <= now => self.tunnel.handle_timeout(now),
                Output::Timeout(due) => break due,
            }
        };
        for train in self.datagrams.drain() {
            for record in train.records() {
                self.stream.write_u16(record.len() as u16).await?;
                self.stream.write_all(record).await?;
            }
        }
        Ok(due)
    }
}

/// The next whole record, if there is one: two bytes of length, big endian, and as many of it.
fn next_record(received: &mut BytesMut) -> Option<BytesMut> {
    let &[high, low] = received.first_chunk()?;
    let end = 2 + usize::from(u16::from_be_bytes([high, low]));
    (received.len() >= end).then(|| received.split_to(end).split_off(2))
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn seed() -> Result<Seed, Failure> {
    Ok(Seed::try_filled(|bytes| File::open("/dev/urandom")?.read_exact(bytes))?)
}

/// A packet of a protocol for experiments (253, RFC 3692). Nobody here looks at the header's checksum.
fn packet(from: Ipv4Addr, to: Ipv4Addr, text: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, (HEADER + text.len()) as u8, 0, 0, 0x40, 0, 64, 253, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(text);
    packet
}

/// Answers every packet in capitals.
async fn echo(mut arrived: Receiver<BytesMut>, answers: Sender<Vec<u8>>) {
    while let Some(question) = arrived.recv().await {
        println!("there: got {:?}", String::from_utf8_lossy(&question[HEADER..]));
        let answer = packet(THERE, HERE, &question[HEADER..].to_ascii_uppercase());
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

/// Asks one thing after the other.
async fn ask(mut arrived: Receiver<BytesMut>, questions: Sender<Vec<u8>>) -> Result<(), Failure> {
    for text in ["does this need udp?", "nor a handshake for each?"] {
        questions.send(packet(HERE, THERE, text.as_bytes())).await?;
        let answer = arrived.recv().await.ok_or("the tunnel has ended")?;
        println!("here: got {:?}", String::from_utf8_lossy(&answer[HEADER..]));
        assert_eq!(answer[HEADER..], *text.to_ascii_uppercase().as_bytes());
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let place = listener.local_addr()?;
    let there = async {
        let pod = Pod::new(THERE, HERE, listener.accept().await?.0)?;
        let ((sends, sent), (arrives, arrived)) = (channel(ROOM), channel(ROOM));
        tokio::join!(pod.run(sent, arrives), echo(arrived, sends)).0
    };
    let here = async {
        let pod = Pod::new(HERE, THERE, TcpStream::connect(place).await?)?;
        let ((sends, sent), (arrives, arrived)) = (channel(ROOM), channel(ROOM));
        let (carried, asked) = tokio::join!(pod.run(sent, arrives), ask(arrived, sends));
        carried.and(asked)
    };
    let (here, there) = tokio::time::timeout(LIMIT, async { tokio::join!(here, there) }).await?;
    here.and(there)
}
