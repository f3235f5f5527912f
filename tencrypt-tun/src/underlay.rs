//! The interface the tunnel's own packets use: addresses, MTU, gateways.

use std::{io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
        RouteVia,
    },
};
use tencrypt::IpNet;

use crate::{name::InterfaceName, netlink::Netlink};

/// Bytes the tunnel adds to a packet over IPv4: 20 IP, 8 UDP, 16 record header, 16 tag.
const OVERHEAD_V4: u32 = 60;
/// The same over IPv6, whose header has 40.
const OVERHEAD_V6: u32 = 80;
/// The least MTU IPv6 works with (RFC 8200 section 5).
const MIN_IPV6: u32 = 1280;
/// The least MTU IPv4 works with (RFC 791), and the largest a TUN device takes (`IP_MAX_MTU`).
const DEVICE_RANGE: (u32, u32) = (68, 65_535);

/// The sizes that follow from the underlay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtu {
    underlay: u32,
}

impl Mtu {
    /// From the underlay's MTU in bytes.
    #[must_use]
    pub fn of_underlay(underlay: u32) -> Self {
        Self { underlay }
    }

    /// Bytes of the largest packet the underlay carries.
    #[must_use]
    pub fn underlay(self) -> u32 {
        self.underlay
    }

    /// MTU of the TUN device, and so of IPv4: the underlay's less 60.
    #[must_use]
    pub fn device(self) -> u32 {
        self.underlay.saturating_sub(OVERHEAD_V4).clamp(DEVICE_RANGE.0, DEVICE_RANGE.1)
    }

    /// MTU of IPv6 routes, the underlay's less 80, since the tunnel may use either family. None below 1,280, the least
    /// IPv6 works with: IPv6 is then unreachable, not plain.
    #[must_use]
    pub fn ipv6(self) -> Option<u32> {
        Some(self.underlay.saturating_sub(OVERHEAD_V6).min(DEVICE_RANGE.1)).filter(|mtu| *mtu >= MIN_IPV6)
    }
}

/// One address of the interface, with its subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) net: IpNet,
    /// True if the kernel takes it as a source now: not while duplicate address detection runs (RFC 4862).
    pub(crate) usable: bool,
    /// True if it is the first choice: not deprecated, not an alias.
    pub(crate) preferred: bool,
}

/// State of the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Underlay {
    pub(crate) mtu: Mtu,
    /// Global addresses, in the kernel's order.
    pub(crate) addresses: Vec<Address>,
    /// Next hops of default routes, but for those that router advertisements made.
    pub(crate) gateways: Vec<IpAddr>,
}

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    /// None, if it is no name that a plan could have.
    pub(crate) name: Option<InterfaceName>,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Packets.
    pub(crate) queue: u32,
    pub(crate) up: bool,
}

impl Link {
    /// The link called `name`.
    pub(crate) fn find(netlink: &mut Netlink, name: InterfaceName) -> io::Result<Option<Self>> {
        let mut query = LinkMessage::default();
        query.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
        Self::ask(netlink, query)
    }

    /// The link of this index, whatever it is called.
    pub(crate) fn by_index(netlink: &mut Netlink, index: u32) -> io::Result<Option<Self>> {
        let mut query = LinkMessage::default();
        query.header.index = index;
        Self::ask(netlink, query)
    }

    fn ask(netlink: &mut Netlink, query: LinkMessage) -> io::Result<Option<Self>> {
        let answers = match netlink.request(RouteNetlinkMessage::GetLink(query), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answers => answers?,
        };
        Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(Self::from(link)),
            _ => None,
        }))
    }
}

impl From<&LinkMessage> for Link {
    fn from(link: &LinkMessage) -> Self {
        let mut found = Self {
            index: link.header.index,
            name: None,
            mtu: 0,
            queue: 0,
            up: link.header.flags.contains(LinkFlags::Up),
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name = name.parse().ok(),
                LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
                LinkAttribute::TxQueueLen(queue) => found.queue = *queue,
                _ => {}
            }
        }
        found
    }
}

impl Underlay {
    /// Reads the state of `link`.
    pub(crate) fn discover(netlink: &mut Netlink, link: Link) -> io::Result<Self> {
        let addresses = dump_addresses(netlink, link)?;
        let mut mtu = link.mtu;
        let mut gateways = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in dump_routes(netlink, family)? {
                if !is_main_unicast(&message) {
                    continue;
                }
                let hops = next_hops(&message, link.index);
                if hops.is_empty() {
                    continue;
                }
                if let Some(limit) = route_mtu(&message) {
                    mtu = mtu.min(limit);
                }
                // A router that made itself known by an advertisement, as anybody on the link may, is nobody's choice.
                let is_chosen = message.header.protocol != RouteProtocol::Ra;
                if message.header.destination_prefix_length == 0 && is_chosen {
                    gateways.extend(hops.into_iter().flatten());
                }
            }
        }
        gateways.sort_unstable();
        gateways.dedup();
        Ok(Self { mtu: Mtu::of_underlay(mtu), addresses, gateways })
    }

    /// The address routes name as source.
    pub(crate) fn source(&self, v4: bool) -> Option<IpAddr> {
        let usable =
            || self.addresses.iter().filter(|address| address.usable && address.net.addr().is_ipv4() == v4);
        usable()
            .find(|address| address.preferred)
            .or_else(|| usable().next())
            .map(|address| address.net.addr())
    }
}

/// The global addresses of a link, in the kernel's order.
pub(crate) fn addresses_of(netlink: &mut Netlink, link: Link) -> io::Result<Vec<IpAddr>> {
    Ok(dump_addresses(netlink, link)?.iter().map(|address| address.net.addr()).collect())
}

fn dump_addresses(netlink: &mut Netlink, link: Link) -> io::Result<Vec<Address>> {
    let all = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let on_link = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewAddress(address) if address.header.index == link.index => address_of(address),
        _ => None,
    };
    Ok(all.iter().filter_map(on_link).collect())
}

/// Routes of all tables, of one family; none where the kernel has not got the family.
pub(crate) fn dump_routes(netlink: &mut Netlink, family: AddressFamily) -> io::Result<Vec<RouteMessage>> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let answers = match netlink.dump(RouteNetlinkMessage::GetRoute(query)) {
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        answers => answers?,
    };
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.address_family == family => Some(route),
            _ => None,
        })
        .collect())
}

/// Tells if the kernel says that it has not got an address family.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// The table a route is in; the header holds numbers up to 255 only.
pub(crate) fn table_of(route: &RouteMessage) -> u32 {
    let attribute = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(route.header.table))
}

/// The MTU a route is limited to.
pub(crate) fn route_mtu(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

/// A route's address as a plain one.
pub(crate) fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn is_main_unicast(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast && table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// The route's next hops through `interface`: one entry each, without an address where it is on the link.
fn next_hops(route: &RouteMessage, interface: u32) -> Vec<Option<IpAddr>> {
    let gateway = |attributes: &[RouteAttribute]| {
        attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip_of(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })
    };
    let mut hops = Vec::new();
    if route.attributes.contains(&RouteAttribute::Oif(interface)) {
        hops.push(gateway(&route.attributes));
    }
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(paths) = attribute {
            let ours = paths.iter().filter(|path| path.interface_index == interface);
            hops.extend(ours.map(|path| gateway(&path.attributes)));
        }
    }
    hops
}

fn address_of(message: &AddressMessage) -> Option<Address> {
    if !matches!(message.header.scope, AddressScope::Universe | AddressScope::Site) {
        return None;
    }
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Flags(more) => flags |= *more,
            // On a point-to-point link IFA_ADDRESS is the other end.
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    let net = IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?;
    let refused = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
    Some(Address {
        net,
        usable: !refused || flags.contains(AddressFlags::Optimistic),
        preferred: !flags.intersects(AddressFlags::Deprecated | AddressFlags::Secondary),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_from_the_underlay() {
        let sizes = |underlay| (Mtu::of_underlay(underlay).device(), Mtu::of_underlay(underlay).ipv6());
        assert_eq!(sizes(1500), (1440, Some(1420)));
        assert_eq!(sizes(1450), (1390, Some(1370)));
        assert_eq!(sizes(1360), (1300, Some(1280)));
        assert_eq!(sizes(1359), (1299, None));
        assert_eq!(sizes(65_536), (65_476, Some(65_456)));
        assert_eq!(sizes(100), (68, None));
    }
}
