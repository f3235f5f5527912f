//! Two pods without an async runtime: one thread and one socket each. The whole contract of a Tunnel's run loop, step by
//! step.
//!
//! `cargo run -p tencrypt-example-veth --bin own_runtime`
//!
//! The pods' sockets are on loopback, which is no place for a pod: a tunnel refuses such addresses. So the transport
//! here gives each pod's address a socket address, as any transport may.
#![forbid(unsafe_code)]

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use tencrypt::{
    Event, Outbound, Output, RecvMeta, TunPacket, Tunnel,
    offload::VnetHdr,
    sink::bytes::{DatagramQueue, PacketQueue},
};
use tencrypt_example_veth::{Failure, demonstration_keys, pod};
use tencrypt_sim::{read_udp, udp};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
/// Longest wait for a datagram: a real loop would wait for the device at the same time.
const TICK: Duration = Duration::from_millis(50);
/// Time for everything here to have happened.
const LIMIT: Duration = Duration::from_secs(10);
/// Datagrams or packets that may wait at once.
const ROOM: usize = 64;

struct Pod {
    name: &'static str,
    tunnel: Tunnel,
    socket: UdpSocket,
    /// The other pod: its address, and where its socket is.
    peer: (IpAddr, SocketAddr),
    buffer: Vec<u8>,
    /// Datagrams to send, and packets for the device.
    datagrams: DatagramQueue,
    delivered: PacketQueue,
}

impl Pod {
    /// One turn of the loop: `packets` from the device go out, what arrives waits in `delivered` for the device.
    fn turn(&mut self, packets: &mut Vec<Vec<u8>>) -> Result<(), Failure> {
        // 1. Packets from the device. What becomes of each is said at once.
        for mut bytes in packets.drain(..) {
            let mut packet = TunPacket::new(VnetHdr::default(), &mut bytes);
            match self.tunnel.handle_packet(&mut packet, Instant::now(), &mut self.datagrams) {
                Outbound::Sent { .. } => println!("{}: a packet became a record", self.name),
                Outbound::Held => println!("{}: a packet is held, its destination asked", self.name),
                Outbound::Hairpin => {
                    self.delivered.push(packet.vnet(), packet.bytes())?;
                }
                Outbound::Bypass => return Err("nothing here may leave in plain".into()),
                Outbound::Dropped(reason) => return Err(format!("dropped: {reason}").into()),
            }
            // 2. After every input everything the tunnel has to say is taken, before the next one.
            self.drain()?;
        }

        // 3. Wait for a datagram, no longer than until the tunnel's next timer.
        let due = self.tunnel.next_timeout();
        let wait = due.map_or(TICK, |due| due.saturating_duration_since(Instant::now()).min(TICK));
        // A timeout of zero would mean to wait for ever.
        self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let received = self.socket.recv_from(&mut buffer);

        // 4. The datagram.
        match received {
            Ok((len, from)) if from == self.peer.1 => {
                let meta = RecvMeta::new(SocketAddr::new(self.peer.0, 8_362), len as u16);
                self.tunnel.handle_datagrams(&meta, &mut buffer[..len], Instant::now(), &mut self.delivered);
                self.drain()?;
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        self.buffer = buffer;

        // 5. Timers. A handshake message in the datagram is due at once, and so comes before the next datagram: a CONF
        //    counts before the DATA right behind it.
        let now = Instant::now();
        if self.tunnel.next_timeout().is_some_and(|due| due <= now) {
            self.tunnel.handle_timeout(now);
            self.drain()?;
        }
        Ok(())
    }

    /// Step 2, in the order in which the core says it; the records of step 1 leave with what it says to send. The time is
    /// asked for again in steps 3 and 5.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(65_535, 0);
        loop {
            match self.tunnel.poll_output(&mut buffer, Instant::now()) {
                Output::Transmit(transmit) => {
                    self.datagrams.push(&transmit, &buffer)?;
                }
                Output::Event(Event::PeerUp { peer, endpoint, .. }) => {
                    println!("{}: a session with {peer} at {endpoint}", self.name);
                }
                Output::Event(_) => {}
                Output::Opened(mut held) => {
                    let packet = held.as_packet();
                    self.delivered.push(packet.vnet(), packet.bytes())?;
                }
                // Packets whose destination did not answer, where policy lets those leave in plain. Not here.
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Timeout(_) => break,
            }
        }
        self.buffer = buffer;
        for train in self.datagrams.drain().filter(|train| train.to.ip() == self.peer.0) {
            for datagram in train.records() {
                self.socket.send_to(datagram, self.peer.1)?;
            }
        }
        Ok(())
    }

    /// Turns the loop with an application on top, which takes a packet and may answer it, and says when it is done.
    fn run(
        mut self,
        mut packets: Vec<Vec<u8>>,
        mut application: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, bool),
    ) -> Result<(), Failure> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            self.turn(&mut packets)?;
            let mut done = application(None).1;
            for packet in self.delivered.drain() {
                let (answer, last) = application(Some(&packet.bytes));
                packets.extend(answer);
                done |= last;
            }
            if done && packets.is_empty() {
                return Ok(());
            }
        }
        Err(format!("{}: not done after {LIMIT:?}", self.name).into())
    }
}

fn main() -> Result<(), Failure> {
    let keys = demonstration_keys()?;
    let sockets = [UdpSocket::bind("127.0.83.1:0")?, UdpSocket::bind("127.0.83.2:0")?];
    let places = [sockets[0].local_addr()?, sockets[1].local_addr()?];
    let [first, second] = sockets;
    let make = |name, socket, own: IpAddr, peer| -> Result<Pod, Failure> {
        let tunnel = pod(&keys, &[own], Instant::now())?;
        let (datagrams, delivered) = (DatagramQueue::new(ROOM), PacketQueue::new(ROOM));
        Ok(Pod { name, tunnel, socket, peer, buffer: vec![0; 65_535], datagrams, delivered })
    };
    let here = make("here", first, HERE, (THERE, places[1]))?;
    let there = make("there", second, THERE, (HERE, places[0]))?;

    // The second pod answers in capitals until the first one is content.
    let (content, enough) = std::sync::mpsc::channel::<()>();
    let answering = thread::spawn(move || {
        there.run(Vec::new(), |packet| {
            let asked = packet.and_then(read_udp);
            let answer = asked.map(|(from, to, text)| udp(to, from, &text.to_ascii_uppercase()));
            (answer, enough.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty))
        })
    });

    let questions = ["is this the first packet?", "and this the second?"];
    let mut waiting = questions.iter();
    let mut ask = move || waiting.next().map(|text| udp((HERE, 5_000), (THERE, 7), text.as_bytes()));
    let mut answers = 0;
    let first = ask().ok_or("there are questions")?;
    here.run(vec![first], |packet| {
        let Some((_, _, text)) = packet.and_then(read_udp) else { return (None, answers == questions.len()) };
        println!("here: got {:?}", String::from_utf8_lossy(text));
        assert_eq!(text, questions[answers].to_ascii_uppercase().as_bytes());
        answers += 1;
        (ask(), answers == questions.len())
    })?;
    drop(content);
    answering.join().map_err(|_| "the other thread panicked")?
}
