//! The examples' common parts: a tenant key, a pod's Tunnel, and the smallest transport there is.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tencrypt::{
    DatagramSink, Identity, KeyRing, PacketSink, Seed, SinkFull, Train, TrainSlot, Tunnel, TunnelConfig,
    crypto::write_key_file, offload::Opened,
};

/// Whatever goes wrong in an example.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The keys of a demonstration tenant. A real one comes from `tencrypt genkey`; this one is the same for everybody.
///
/// # Errors
/// If the core does not read what it writes.
pub fn demonstration_keys() -> Result<Arc<KeyRing>, Failure> {
    let root: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    Ok(Arc::new(KeyRing::parse(&write_key_file([7; 16], 1, &root))?))
}

/// A Tunnel for a pod with these addresses that knows nothing of its peers yet.
///
/// # Errors
/// If the system has no randomness.
pub fn pod(keys: &Arc<KeyRing>, addresses: &[IpAddr], now: Instant) -> Result<Tunnel, Failure> {
    let config = TunnelConfig::new(["10.0.0.0/8".parse()?, "fd00::/8".parse()?]);
    let identity = Identity::generate(Seed::from_bytes(random()?), addresses);
    let seed = Seed::from_bytes(random()?);
    Ok(Tunnel::builder(config, keys.clone(), identity).build(seed, now)?)
}

/// 32 bytes from the operating system.
///
/// # Errors
/// Reads 32 random bytes from /dev/urandom.
pub fn random() -> Result<[u8; 32], Failure> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Datagrams to send, one record each: the simplest [`DatagramSink`].
#[derive(Debug, Default)]
pub struct Outbox(pub Vec<(SocketAddr, Vec<u8>)>);

/// Room for one record in an [`Outbox`].
#[derive(Debug)]
pub struct OutboxSlot<'s> {
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

/// Opened packets, copied: the simplest [`PacketSink`].
#[derive(Debug, Default)]
pub struct Inbox(pub Vec<Vec<u8>>);

impl<'b> PacketSink<'b> for Inbox {
    fn packet(&mut self, packet: Opened<'b>) -> Result<(), SinkFull> {
        self.0.push(packet.bytes().to_vec());
        Ok(())
    }
}

/// The code in the repository's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
