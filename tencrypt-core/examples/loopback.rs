//! Two pods in one program: no sockets, no privileges, no threads.
//!
//! `cargo run -p tencrypt --example loopback`
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "the core takes its time from its caller, who has a clock")]

mod common;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Instant,
};

use common::{Failure, Inbox, demonstration_keys, pod, text, udp};
use tencrypt::{
    DEFAULT_PORT, DatagramSink, Event, Outbound, Output, RecvMeta, Train, TrainSlot, TunPacket, Tunnel,
    offload::VnetHdr,
};

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Datagrams to send, one record each: the simplest [`DatagramSink`].
#[derive(Debug, Default)]
struct Outbox(Vec<(SocketAddr, Vec<u8>)>);

/// Room for one record in an [`Outbox`].
#[derive(Debug)]
struct OutboxSlot<'s> {
    outbox: &'s mut Outbox,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl DatagramSink for Outbox {
    type Slot<'s> = OutboxSlot<'s>;

    fn reserve(&mut self, want: Train) -> Option<OutboxSlot<'_>> {
        let len = if want.count == 1 { want.last } else { want.stride };
        Some(OutboxSlot { outbox: self, to: want.to, bytes: vec![0; len.into()] })
    }
}

impl TrainSlot for OutboxSlot<'_> {
    fn records(&self) -> u16 {
        1
    }

    fn buffer(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn commit(mut self, _records: u16, len: usize) {
        self.bytes.truncate(len);
        self.outbox.0.push((self.to, self.bytes));
    }
}

struct Pod {
    address: Ipv4Addr,
    tunnel: Tunnel,
    /// Packets for the pod's applications.
    inbox: Inbox,
}

/// A datagram on its way: from, to, what.
type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

impl Pod {
    /// An application's packet. What becomes of it is said at once.
    fn send(
        &mut self,
        packet: &mut [u8],
        now: Instant,
        wire: &mut Vec<Datagram>,
    ) -> Result<Outbound, Failure> {
        let mut outbox = Outbox::default();
        let mut packet = TunPacket::new(VnetHdr::default(), packet);
        let outcome = self.tunnel.handle_packet(&mut packet, now, &mut outbox);
        self.drain(outbox, now, wire)?;
        Ok(outcome)
    }

    fn receive(&mut self, datagram: Datagram, now: Instant, wire: &mut Vec<Datagram>) -> Result<(), Failure> {
        let (from, _, mut bytes) = datagram;
        let meta = RecvMeta { from, stride: bytes.len() as u16, ecn: 0 };
        self.tunnel.handle_datagrams(&meta, &mut bytes, now, &mut self.inbox);
        self.drain(Outbox::default(), now, wire)
    }

    /// Takes everything the tunnel has to say after an input, in the order of the contract. What is due already is done
    /// before the next datagram, and makes more to take.
    fn drain(&mut self, mut outbox: Outbox, now: Instant, wire: &mut Vec<Datagram>) -> Result<(), Failure> {
        let mut buffer = vec![0; 65_535];
        loop {
            match self.tunnel.poll_output(&mut buffer, now) {
                Output::Transmit(transmit) => outbox.0.push((transmit.to, buffer[..transmit.len].to_vec())),
                Output::Event(Event::PeerUp { peer, endpoint, .. }) => {
                    println!("{}: a session with {peer} at {endpoint}", self.address);
                }
                Output::Event(_) => {}
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Timeout(due) if due.is_some_and(|due| due <= now) => self.tunnel.handle_timeout(now),
                Output::Timeout(_) => break,
            }
        }
        let from = SocketAddr::new(self.address.into(), DEFAULT_PORT);
        wire.extend(outbox.0.into_iter().map(|(to, bytes)| (from, to, bytes)));
        Ok(())
    }
}

/// Carries datagrams between the pods until nobody has anything to say.
fn settle(pods: &mut [Pod], now: Instant, wire: &mut Vec<Datagram>) -> Result<(), Failure> {
    while !wire.is_empty() {
        let datagram = wire.remove(0);
        println!("{} bytes from {} to {}", datagram.2.len(), datagram.0, datagram.1);
        let there = pods.iter_mut().find(|pod| datagram.1.ip() == pod.address);
        there.ok_or("a datagram to nobody")?.receive(datagram, now, wire)?;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let (keys, now) = (demonstration_keys()?, Instant::now());
    let make = |address| -> Result<Pod, Failure> {
        Ok(Pod { address, tunnel: pod(&keys, address, now)?, inbox: Inbox::default() })
    };
    let mut pods = [make(FIRST)?, make(SECOND)?];
    let mut wire = Vec::new();

    // Nobody knows the destination yet: it is asked, and the packet waits.
    let mut packet = udp(FIRST, SECOND, b"hello from the first pod")?;
    assert_eq!(pods[0].send(&mut packet, now, &mut wire)?, Outbound::Held);
    println!("first packet: held while its destination is asked");
    settle(&mut pods, now, &mut wire)?;
    let got = pods[1].inbox.0.pop().ok_or("nothing arrived")?;
    println!("{SECOND} got {:?}", String::from_utf8_lossy(text(&got)?));
    assert_eq!(text(&got)?, b"hello from the first pod");

    // Now there is a session: the second packet is one record.
    let mut packet = udp(SECOND, FIRST, b"and hello back")?;
    assert_eq!(pods[1].send(&mut packet, now, &mut wire)?, Outbound::Sent { records: 1 });
    println!("second packet: {} bytes became a record of {}", packet.len(), wire[0].2.len());
    settle(&mut pods, now, &mut wire)?;
    let got = pods[0].inbox.0.pop().ok_or("nothing arrived")?;
    assert_eq!(text(&got)?, b"and hello back");
    Ok(())
}

#[test]
fn it_runs() -> Result<(), Failure> {
    main()
}
