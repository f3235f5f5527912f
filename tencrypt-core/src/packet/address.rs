//! Special addresses (RFC 6890), and where they may stand.

use std::net::IpAddr;

/// Tells if a single host may have this address, the pod or somebody else: no multicast, broadcast, loopback or
/// unspecified one, nothing of 0.0.0.0/8 (RFC 1122 section 3.2.1.3), and no IPv4 address in IPv6's clothes.
///
/// Link-local addresses belong to hosts, though only on one link: see [`is_tunnel_address`].
#[must_use]
pub const fn is_host_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified() || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// Tells if packets from and to this address may travel in the tunnel, as those of a pod or of a service: it is a host's
/// ([`is_host_address`]), and not of one link alone.
#[must_use]
pub const fn is_tunnel_address(address: IpAddr) -> bool {
    is_host_address(address) && !is_link_local(address)
}

/// Tells if the address is valid on one link only: 169.254.0.0/16 (RFC 3927) or fe80::/10 (RFC 4291 section 2.5.6).
const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: (bool, bool, bool) = (false, false, false);
    const ON_LINK: (bool, bool, bool) = (true, false, true);
    const ANYWHERE: (bool, bool, bool) = (true, true, false);

    /// First and last address of each range in the registries of RFC 6890 and RFC 4291, and whether they are a host's,
    /// may travel in the tunnel, and are link-local.
    const RANGES: [(&str, &str, (bool, bool, bool)); 39] = [
        // RFC 1122 section 3.2.1.3: this host on this network.
        ("0.0.0.0", "0.255.255.255", NOBODY),
        ("1.0.0.0", "9.255.255.255", ANYWHERE),
        // RFC 1918.
        ("10.0.0.0", "10.255.255.255", ANYWHERE),
        ("172.16.0.0", "172.31.255.255", ANYWHERE),
        ("192.168.0.0", "192.168.255.255", ANYWHERE),
        // RFC 6598: shared by carriers, and taken for pods by some clusters.
        ("100.64.0.0", "100.127.255.255", ANYWHERE),
        ("126.255.255.255", "126.255.255.255", ANYWHERE),
        // RFC 1122 section 3.2.1.3.
        ("127.0.0.0", "127.255.255.255", NOBODY),
        ("128.0.0.0", "128.0.0.0", ANYWHERE),
        ("169.253.255.255", "169.253.255.255", ANYWHERE),
        // RFC 3927.
        ("169.254.0.0", "169.254.255.255", ON_LINK),
        ("169.255.0.0", "169.255.0.0", ANYWHERE),
        // RFC 6890: protocol assignments.
        ("192.0.0.0", "192.0.0.255", ANYWHERE),
        // RFC 5737: documentation.
        ("192.0.2.0", "192.0.2.255", ANYWHERE),
        ("198.51.100.0", "198.51.100.255", ANYWHERE),
        ("203.0.113.0", "203.0.113.255", ANYWHERE),
        // RFC 3068: 6to4 relays.
        ("192.88.99.0", "192.88.99.255", ANYWHERE),
        // RFC 2544: benchmarks.
        ("198.18.0.0", "198.19.255.255", ANYWHERE),
        ("223.255.255.255", "223.255.255.255", ANYWHERE),
        // RFC 5771.
        ("224.0.0.0", "239.255.255.255", NOBODY),
        // RFC 1112 section 4: reserved, and taken for pods by some clusters.
        ("240.0.0.0", "255.255.255.254", ANYWHERE),
        // RFC 919.
        ("255.255.255.255", "255.255.255.255", NOBODY),
        // RFC 4291 sections 2.5.2 and 2.5.3.
        ("::", "::1", NOBODY),
        // RFC 4291 section 2.5.5.1: IPv4-compatible, deprecated.
        ("::2", "::ffff:ffff", ANYWHERE),
        // RFC 4291 section 2.5.5.2: IPv4-mapped, of whatever IPv4 address.
        ("::ffff:0.0.0.0", "::ffff:255.255.255.255", NOBODY),
        ("::ffff:10.0.0.1", "::ffff:169.254.0.1", NOBODY),
        ("::fffe:ffff:ffff", "::fffe:ffff:ffff", ANYWHERE),
        ("::1:0:0:0", "::1:0:0:0", ANYWHERE),
        // RFC 6052 and RFC 8215: translation.
        ("64:ff9b::", "64:ff9b::ffff:ffff", ANYWHERE),
        ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 6666: discard-only.
        ("100::", "100::ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 2928, with Teredo, benchmarks and ORCHID.
        ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 3849: documentation.
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 3056: 6to4.
        ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 4193: unique local.
        ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        ("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 4291 section 2.5.6.
        ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ON_LINK),
        // RFC 3879: site-local, deprecated, and to be treated as global unicast.
        ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ANYWHERE),
        // RFC 4291 section 2.7.
        ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", NOBODY),
    ];

    #[test]
    fn every_special_range_is_told_at_both_ends() {
        for (first, last, expected) in RANGES {
            for text in [first, last] {
                let address: IpAddr = text.parse().expect(text);
                let found = (is_host_address(address), is_tunnel_address(address), is_link_local(address));
                assert_eq!(found, expected, "{text}");
            }
        }
    }

    #[test]
    fn what_travels_in_the_tunnel_is_a_hosts() {
        // The first 16 bits, with the rest all zero and all one.
        for high in 0..=u16::MAX {
            for rest in [0, u16::MAX] {
                let v4 = std::net::Ipv4Addr::from((u32::from(high) << 16) | u32::from(rest));
                let v6 = std::net::Ipv6Addr::from([high, rest, rest, rest, rest, rest, rest, rest]);
                for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                    let expected = is_host_address(address) && !is_link_local(address);
                    assert_eq!(is_tunnel_address(address), expected, "{address}");
                }
            }
        }
    }
}
