//! The examples' common parts: a tenant key and a pod's Tunnel.
#![forbid(unsafe_code)]

use std::{error::Error, net::IpAddr, sync::Arc, time::Instant};

use tencrypt::{Identity, KeyRing, Seed, Tunnel, TunnelConfig};

/// Whatever goes wrong in an example.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The keys of a demonstration tenant. A real one comes from `tencrypt genkey`; this one is the same for everybody.
///
/// # Errors
/// None: the core takes such keys.
pub fn demonstration_keys() -> Result<Arc<KeyRing>, Failure> {
    let root: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    Ok(Arc::new(KeyRing::new([7; 16], [(1, &root)], 1)?))
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

/// The code in the repository's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
