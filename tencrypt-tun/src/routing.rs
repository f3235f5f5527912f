//! The capture's routing table and the rule that leads to it.
//!
//! Rule 8362, `not fwmark 0x8362 lookup 8362`, comes before the main table's. Table 8362 sends the protected ranges
//! and the nameservers to the TUN device, throws exempt and external destinations back to the main table, and holds an
//! `unreachable` twin of everything that goes to the device: when the device goes, the answer is an error, not plain
//! text. Everything here carries a route protocol number of its own, so that it can be told from other people's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use rtnetlink::RouteMessageBuilder;
use tencrypt::{IpNet, TunnelConfig};

use crate::{
    MARK,
    error::Occupied,
    netlink::Netlink,
    underlay::{dump_routes, ip_of, is_unsupported, route_mtu, table_of},
};

/// Number of the routing table: the tunnel's default port, so that `ip rule` explains itself.
pub(crate) const TABLE: u32 = TunnelConfig::DEFAULT_PORT as u32;
/// Preference of the rule, unless somebody's has to come after it.
pub(crate) const PREFERENCE: u32 = TABLE;

/// Route protocol of all this crate makes; unused in include/uapi/linux/rtnetlink.h and iproute2's rt_protos.
const PROTOCOL: u8 = 83;

/// Metric of the unreachable routes, worse than any the kernel or iproute2 picks: `ip route`'s own example.
const UNREACHABLE_METRIC: u32 = 4_278_198_272;
/// Metric of IPv6 routes to the device; 0 would be taken for the default, 1024. IPv4 knows 0.
const DEVICE_METRIC_V6: u32 = 1;

/// Destination of a prefix in table 8362.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nowhere, with an error: the twin of `Device`, installed first and consulted last.
    Unreachable,
    /// To the TUN device, with this source; IPv6 has its own MTU.
    Device { index: u32, source: IpAddr, mtu: Option<u32> },
    /// Back to the tables after this one.
    Throw,
}

/// One route of table 8362. The order is the one to install in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) kind: Kind,
    pub(crate) prefix: IpNet,
}

/// Purpose of a prefix's routes. The device's twin routes follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Capture,
    Throw,
}

/// The device as the routes of one family need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) index: u32,
    pub(crate) source: IpAddr,
    pub(crate) mtu: Option<u32>,
}

/// The routes that serve `purposes`. A family without a `via` (no address, device down) keeps its unreachable routes.
pub(crate) fn routes(
    purposes: &BTreeMap<IpNet, Purpose>,
    v4: Option<Via>,
    v6: Option<Via>,
) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    for (&prefix, purpose) in purposes {
        let via = if prefix.addr().is_ipv4() { v4 } else { v6 };
        match purpose {
            Purpose::Throw => {
                routes.insert(Route { kind: Kind::Throw, prefix });
            }
            Purpose::Capture => {
                routes.insert(Route { kind: Kind::Unreachable, prefix });
                routes.extend(via.map(|Via { index, source, mtu }| Route {
                    kind: Kind::Device { index, source, mtu },
                    prefix,
                }));
            }
        }
    }
    routes
}

/// Work that [`sync`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Synced {
    /// True if a route was added or removed.
    pub(crate) changed: bool,
    /// Routes the kernel does not take yet: to a device that just went down, from an address that just became
    /// tentative, in a family that is switched off. They fail closed, and the event that changes it comes.
    pub(crate) deferred: usize,
}

/// Installs what is missing of `wanted` and removes what is there beside it, whoever made it: a route of somebody else's in
/// this table leads protected traffic past the device.
pub(crate) fn sync(netlink: &mut Netlink, wanted: &BTreeSet<Route>) -> io::Result<Synced> {
    let mut synced = Synced::default();
    let mut present = BTreeSet::new();
    for (message, route) in installed(netlink)? {
        match route {
            Some(route) if wanted.contains(&route) && present.insert(route) => {}
            _ => {
                remove_route(netlink, message)?;
                synced.changed = true;
            }
        }
    }
    for route in wanted.difference(&present) {
        match add(netlink, *route) {
            Ok(()) => synced.changed = true,
            Err(error) if is_transient(*route, &error) => {
                tracing::debug!(?route, %error, "route deferred");
                synced.deferred += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(synced)
}

/// The routes that are in the table; none for one that is not of this crate's making.
pub(crate) fn present(netlink: &mut Netlink) -> io::Result<Vec<Option<Route>>> {
    Ok(installed(netlink)?.into_iter().map(|(_, route)| route).collect())
}

/// Installs one route; one that exists is fine.
pub(crate) fn add(netlink: &mut Netlink, route: Route) -> io::Result<()> {
    match netlink.request(RouteNetlinkMessage::NewRoute(message_of(route)), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.map(drop),
    }
}

/// Removes one route; one that is gone is fine.
pub(crate) fn remove(netlink: &mut Netlink, route: Route) -> io::Result<()> {
    remove_route(netlink, message_of(route))
}

/// Removes all of this crate's routes of the table that `which` selects; returns how many there were.
pub(crate) fn clear(netlink: &mut Netlink, which: impl Fn(Option<Kind>) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for (message, route) in installed(netlink)? {
        if is_own_route(&message) && which(route.map(|route| route.kind)) {
            remove_route(netlink, message)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Finds somebody else's use of the rule's preference or the table.
pub(crate) fn occupied(netlink: &mut Netlink) -> io::Result<Option<Occupied>> {
    for family in FAMILIES {
        let foreign = |rule: &RuleMessage| preference(rule) == Some(PREFERENCE) && !is_own_rule(rule);
        if dump_rules(netlink, family)?.iter().any(foreign) {
            return Ok(Some(Occupied::Rule));
        }
        let foreign = |route: &RouteMessage| table_of(route) == TABLE && !is_own_route(route);
        if dump_routes(netlink, family)?.iter().any(foreign) {
            return Ok(Some(Occupied::RoutingTable));
        }
    }
    Ok(None)
}

/// Removes the rules; returns how many there were.
pub(crate) fn remove_rules(netlink: &mut Netlink) -> io::Result<usize> {
    let mut removed = 0;
    for family in FAMILIES {
        for rule in dump_rules(netlink, family)?.into_iter().filter(is_own_rule) {
            gone_is_fine(netlink.request(RouteNetlinkMessage::DelRule(rule), 0).map(drop))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Both families, IPv4 first.
pub(crate) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Tells if a route of this crate's leads to a device, as while a capture runs.
pub(crate) fn leads_to_device(netlink: &mut Netlink) -> io::Result<bool> {
    let leads = |route: Option<Route>| matches!(route, Some(Route { kind: Kind::Device { .. }, .. }));
    Ok(installed(netlink)?.into_iter().any(|(_, route)| leads(route)))
}

/// The routes in the table; without a [`Route`] where one is not of this crate's making.
fn installed(netlink: &mut Netlink) -> io::Result<Vec<(RouteMessage, Option<Route>)>> {
    let mut routes = Vec::new();
    for family in FAMILIES {
        let there = dump_routes(netlink, family)?.into_iter().filter(|route| table_of(route) == TABLE);
        routes.extend(there.map(|message| {
            let route = route_of(&message).filter(|route| is_whole(&message, *route));
            (message, route)
        }));
    }
    Ok(routes)
}

/// Tells if a message says of a route what [`message_of`] does, and nothing else: no gateway, scope, type of service or
/// metric of somebody's.
fn is_whole(message: &RouteMessage, route: Route) -> bool {
    let wanted = message_of(route);
    let header = |message: &RouteMessage| {
        (message.header.kind, message.header.scope, message.header.tos, message.header.source_prefix_length)
    };
    // What the kernel reports beside what it was told.
    let is_said = |attribute: &&RouteAttribute| match attribute {
        RouteAttribute::CacheInfo(_) | RouteAttribute::Preference(_) | RouteAttribute::Table(_) => false,
        RouteAttribute::Oif(_) => matches!(route.kind, Kind::Device { .. }),
        RouteAttribute::Priority(_) => !matches!(route.kind, Kind::Throw),
        RouteAttribute::Metrics(_) => matches!(route.kind, Kind::Device { .. }),
        _ => true,
    };
    let is_v4 = message.header.address_family == AddressFamily::Inet;
    let is_scoped = !is_v4 || header(message).1 == header(&wanted).1;
    is_own_route(message)
        && is_scoped
        && (header(message).0, header(message).2, header(message).3)
            == (header(&wanted).0, header(&wanted).2, header(&wanted).3)
        && message.attributes.iter().filter(is_said).all(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => {
                metrics.iter().all(|metric| matches!(metric, RouteMetric::Mtu(_)))
            }
            other => wanted.attributes.contains(other) || matches!(other, RouteAttribute::Destination(_)),
        })
}

fn remove_route(netlink: &mut Netlink, message: RouteMessage) -> io::Result<()> {
    gone_is_fine(netlink.request(RouteNetlinkMessage::DelRoute(message), 0).map(drop))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => {
            Ok(())
        }
        result => result,
    }
}

/// Tells if an event will come after which the route may be taken.
pub(crate) fn is_transient(route: Route, error: &io::Error) -> bool {
    let v6 = route.prefix.addr().is_ipv6();
    match (route.kind, error.raw_os_error()) {
        // The device is down or gone.
        (Kind::Device { .. }, Some(libc::ENETDOWN | libc::ENODEV | libc::ENETUNREACH)) => true,
        // The source is tentative or gone: fib_valid_prefsrc, ip6_route_info_create.
        (Kind::Device { .. }, Some(libc::EINVAL)) => true,
        // IPv6 is switched off on the device, or on loopback, which unreachable routes hang on.
        (_, Some(libc::EACCES | libc::ENODEV | libc::ENETDOWN)) => v6,
        (_, Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => v6,
        _ => false,
    }
}

fn message_of(route: Route) -> RouteMessage {
    let prefix = route.prefix;
    // The builder refuses only prefixes longer than the address and sources of the other family; an IpNet has no such
    // length, and a device's source is chosen by the prefix's family.
    let empty = RouteMessageBuilder::<IpAddr>::new();
    let mut builder = empty
        .clone()
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .unwrap_or(empty)
        .table_id(TABLE)
        .protocol(RouteProtocol::Other(PROTOCOL));
    match route.kind {
        Kind::Unreachable => builder = builder.kind(RouteType::Unreachable).priority(UNREACHABLE_METRIC),
        Kind::Throw => builder = builder.kind(RouteType::Throw),
        Kind::Device { index, source, mtu } => {
            builder = builder.kind(RouteType::Unicast).output_interface(index);
            if prefix.addr().is_ipv4() {
                // With the scope of a link they would serve as way to a next hop: a route that somebody sets `via` a
                // protected gateway, without a device, would lead into the tunnel, the tunnel's own packets with it.
                builder = builder.scope(RouteScope::Universe);
            } else {
                builder = builder.priority(DEVICE_METRIC_V6);
            }
            let attributes = &mut builder.get_mut().attributes;
            attributes.push(RouteAttribute::PrefSource(source.into()));
            attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        }
    }
    builder.build()
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let v4 = message.header.address_family == AddressFamily::Inet;
    let (mut destination, mut source, mut index, mut metric) = (None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let whole: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let prefix = IpNet::new(destination.unwrap_or(whole), message.header.destination_prefix_length).ok()?;
    let kind = match message.header.kind {
        RouteType::Unreachable if metric == UNREACHABLE_METRIC => Kind::Unreachable,
        RouteType::Throw => Kind::Throw,
        RouteType::Unicast if message.header.scope == RouteScope::Universe => {
            Kind::Device { index: index?, source: source?, mtu: route_mtu(message) }
        }
        _ => return None,
    };
    Some(Route { kind, prefix })
}

fn is_own_route(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(PROTOCOL)
}

/// The rule of a family: everything but the tunnel's own packets looks into the table.
pub(crate) fn rule(family: AddressFamily, preference: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.header.flags = RuleFlags::Invert;
    rule.attributes = vec![
        RuleAttribute::Priority(preference),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::Table(TABLE),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    rule
}

/// Tells this crate's rule from others, whatever its preference.
pub(crate) fn is_own_rule(rule: &RuleMessage) -> bool {
    rule.header.flags.contains(RuleFlags::Invert)
        && rule.header.action == RuleAction::ToTable
        && [
            RuleAttribute::FwMark(MARK),
            RuleAttribute::Table(TABLE),
            RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
        ]
        .iter()
        .all(|wanted| rule.attributes.contains(wanted))
}

/// The preference of a rule; the kernel leaves out 0.
pub(crate) fn preference(rule: &RuleMessage) -> Option<u32> {
    rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    })
}

/// Rules of a family in the kernel's order; none where it has not got the family.
pub(crate) fn dump_rules(netlink: &mut Netlink, family: AddressFamily) -> io::Result<Vec<RuleMessage>> {
    let mut query = RuleMessage::default();
    query.header.family = family;
    let answers = match netlink.dump(RouteNetlinkMessage::GetRule(query)) {
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        answers => answers?,
    };
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(rule) if rule.header.family == family => Some(rule),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpNet {
        text.parse().expect("prefix")
    }

    #[test]
    fn every_kind_of_route_is_recognised_in_its_own_message() {
        let v4 = Kind::Device { index: 7, source: IpAddr::from([10, 0, 0, 5]), mtu: None };
        let v6 =
            Kind::Device { index: 7, source: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5]), mtu: Some(1420) };
        for (text, device) in [("10.0.0.0/8", v4), ("0.0.0.0/0", v4), ("fd00::/16", v6), ("::/0", v6)] {
            for kind in [Kind::Unreachable, device, Kind::Throw] {
                let route = Route { kind, prefix: prefix(text) };
                let message = message_of(route);
                assert_eq!(route_of(&message), Some(route));
                assert!(is_own_route(&message));
                assert_eq!(table_of(&message), TABLE);
            }
        }
    }

    #[test]
    fn a_family_without_a_device_is_unreachable_and_not_plain() {
        let purposes = BTreeMap::from([
            (prefix("10.0.0.0/8"), Purpose::Capture),
            (prefix("10.0.0.1/32"), Purpose::Throw),
            (prefix("fd00::/16"), Purpose::Capture),
        ]);
        let via = Via { index: 7, source: IpAddr::from([10, 0, 0, 5]), mtu: None };
        let kinds: Vec<_> =
            routes(&purposes, Some(via), None).into_iter().map(|route| (route.prefix, route.kind)).collect();
        assert_eq!(
            kinds,
            [
                (prefix("10.0.0.0/8"), Kind::Unreachable),
                (prefix("fd00::/16"), Kind::Unreachable),
                (prefix("10.0.0.0/8"), Kind::Device { index: 7, source: via.source, mtu: None }),
                (prefix("10.0.0.1/32"), Kind::Throw),
            ]
        );
    }
}
