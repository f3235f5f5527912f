//! Which addresses may stand in handshake messages.

use std::net::IpAddr;

/// Whether a pod or a service may have this address: no multicast, broadcast, link-local, loopback or unspecified one,
/// nothing of 0.0.0.0/8 (RFC 1122 section 3.2.1.3), and no IPv4 address in IPv6's clothes.
pub(crate) fn is_pod_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_link_local()
                || v4.is_loopback()
                || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast()
                || v6.is_unicast_link_local()
                || v6.is_loopback()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some())
        }
    }
}
