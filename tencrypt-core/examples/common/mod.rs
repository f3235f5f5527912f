//! Parts that the examples share: a tenant's key, a pod's tunnel, the smallest sink, an application's packets.

use std::{
    error::Error,
    fs::File,
    io::{self, Read},
    net::Ipv4Addr,
    sync::Arc,
    time::Instant,
};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use tencrypt::{
    Identity, KeyRing, PacketSink, Seed, SinkFull, Tunnel, TunnelConfig, crypto::write_key_file,
    offload::Opened,
};

/// Whatever goes wrong in an example.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The keys of a demonstration tenant. A real one comes from `tencrypt genkey`; this one is the same for everybody.
pub(crate) fn demonstration_keys() -> Result<Arc<KeyRing>, Failure> {
    let root: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    Ok(Arc::new(KeyRing::parse(&write_key_file([7; 16], 1, &root))?))
}

/// A tunnel for a pod with this address that knows nothing of its peers yet.
pub(crate) fn pod(keys: &Arc<KeyRing>, address: Ipv4Addr, now: Instant) -> Result<Tunnel, Failure> {
    let config = Arc::new(TunnelConfig::new(["10.0.0.0/8".parse()?]));
    let identity = Identity::generate(seed()?, &[address.into()]);
    Ok(Tunnel::builder(config, keys.clone(), identity).build(seed()?, now)?)
}

/// 32 bytes from the operating system.
fn seed() -> Result<Seed, io::Error> {
    Seed::try_filled(|bytes| File::open("/dev/urandom")?.read_exact(bytes))
}

/// Opened packets, copied: the simplest [`PacketSink`].
#[derive(Debug, Default)]
pub(crate) struct Inbox(pub(crate) Vec<Vec<u8>>);

impl<'b> PacketSink<'b> for Inbox {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.0.push(packet.bytes().to_vec());
        Ok(())
    }
}

/// A UDP packet from port 5000 to port 7, as an application's kernel would make it.
pub(crate) fn udp(from: Ipv4Addr, to: Ipv4Addr, text: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(from.octets(), to.octets(), 64).udp(5_000, 7).write(&mut packet, text)?;
    Ok(packet)
}

/// The text in such a packet.
pub(crate) fn text(packet: &[u8]) -> Result<&[u8], Failure> {
    match SlicedPacket::from_ip(packet)?.transport {
        Some(TransportSlice::Udp(datagram)) => Ok(datagram.payload()),
        _ => Err("a packet came out that is not UDP".into()),
    }
}
