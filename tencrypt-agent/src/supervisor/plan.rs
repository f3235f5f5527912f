//! The configuration file as the adapters take it: what is captured, which facts are static, where a lane is bound.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use tencrypt::directory::{Class, Fact, FactSource};
use tencrypt_dns::Ranges;
use tencrypt_tun::{CapturePlan, InterfaceName, mark_socket};
use tencrypt_udp::{BindError, UdpTransport};

use super::dns::Names;
use crate::{
    config::Config,
    failure::{Exit, Failure},
};

/// Plans the capture.
///
/// # Errors
/// A [`Failure`] with [`Exit::Usage`]: an interface that cannot be called so.
pub(super) fn plan(config: &Config, names: &Names) -> Result<CapturePlan, Failure> {
    let network = &config.network;
    let (underlay, tun) = (interface(&network.interface)?, interface(&network.tun)?);
    let mut plan = CapturePlan::new(underlay, tun, network.port, network.protected.clone());
    plan.exempt = exempt(config);
    plan.exempt.extend(names.unseen.iter().map(|server| IpNet::from(IpAddr::from(*server))));
    plan.external = of_class(config, Class::External).collect();
    plan.internal = of_class(config, Class::Internal).collect();
    plan.nameservers.clone_from(&names.nameservers);
    plan.upstreams = names.upstreams.iter().map(|server| server.ip()).collect();
    plan.unknown = config.policy.unknown;
    plan.enforce = config.policy.enforce;
    plan.offload = network.offload.device();
    plan.queues = network.lanes;
    Ok(plan)
}

fn of_class(config: &Config, class: Class) -> impl Iterator<Item = IpNet> {
    config.facts.iter().filter(move |fact| fact.class == class).map(|fact| fact.prefix)
}

/// Lists the exempt ranges that the configuration gives.
fn exempt(config: &Config) -> Vec<IpNet> {
    config.network.exempt.iter().copied().chain(of_class(config, Class::Exempt)).collect()
}

/// Returns the ranges in which names of the project's own have addresses; the next hops are exempt.
pub(super) fn own_ranges(config: &Config, gateways: &[IpAddr]) -> Ranges {
    let mut exempt = exempt(config);
    exempt.extend(gateways.iter().map(|gateway| IpNet::from(*gateway)));
    Ranges { protected: config.network.protected.clone(), exempt }
}

/// Parses the name of an interface.
///
/// # Errors
/// A [`Failure`] with [`Exit::Usage`].
pub(crate) fn interface(name: &str) -> Result<InterfaceName, Failure> {
    name.parse().map_err(|error| Failure::new(Exit::Usage, error))
}

/// Lists the facts that the configuration gives, and those of the next hops, which are exempt.
pub(super) fn static_facts(config: &Config, gateways: &[IpAddr]) -> Vec<Fact> {
    let exempt =
        config.network.exempt.iter().copied().chain(gateways.iter().map(|gateway| IpNet::from(*gateway)));
    let exempt = exempt.map(|prefix| Fact::new(prefix, Class::Exempt, FactSource::Static, None));
    config.facts.iter().cloned().chain(exempt).collect()
}

/// Binds the transport of a lane: its port is the tenant's plus its number.
///
/// # Errors
/// A [`Failure`]: the port is taken, or rights are missing.
pub(super) fn transport(config: &Config, lane: u8) -> Result<UdpTransport, Failure> {
    let port = config.network.port.saturating_add(lane.into());
    let bound = UdpTransport::bind(port, mark_socket);
    let mut transport = bound.map_err(|error| {
        let exit = match &error {
            BindError::SetUp { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            _ => Exit::Runtime,
        };
        Failure::from_error(exit, &error)
    })?;
    transport.set_offload(config.network.offload.transport());
    Ok(transport)
}
