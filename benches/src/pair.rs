//! Tunnels with a session between them, made without a network.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tencrypt::{
    CipherSuite, Identity, KeyRing, Outbound, Output, Seed, TunPacket, Tunnel, TunnelConfig,
    crypto::PeerId,
    directory::{Class, Directory, Fact, FactSource},
    offload::VnetHdr,
    sink::bytes::DatagramQueue,
};
use tencrypt_sim::Random;

use crate::{packets::udp_packet, sinks::Count};

/// Datagrams that one input makes: more than any.
const ROOM: usize = 64;

/// The address of the first tunnel of a [`Pair`], and of the one in the middle of a [`Hub`].
pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// The address of the second tunnel of a [`Pair`].
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

/// One tenant: makes tunnels, each with its own identity.
#[derive(Debug)]
pub struct Tenant {
    keys: Arc<KeyRing>,
    config: Arc<TunnelConfig>,
    random: Random,
}

impl Tenant {
    /// A tenant whose sessions use `suite`. Its keys follow from nothing but a constant.
    ///
    /// # Panics
    /// If the core does not read the key file it writes.
    #[must_use]
    pub fn new(suite: CipherSuite) -> Self {
        let mut random = Random::new(1);
        let text = KeyRing::write_file([7; 16], 1, &random.bytes());
        let mut config = TunnelConfig::new(["10.0.0.0/8".parse().expect("a range")]);
        config.suite = suite;
        Self {
            keys: Arc::new(KeyRing::parse(&text).expect("the core reads what it writes")),
            config: Arc::new(config),
            random,
        }
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// A fresh identity of a pod with this address.
    pub fn identity(&mut self, address: Ipv4Addr) -> Identity {
        Identity::generate(self.seed(), &[address.into()])
    }

    /// A tunnel of `identity` that knows `facts`.
    pub fn tunnel(&mut self, identity: Identity, facts: Vec<Fact>, now: Instant) -> Tunnel {
        let builder = Tunnel::builder(self.config.clone(), self.keys.clone(), identity);
        let builder = builder.directory(Directory::new(facts, self.random.bits()));
        builder.build(self.seed(), now).expect("the default suite fits any transport")
    }

    fn seed(&mut self) -> Seed {
        Seed::from_bytes(self.random.bytes())
    }
}

/// The cluster's fact about a pod at `address`: of the tenant, and whose it is.
#[must_use]
pub fn pod_fact(address: Ipv4Addr, owner: PeerId) -> Fact {
    let prefix = ipnet::Ipv4Net::from(address);
    Fact::new(prefix, Class::Internal, FactSource::Kubernetes, None).with_owner(owner)
}

/// Two tunnels that know each other.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "the benchmarks use both ends at once")]
pub struct Pair {
    /// The one at [`HERE`].
    pub here: Tunnel,
    /// The one at [`THERE`].
    pub there: Tunnel,
    /// The moment it is.
    pub now: Instant,
}

impl Pair {
    /// Without a session yet.
    #[must_use]
    pub fn strangers(tenant: &mut Tenant) -> Self {
        let now = Instant::now();
        let (here, there) = (tenant.identity(HERE), tenant.identity(THERE));
        let facts = vec![pod_fact(HERE, here.peer_id()), pod_fact(THERE, there.peer_id())];
        Self { here: tenant.tunnel(here, facts.clone(), now), there: tenant.tunnel(there, facts, now), now }
    }

    /// With a session, which the one at [`HERE`] began.
    ///
    /// # Panics
    /// If the handshake fails.
    #[must_use]
    pub fn connected(suite: CipherSuite) -> Self {
        let mut pair = Self::strangers(&mut Tenant::new(suite));
        assert_eq!(pair.exchange(), 1, "the packet that began it arrives");
        pair
    }

    /// A first packet of 64 bytes, the handshake it starts, and its arrival. Returns how many packets arrived.
    pub fn exchange(&mut self) -> u64 {
        exchange((HERE, &mut self.here), (THERE, &mut self.there), self.now)
    }

    /// The end that records of the tunnel at `address` come from.
    #[must_use]
    pub fn endpoint(address: Ipv4Addr) -> SocketAddr {
        SocketAddr::new(address.into(), TunnelConfig::DEFAULT_PORT)
    }
}

/// One tunnel in the middle of many.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "the benchmarks use both at once")]
pub struct Hub {
    /// The one in the middle, at [`HERE`].
    pub tunnel: Tunnel,
    /// The moment it is.
    pub now: Instant,
}

impl Hub {
    /// A tunnel that has sessions with `peers` others and knows of `addresses` pods, which are theirs in turn. The
    /// other ends are thrown away: packets can be sent, not received.
    ///
    /// # Panics
    /// If there are fewer addresses than peers, or a handshake fails.
    #[must_use]
    pub fn new(peers: usize, addresses: usize) -> Self {
        assert!(peers <= addresses, "an address for everybody");
        let now = Instant::now();
        let mut tenant = Tenant::new(CipherSuite::Aes256Gcm);
        let others: Vec<Identity> = (0..peers).map(|at| tenant.identity(Self::address(at))).collect();
        let owner = |at: usize| others[at % peers].peer_id();
        let facts = (0..addresses).map(|at| pod_fact(Self::address(at), owner(at))).collect();
        let identity = tenant.identity(HERE);
        let mut tunnel = tenant.tunnel(identity, facts, now);
        for (at, identity) in others.into_iter().enumerate() {
            let address = Self::address(at);
            let mut other = tenant.tunnel(identity, Vec::new(), now);
            let arrived = exchange((HERE, &mut tunnel), (address, &mut other), now);
            assert_eq!(arrived, 1, "the packet to {address} arrives");
        }
        Self { tunnel, now }
    }

    /// The address of the pod of this number.
    ///
    /// # Panics
    /// If it would not be below 10.255.0.0.
    #[must_use]
    pub fn address(at: usize) -> Ipv4Addr {
        assert!(at < 0xff_0000 - 1, "pods are below 10.255.0.0");
        Ipv4Addr::from(0x0a00_0001 + at as u32)
    }
}

/// Sends one packet from `here` to `there` and carries datagrams until both are silent. Returns how many packets came
/// out at `there`.
fn exchange(here: (Ipv4Addr, &mut Tunnel), there: (Ipv4Addr, &mut Tunnel), now: Instant) -> u64 {
    let (here_at, here) = here;
    let (there_at, there) = there;
    let mut packet = udp_packet(IpAddr::V4(here_at), IpAddr::V4(there_at), 64);
    let (mut datagrams, mut arrived) = (DatagramQueue::new(ROOM), Count::default());
    let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
    let outbound = here.handle_packet(&mut packet, now, &mut datagrams);
    assert!(matches!(outbound, Outbound::Sent { .. } | Outbound::Held), "{outbound:?}");
    loop {
        let forth = carry(here, here_at, there, &mut datagrams, now, &mut arrived);
        let back = carry(there, there_at, here, &mut datagrams, now, &mut Count::default());
        if !forth && !back {
            return arrived.packets;
        }
    }
}

/// Takes what `from` has to say to `to`, behind what waits already. Returns whether there was anything.
fn carry(
    from: &mut Tunnel,
    at: Ipv4Addr,
    to: &mut Tunnel,
    datagrams: &mut DatagramQueue,
    now: Instant,
    arrived: &mut Count,
) -> bool {
    let mut buffer = [0; 2_048];
    loop {
        match from.poll_output(&mut buffer, now) {
            Output::Transmit(transmit) => datagrams.push(&transmit, &buffer).expect("there is room"),
            Output::Timeout(_) => break,
            _ => {}
        }
    }
    let has_any = !datagrams.is_empty();
    for mut train in datagrams.drain() {
        to.handle_datagrams(&train.received_from(Pair::endpoint(at)), &mut train.bytes, now, arrived);
        if to.next_timeout().is_some_and(|due| due <= now) {
            to.handle_timeout(now);
        }
    }
    has_any
}
