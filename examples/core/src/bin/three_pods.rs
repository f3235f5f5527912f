//! Three pods on one thread: one loop, one list of timers, a clock that is the caller's. Everybody says something to
//! everybody else once a second, for ten minutes of that clock, in which sessions are made and replaced.
//!
//! `cargo run -p tencrypt-example-core --bin three_pods`
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tencrypt::{
    Event, Outbound, Output, TunPacket, Tunnel, TunnelConfig,
    offload::VnetHdr,
    sink::bytes::{DatagramQueue, PacketQueue, QueuedTrain},
};
use tencrypt_example_core::{Failure, demonstration_keys, packet, pod};

const PODS: usize = 3;
/// The time between two packets of a pod to another, and the number of them.
const PERIOD: Duration = Duration::from_secs(1);
const ROUNDS: usize = 600;

struct Pod {
    address: Ipv4Addr,
    tunnel: Tunnel,
    /// Time of the entry that the list has of this pod.
    armed: Option<Instant>,
    /// Datagrams that it has to send, and packets for its applications.
    datagrams: DatagramQueue,
    packets: PacketQueue,
}

struct Loop {
    now: Instant,
    pods: Vec<Pod>,
    timers: BTreeSet<(Instant, usize)>,
    /// The network: from whom, and what.
    wire: VecDeque<(SocketAddr, QueuedTrain)>,
    sessions: usize,
}

impl Loop {
    fn new(now: Instant) -> Result<Self, Failure> {
        let keys = demonstration_keys()?;
        let make = |number| -> Result<Pod, Failure> {
            let address = Ipv4Addr::new(10, 0, 0, number as u8 + 1);
            let tunnel = pod(&keys, address, now)?;
            let (datagrams, packets) = (DatagramQueue::new(64), PacketQueue::new(64));
            Ok(Pod { address, tunnel, armed: None, datagrams, packets })
        };
        let pods = (0..PODS).map(make).collect::<Result<_, _>>()?;
        Ok(Self { now, pods, timers: BTreeSet::new(), wire: VecDeque::new(), sessions: 0 })
    }

    /// An application's packet. It is sent, or held while its destination is asked.
    fn send(&mut self, from: usize, to: usize, text: &str) -> Result<(), Failure> {
        let mut bytes = packet(self.pods[from].address, self.pods[to].address, text);
        let mut packet = TunPacket::new(VnetHdr::default(), &mut bytes);
        let Pod { tunnel, datagrams, .. } = &mut self.pods[from];
        match tunnel.handle_packet(&mut packet, self.now, datagrams) {
            Outbound::Sent { .. } | Outbound::Held => self.drain(from),
            other => Err(format!("nothing here becomes {other:?}").into()),
        }
    }

    /// Runs until `end`, from one moment at which something is due to the next.
    fn run_until(&mut self, end: Instant) -> Result<(), Failure> {
        loop {
            while let Some((from, mut train)) = self.wire.pop_front() {
                let to = self.pods.iter().position(|pod| train.to.ip() == pod.address);
                let to = to.ok_or("a datagram to nobody")?;
                let Pod { tunnel, packets, .. } = &mut self.pods[to];
                tunnel.handle_datagrams(&train.received_from(from), &mut train.bytes, self.now, packets);
                self.drain(to)?;
            }
            let Some(&(due, pod)) = self.timers.first().filter(|(due, _)| *due <= end) else {
                self.now = end;
                return Ok(());
            };
            self.timers.pop_first();
            self.pods[pod].armed = None;
            // A real loop would wait until then, for input too.
            self.now = self.now.max(due);
            self.drain(pod)?;
        }
    }

    /// Takes everything a pod's tunnel has to say, in its order, does what is due, and sees that the list knows when
    /// something is again.
    fn drain(&mut self, at: usize) -> Result<(), Failure> {
        let Pod { address, tunnel, armed, datagrams, packets, .. } = &mut self.pods[at];
        let mut buffer = [0; 65_535];
        loop {
            match tunnel.poll_output(&mut buffer, self.now) {
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Transmit(transmit) => {
                    datagrams.push(&transmit, &buffer)?;
                }
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::Opened(mut held) => {
                    let packet = held.as_packet();
                    packets.push(packet.vnet(), packet.bytes())?;
                }
                Output::Event(Event::PeerUp { .. }) => self.sessions += 1,
                Output::Event(_) => {}
                Output::Timeout(Some(due)) if due <= self.now => tunnel.handle_timeout(self.now),
                Output::Timeout(due) => {
                    // The time moves back and forth: one entry a pod, or those of times gone by pile up.
                    if *armed != due {
                        armed.and_then(|before| self.timers.take(&(before, at)));
                        *armed = due;
                        self.timers.extend(due.map(|due| (due, at)));
                    }
                    break;
                }
            }
        }
        let from = SocketAddr::new((*address).into(), TunnelConfig::DEFAULT_PORT);
        self.wire.extend(datagrams.drain().map(|train| (from, train)));
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let mut world = Loop::new(Instant::now())?;
    let mut arrived = 0;
    let mut largest = 0;
    for round in 0..ROUNDS {
        for (from, to) in (0..PODS).flat_map(|from| (0..PODS).map(move |to| (from, to))) {
            if from != to {
                world.send(from, to, &format!("round {round}"))?;
            }
        }
        let end = world.now + PERIOD;
        world.run_until(end)?;
        arrived += world.pods.iter_mut().map(|pod| pod.packets.drain().count()).sum::<usize>();
        largest = largest.max(world.timers.len());
    }
    let handshakes: u64 = world.pods.iter().map(|pod| pod.tunnel.stats().handshakes).sum();
    println!("{arrived} packets arrived, in {} meetings and {handshakes} ends of handshakes", world.sessions);
    println!("the list of timers had at most {largest} entries");
    assert_eq!(arrived, ROUNDS * PODS * (PODS - 1));
    assert!(largest <= PODS, "entries pile up");
    Ok(())
}
