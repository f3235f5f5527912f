//! Pods of two lanes: a tunnel for each queue of the device, that know of each other by what is told. In a program each
//! lane is a thread of its own; here they take turns.
//!
//! `cargo run -p tencrypt-example-core --bin two_lanes`
//!
//! A lane's port is the tenant's plus its number. Three things are the owner's to do for them:
//!
//! - to bring a [`LaneUpdate`](tencrypt::LaneUpdate) to every other lane, before what follows reaches network or device;
//! - to send what wants it (`from_tenant_port`) from the tenant's port, whichever lane made it;
//! - to hand an INIT, which comes to the tenant's port, to the lane that it says ([`SessionIndex::lane_of_init`]).
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tencrypt::{
    Event, KeyRing, LaneId, Outbound, Output, TunPacket, Tunnel, TunnelConfig,
    offload::VnetHdr,
    record::SessionIndex,
    sink::bytes::{DatagramQueue, PacketQueue, QueuedTrain},
};
use tencrypt_example_core::{Failure, demonstration_keys, packet, pod, seed, text};

const LANES: usize = 2;

/// A datagram on its way: from where, and what.
type Wire = VecDeque<(SocketAddr, QueuedTrain)>;

struct Pod {
    address: Ipv4Addr,
    lanes: Vec<Tunnel>,
    datagrams: DatagramQueue,
    packets: PacketQueue,
    /// Updates that the lanes have told each other.
    told: usize,
}

impl Pod {
    fn new(keys: &Arc<KeyRing>, address: Ipv4Addr, now: Instant) -> Result<Self, Failure> {
        let mut first = pod(keys, address, now)?;
        let second = first.sibling(LaneId::new(1).ok_or("a lane's number is below 16")?, seed()?, now);
        let (datagrams, packets) = (DatagramQueue::new(64), PacketQueue::new(64));
        Ok(Self { address, lanes: vec![first, second], datagrams, packets, told: 0 })
    }

    /// A packet from the queue of this lane. Which flow is in which queue is the device's to say.
    fn send(
        &mut self,
        lane: usize,
        mut bytes: Vec<u8>,
        now: Instant,
        wire: &mut Wire,
    ) -> Result<(), Failure> {
        let mut packet = TunPacket::new(VnetHdr::default(), &mut bytes);
        match self.lanes[lane].handle_packet(&mut packet, now, &mut self.datagrams) {
            Outbound::Sent { .. } | Outbound::Held => self.drain(lane, now, wire),
            other => Err(format!("nothing here becomes {other:?}").into()),
        }
    }

    /// A train that came to this port.
    fn receive(
        &mut self,
        from: SocketAddr,
        mut train: QueuedTrain,
        now: Instant,
        wire: &mut Wire,
    ) -> Result<(), Failure> {
        let port = usize::from(train.to.port() - TunnelConfig::DEFAULT_PORT);
        let lane = match SessionIndex::lane_of_init(&train.bytes).filter(|_| port == 0) {
            Some(lane) => usize::from(lane) % LANES,
            None => port,
        };
        if lane != port {
            println!("{}: INIT for lane {lane} came to the tenant's port, and is handed over", self.address);
        }
        let meta = train.received_from(from);
        self.lanes[lane].handle_datagrams(&meta, &mut train.bytes, now, &mut self.packets);
        self.drain(lane, now, wire)
    }

    /// Takes everything a lane has to say, in its order, and does what is due.
    fn drain(&mut self, lane: usize, now: Instant, wire: &mut Wire) -> Result<(), Failure> {
        let mut buffer = [0; 65_535];
        loop {
            match self.lanes[lane].poll_output(&mut buffer, now) {
                Output::LaneUpdate(update) => {
                    for (_, other) in self.lanes.iter_mut().enumerate().filter(|(other, _)| *other != lane) {
                        other.handle_lane_update(&update, now);
                        self.told += 1;
                    }
                }
                Output::Transmit(transmit) => {
                    self.datagrams.push(&transmit, &buffer)?;
                }
                Output::Released(_) => return Err("nothing here may leave in plain".into()),
                Output::Opened(mut held) => {
                    let packet = held.as_packet();
                    self.packets.push(packet.vnet(), packet.bytes())?;
                }
                Output::Event(Event::PeerUp { peer, endpoint, .. }) => {
                    println!("{}: lane {lane} has a session with {peer} at {endpoint}", self.address);
                }
                Output::Event(_) => {}
                Output::Timeout(Some(due)) if due <= now => self.lanes[lane].handle_timeout(now),
                Output::Timeout(_) => break,
            }
        }
        // Only now: what the other lanes have to know first has been told.
        for train in self.datagrams.drain() {
            let port = if train.from_tenant_port { 0 } else { lane as u16 };
            wire.push_back((SocketAddr::new(self.address.into(), TunnelConfig::DEFAULT_PORT + port), train));
        }
        Ok(())
    }
}

/// Carries datagrams until nobody has anything to say.
fn settle(pods: &mut [Pod; 2], now: Instant, wire: &mut Wire) -> Result<(), Failure> {
    while let Some((from, train)) = wire.pop_front() {
        println!("{} bytes from {from} to {}", train.bytes.len(), train.to);
        let there = pods.iter_mut().find(|pod| train.to.ip() == pod.address);
        there.ok_or("a datagram to nobody")?.receive(from, train, now, wire)?;
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let (keys, now) = (demonstration_keys()?, Instant::now());
    let addresses = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
    let mut pods = [Pod::new(&keys, addresses[0], now)?, Pod::new(&keys, addresses[1], now)?];
    let mut wire = Wire::new();
    for lane in 0..LANES {
        for (from, to) in [(0, 1), (1, 0)] {
            let question = format!("from {} through lane {lane}", addresses[from]);
            pods[from].send(lane, packet(addresses[from], addresses[to], &question), now, &mut wire)?;
            settle(&mut pods, now, &mut wire)?;
            let arrived = pods[to].packets.pop().ok_or("nothing arrived")?;
            println!("{}: got {:?}", addresses[to], text(&arrived.bytes));
            assert_eq!(text(&arrived.bytes), question);
        }
    }
    println!("the lanes told each other {} things", pods[0].told + pods[1].told);
    assert!(pods.iter().all(|pod| pod.told > 0));
    assert!(pods.iter().flat_map(|pod| &pod.lanes).all(|lane| lane.peers(now).count() == 1));
    Ok(())
}
