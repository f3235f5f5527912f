//! Rules for facts, wherever they are written: one lowers no protection by mistake, and translates nothing that cannot be.

use std::net::IpAddr;

use ipnet::IpNet;
use tencrypt::{
    directory::Class,
    packet::{is_host_address, is_tunnel_address},
};

/// The fault of ports without endpoints.
pub(crate) const PORTS_ALONE: &str = "ports need endpoints";

/// The fault of what is internal and not captured.
const OUTSIDE: &str = "lies outside of network.protected: its traffic would leave in plain";

/// Reads an address, or a range whose host bits are zero.
///
/// # Errors
/// The reason.
pub(crate) fn range(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| format!("expected an address or a range like 10.244.0.0/16, found {text:?}"))?,
    };
    if net.trunc() != net {
        return Err(format!("{net} has host bits set; did you mean {}?", net.trunc()));
    }
    if net.prefix_len() != 0 && !is_host_address(net.addr()) {
        return Err(format!("{net} holds no addresses of pods or services"));
    }
    Ok(net)
}

/// Checks the prefix of a fact of this class.
///
/// # Errors
/// The reason.
pub(crate) fn check_prefix(prefix: IpNet, class: Class, protected: &[IpNet]) -> Result<(), &'static str> {
    let is_protected = protected.iter().any(|range| range.contains(&prefix));
    if class == Class::Internal && !is_protected { Err(OUTSIDE) } else { Ok(()) }
}

/// Checks an endpoint of the service with this prefix.
///
/// # Errors
/// The reason.
pub(crate) fn check_endpoint(endpoint: IpAddr, service: IpNet, protected: &[IpNet]) -> Result<(), String> {
    if endpoint.is_ipv4() != service.addr().is_ipv4() {
        return Err(format!("{endpoint} and {} differ in family", service.addr()));
    }
    if !is_tunnel_address(endpoint) {
        return Err(format!("{endpoint} is no address of a pod"));
    }
    if !protected.iter().any(|range| range.contains(&endpoint)) {
        return Err(OUTSIDE.to_owned());
    }
    Ok(())
}

/// Checks that what has this prefix and class may have endpoints.
///
/// # Errors
/// The reason.
pub(crate) fn check_service(prefix: IpNet, class: Class) -> Result<(), &'static str> {
    if class != Class::Internal {
        return Err("only an internal service has endpoints");
    }
    if prefix.prefix_len() != prefix.max_prefix_len() {
        return Err("a service is one address, not a range");
    }
    Ok(())
}
