//! The tunnels of a pod's lanes, all of one identity.

use std::{net::IpAddr, num::NonZeroU8, sync::Arc, time::Instant};

use tencrypt::{Identity, KeyRing, LaneId, Tunnel, TunnelConfig, directory::Directory, nat::DnsHairpin};

use super::{clone_guard::random_seed, dns::Names};
use crate::{config::Config, failure::Failure};

/// Makes the tunnel of each of `lanes`, which start from the same `directory`.
///
/// # Errors
/// The kernel gives no randomness.
pub(super) fn tunnels(
    config: TunnelConfig,
    lanes: NonZeroU8,
    keys: Arc<KeyRing>,
    addresses: &[IpAddr],
    directory: Directory,
) -> Result<Vec<Tunnel>, Failure> {
    let identity = Identity::generate(random_seed()?, addresses);
    let now = Instant::now();
    let builder = Tunnel::builder(config, keys, identity).directory(directory);
    let first = builder.build(random_seed()?, now)?;
    let mut tunnels = vec![first];
    for lane in (1..lanes.get()).filter_map(LaneId::new) {
        let sibling = tunnels[0].sibling(lane, random_seed()?, now);
        tunnels.push(sibling);
    }
    Ok(tunnels)
}

/// Translates the configuration file for the tunnels. The pod's queries are redirected to `proxy_port`.
pub(super) fn tunnel_config(config: &Config, names: &Names, proxy_port: u16) -> TunnelConfig {
    let mut tunnel = TunnelConfig::new(config.network.protected.iter().copied());
    tunnel.suite = config.tenant.suite;
    tunnel.vnet = config.network.offload.checksums();
    tunnel.port = config.network.port;
    tunnel.max_peers = config.network.max_peers;
    tunnel.unknown = config.policy.unknown;
    tunnel.external = config.policy.external;
    let nameservers = names.nameservers.clone();
    tunnel.dns = (!nameservers.is_empty()).then_some(DnsHairpin::new(nameservers, proxy_port));
    tunnel
}
