//! Two tunnels and a wire between them, for tests that have to look inside.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::TunnelConfig,
    crypto::{CipherSuite, Identity, KeyRing, Seed},
    offload::VnetHdr,
    packet::samples::Sample,
    sink::{
        RecvMeta,
        bytes::{DatagramQueue, PacketQueue},
    },
    testing::start,
    tunnel::{Outbound, Output, TunPacket, Tunnel},
};

/// Addresses of the two.
pub(in crate::tunnel) const ADDRESSES: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

pub(in crate::tunnel) struct Pair {
    pub(in crate::tunnel) now: Instant,
    pub(in crate::tunnel) tunnels: [Tunnel; 2],
    /// The wire carries.
    pub(in crate::tunnel) connected: bool,
    /// Type of datagrams that the wire loses.
    pub(in crate::tunnel) lost: Option<u8>,
    /// Port that datagrams come from.
    pub(in crate::tunnel) port: u16,
    /// Datagrams that each side has sent, with what was lost.
    pub(in crate::tunnel) sent: [Vec<Vec<u8>>; 2],
    /// Packets that came out at each side.
    pub(in crate::tunnel) delivered: [usize; 2],
    /// The packet that came out last.
    pub(in crate::tunnel) last: Option<Vec<u8>>,
    /// To whom, and what.
    under_way: VecDeque<(usize, Vec<u8>)>,
}

impl Pair {
    pub(in crate::tunnel) fn new(suite: CipherSuite) -> Self {
        Self::with_static_keys(suite, [1, 2])
    }

    /// The same, with static keys from these numbers.
    pub(in crate::tunnel) fn with_static_keys(suite: CipherSuite, keys: [u8; 2]) -> Self {
        Self::build(|config| config.suite = suite, keys)
    }

    /// The same, configured otherwise.
    pub(in crate::tunnel) fn with_config(configure: impl Fn(&mut TunnelConfig)) -> Self {
        Self::build(configure, [1, 2])
    }

    fn build(configure: impl Fn(&mut TunnelConfig), keys: [u8; 2]) -> Self {
        let now = start();
        let tunnels = [0, 1].map(|side| {
            let mut config = TunnelConfig::new(["10.0.0.0/8".parse().expect("a range")]);
            configure(&mut config);
            let number = side as u8 + 1;
            let identity = Identity::generate(Seed::from_bytes([keys[side]; 32]), &[address(side)]);
            let seed = Seed::from_bytes([number + 10; 32]);
            Tunnel::builder(config, ring(9), identity).build(seed, now).expect("any suite fits")
        });
        Self {
            now,
            tunnels,
            connected: true,
            lost: None,
            port: 8_362,
            sent: Default::default(),
            delivered: [0; 2],
            last: None,
            under_way: VecDeque::new(),
        }
    }

    /// Sends a packet from this side.
    pub(in crate::tunnel) fn send(&mut self, side: usize) {
        let outcome = self.offer(side);
        assert!(matches!(outcome, Outbound::Sent { .. } | Outbound::Held), "{outcome:?}");
    }

    /// Gives this side a packet, and brings what comes of it.
    pub(in crate::tunnel) fn offer(&mut self, side: usize) -> Outbound {
        self.offer_packet(side, Sample::udp(ADDRESSES[side], ADDRESSES[1 - side], (1, 2)))
    }

    /// The same with this packet.
    pub(in crate::tunnel) fn offer_packet(&mut self, side: usize, mut packet: Vec<u8>) -> Outbound {
        let mut outbox = DatagramQueue::new(1);
        let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
        let outcome = self.tunnels[side].handle_packet(&mut packet, self.now, &mut outbox);
        for train in outbox.drain() {
            self.carry(side, train.bytes.to_vec());
        }
        self.settle();
        outcome
    }

    /// Hands a datagram to this side, as if it came from the other.
    pub(in crate::tunnel) fn receive(&mut self, side: usize, datagram: Vec<u8>) {
        self.under_way.push_back((side, datagram));
        self.settle();
    }

    /// Lets time pass.
    pub(in crate::tunnel) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        // More than anything here does in the longest time it is given.
        for _ in 0..100_000 {
            let next = self.tunnels.iter().filter_map(Tunnel::next_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.settle();
        }
        self.now = end;
    }

    fn carry(&mut self, from: usize, datagram: Vec<u8>) {
        self.sent[from].push(datagram.clone());
        if self.connected && self.lost != datagram.first().copied() {
            self.under_way.push_back((1 - from, datagram));
        }
    }

    /// Does what is due at once, and brings what is under way, in the order in which it was sent.
    pub(in crate::tunnel) fn settle(&mut self) {
        for side in 0..2 {
            self.tend(side);
        }
        while let Some((side, mut datagram)) = self.under_way.pop_front() {
            let from = SocketAddr::new(address(1 - side), self.port);
            let meta = RecvMeta::new(from, datagram.len() as u16);
            let mut inbox = PacketQueue::new(1);
            let _ = self.tunnels[side].handle_datagrams(&meta, &mut datagram, self.now, &mut inbox);
            self.delivered[side] += inbox.len();
            self.last = inbox.drain().last().map(|packet| packet.bytes.to_vec()).or(self.last.take());
            self.tend(side);
        }
    }

    fn tend(&mut self, side: usize) {
        let tunnel = &mut self.tunnels[side];
        if tunnel.next_timeout().is_some_and(|due| due <= self.now) {
            tunnel.handle_timeout(self.now);
        }
        let mut buf = vec![0; 2_048];
        loop {
            match self.tunnels[side].poll_output(&mut buf, self.now) {
                Output::Transmit(transmit) => self.carry(side, buf[..transmit.len].to_vec()),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
    }
}

/// A tenant of this root key.
pub(in crate::tunnel) fn ring(root: u8) -> Arc<KeyRing> {
    let mut bytes = [root; 32];
    bytes[0] ^= 1;
    Arc::new(KeyRing::parse(&KeyRing::write_file([1; 16], 1, &bytes)).expect("the core reads what it writes"))
}

pub(in crate::tunnel) fn address(side: usize) -> IpAddr {
    ADDRESSES[side].parse().expect("an address")
}
