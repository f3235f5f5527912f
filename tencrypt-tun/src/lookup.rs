//! The kernel's decision on where a packet goes.

use std::{io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    name::InterfaceName,
    netlink::Netlink,
    underlay::{Link, is_unsupported},
};

/// A connection to the kernel's routing of one namespace, beside a capture's own.
#[derive(Debug)]
pub struct RouteLookup {
    netlink: Netlink,
    tun: InterfaceName,
}

impl RouteLookup {
    /// Opens a connection in the calling thread's namespace, for the device `tun`.
    ///
    /// # Errors
    /// The netlink socket cannot be opened: no descriptors.
    pub fn open(tun: InterfaceName) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(NETLINK_ROUTE)?, tun })
    }

    /// Returns true if the kernel sends a packet of an application to `destination` out of another device than the tunnel's.
    /// Where it gives an error, or delivers it in the namespace, nothing is sent: false. Chains are not looked at.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn leads_around(&mut self, destination: IpAddr) -> io::Result<bool> {
        let mut query = RouteMessage::default();
        let (family, address, bits) = match destination {
            IpAddr::V4(v4) => (AddressFamily::Inet, RouteAddress::Inet(v4), 32),
            IpAddr::V6(v6) => (AddressFamily::Inet6, RouteAddress::Inet6(v6), 128),
        };
        query.header.address_family = family;
        query.header.destination_prefix_length = bits;
        query.attributes.push(RouteAttribute::Destination(address));
        let answers = match self.netlink.request(RouteNetlinkMessage::GetRoute(query), 0) {
            Err(error) if is_unsupported(&error) || is_no_way(&error) => return Ok(false),
            answers => answers?,
        };
        let tun = Link::find(&mut self.netlink, self.tun)?.map(|link| link.index);
        Ok(answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => {
                route.header.kind == RouteType::Unicast
                    && device_of(route).is_some_and(|oif| Some(oif) != tun)
            }
            _ => false,
        }))
    }
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// Tells if the kernel says that it has no way for a packet: `fib_props` in net/ipv4/fib_semantics.c.
fn is_no_way(error: &io::Error) -> bool {
    let ways = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL];
    error.raw_os_error().is_some_and(|code| ways.contains(&code))
}
