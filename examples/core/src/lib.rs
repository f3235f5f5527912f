//! Parts that the larger examples share: a tenant's keys, a pod's tunnel, an application's packets.
#![forbid(unsafe_code)]

use std::{error::Error, fs::File, io::Read, net::Ipv4Addr, sync::Arc, time::Instant};

use tencrypt::{Identity, KeyRing, Seed, Tunnel, TunnelConfig};

/// Whatever goes wrong in an example.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Bytes of an IPv4 header without options.
const HEADER: usize = 20;
/// Protocol for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

/// The keys of a demonstration tenant. A real one comes from `tencrypt genkey`; this one is the same for everybody.
///
/// # Errors
/// None: the core takes such keys.
pub fn demonstration_keys() -> Result<Arc<KeyRing>, Failure> {
    let root: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    Ok(Arc::new(KeyRing::new([7; 16], [(1, &root)], 1)?))
}

/// A tunnel for a pod with this address that knows nothing of its peers yet.
///
/// # Errors
/// The system has no randomness.
pub fn pod(keys: &Arc<KeyRing>, address: Ipv4Addr, now: Instant) -> Result<Tunnel, Failure> {
    let config = TunnelConfig::new(["10.0.0.0/8".parse()?]);
    let identity = Identity::generate(seed()?, &[address.into()]);
    Ok(Tunnel::builder(config, keys.clone(), identity).build(seed()?, now)?)
}

/// 32 bytes from the operating system.
///
/// # Errors
/// It has none.
pub fn seed() -> Result<Seed, Failure> {
    Ok(Seed::try_filled(|bytes| File::open("/dev/urandom")?.read_exact(bytes))?)
}

/// An IPv4 packet with this text, as an application's kernel would make it.
#[must_use]
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, text: &str) -> Vec<u8> {
    let length = (HEADER + text.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, EXPERIMENT, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(from.octets());
    packet.extend(to.octets());
    // RFC 1071: the ones' complement of the ones' complement sum of all words.
    let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let checksum = !((sum >> 16) + (sum & 0xffff)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(text.bytes());
    packet
}

/// The text of such a packet.
///
/// # Panics
/// It is too short to be one.
#[must_use]
pub fn text(packet: &[u8]) -> String {
    String::from_utf8_lossy(&packet[HEADER..]).into_owned()
}
