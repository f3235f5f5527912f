//! The pod: stack, tunnel and socket, and the loop around them.

use std::{
    error::Error,
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface, SocketSet},
    wire::{HardwareAddress, IpCidr},
};
use tencrypt::{
    Identity, KeyRing, Outbound, Output, RecvMeta, Seed, TunPacket, Tunnel, TunnelConfig, offload::VnetHdr,
    sink::bytes::DatagramQueue,
};

use crate::link::Link;

/// Whatever goes wrong in an example.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Bytes of the longest datagram that a path of MTU 1,500 carries: less 20 of IPv4 and 8 of UDP.
const MAX_DATAGRAM: u16 = 1_472;
/// Longest wait for a datagram, so that whoever runs the loop is asked.
const TICK: Duration = Duration::from_millis(20);
/// Datagrams that one input makes: more than any.
const ROOM: usize = 256;

/// A place where a pod's socket is that is not bound to the pod's own address: as on loopback, which is no place for a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers build it")]
pub struct Place {
    /// The pod.
    pub pod: IpAddr,
    /// Its socket.
    pub socket: SocketAddr,
}

/// A pod of one address that lives in this program.
pub struct Pod {
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    link: Link,
    tunnel: Tunnel,
    udp: UdpSocket,
    places: Vec<Place>,
    datagrams: DatagramQueue,
    buffer: Vec<u8>,
}

impl Pod {
    /// A pod at `address` that encrypts what it sends to `protected`. `udp` is bound to its address and the tenant's port,
    /// or wherever `places` tells the others.
    ///
    /// # Errors
    /// `protected` is no range, or the system has no randomness.
    pub fn new(
        keys: KeyRing,
        address: Ipv4Addr,
        protected: &str,
        udp: UdpSocket,
        places: Vec<Place>,
    ) -> Result<Self, Failure> {
        let mut config = TunnelConfig::new([protected.parse()?]);
        config.max_datagram = MAX_DATAGRAM;
        // smoltcp takes finished packets only.
        config.vnet = false;
        let mut link = Link::new(config.inner_mtu());

        let mut stack = Config::new(HardwareAddress::Ip);
        stack.random_seed = u64::from_ne_bytes(random()?);
        let mut interface = Interface::new(stack, &mut link, smoltcp::time::Instant::now());
        interface.update_ip_addrs(|own| {
            // There is room for one, and it is the first.
            let _full = own.push(IpCidr::new(address.into(), 32));
        });
        interface.routes_mut().add_default_ipv4_route(address)?;

        let identity = Identity::generate(seed()?, &[address.into()]);
        let tunnel = Tunnel::builder(config, Arc::new(keys), identity).build(seed()?, Instant::now())?;
        Ok(Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            link,
            tunnel,
            udp,
            places,
            datagrams: DatagramQueue::new(ROOM),
            buffer: vec![0; 65_535],
        })
    }

    /// One turn: what the stack has to send goes into the tunnel, and what arrives before something is due, at most one
    /// datagram, out of it into the stack.
    pub(crate) fn turn(&mut self) -> Result<(), Failure> {
        let now = smoltcp::time::Instant::now();
        self.interface.poll(now, &mut self.link, &mut self.sockets);
        while let Some(mut bytes) = self.link.sent.pop_front() {
            let mut packet = TunPacket::new(VnetHdr::default(), &mut bytes);
            match self.tunnel.handle_packet(&mut packet, Instant::now(), &mut self.datagrams) {
                // To the pod itself.
                Outbound::Hairpin => drop(self.link.arrived.push(packet.vnet(), packet.bytes())),
                Outbound::Bypass => return Err("this pod has no way around the tunnel".into()),
                // What is dropped, TCP sends again.
                Outbound::Sent { .. } | Outbound::Held | Outbound::Dropped(_) => {}
            }
            self.drain()?;
        }
        let delay = self.interface.poll_delay(now, &self.sockets).map_or(TICK, Duration::from);
        let due = self.drain()?.map_or(TICK, |due| due.saturating_duration_since(Instant::now()));
        // A timeout of zero would mean to wait for ever.
        self.udp.set_read_timeout(Some(TICK.min(delay).min(due).max(Duration::from_micros(1))))?;
        self.receive()
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let (len, from) = match self.udp.recv_from(&mut self.buffer) {
            Ok(received) => received,
            // Nobody is there yet who listens; or nothing came.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused || is_timeout(&error) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let place = self.places.iter().find(|place| place.socket == from);
        let from = place.map_or(from, |place| SocketAddr::new(place.pod, TunnelConfig::DEFAULT_PORT));
        let meta = RecvMeta::new(from, len as u16);
        let datagram = &mut self.buffer[..len];
        self.tunnel.handle_datagrams(&meta, datagram, Instant::now(), &mut self.link.arrived);
        self.drain().map(drop)
    }

    /// Takes everything the tunnel has to say, in its order, and does what is due. Returns when something is again.
    fn drain(&mut self) -> Result<Option<Instant>, Failure> {
        let due = loop {
            let now = Instant::now();
            match self.tunnel.poll_output(&mut self.buffer, now) {
                Output::LaneUpdate(_) => return Err("a pod of one lane".into()),
                Output::Transmit(transmit) => {
                    self.datagrams.push(&transmit, &self.buffer)?;
                }
                Output::Released(_) => return Err("this pod has no way around the tunnel".into()),
                Output::Opened(mut held) => {
                    let packet = held.as_packet();
                    self.link.arrived.push(packet.vnet(), packet.bytes())?;
                }
                Output::Event(event) => println!("{event:?}"),
                Output::Timeout(Some(due)) if due <= now => self.tunnel.handle_timeout(now),
                Output::Timeout(due) => break due,
            }
        };
        for train in self.datagrams.drain() {
            let place = self.places.iter().find(|place| place.pod == train.to.ip());
            let to = place.map_or(train.to, |place| place.socket);
            for datagram in train.records() {
                match self.udp.send_to(datagram, to) {
                    // What the network does not take is lost, as on any network.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error.into()),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(due)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn seed() -> Result<Seed, Failure> {
    Ok(Seed::try_filled(|bytes| File::open("/dev/urandom")?.read_exact(bytes))?)
}

fn random() -> Result<[u8; 8], Failure> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
