//! Copies of the interface's addresses on the TUN device.
//!
//! Targets of netfilter that ask the incoming device for an address, `REDIRECT` first among them, drop what comes in on a
//! device without one; so a sidecar would get nothing out of the tunnel. A copy is no more than that: it has no prefix route,
//! and the `local` route that the kernel adds with it is deleted at once, or the pod would go on answering for an address
//! that its interface has lost, and `fib` rules would find the address on the wrong device.

use std::{io, net::IpAddr, thread, time::Duration};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use crate::{
    netlink::{BatchItem, Netlink},
    underlay::{Link, Underlay, addresses_of, dump_routes, ip_of, table_of},
};

/// The kernel adds the `local` route of an IPv6 address later than the address (`addrconf_dad_work`, net/ipv6/addrconf.c), in
/// a millisecond mostly: looks for it, and the pause between two.
const LOOKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// The addresses that the device is to have, in this order: those of the interface that can be used. A target takes the
/// first. IPv6 needs a device of 1,280 bytes at least.
pub(crate) fn wanted(underlay: &Underlay) -> Vec<IpAddr> {
    let usable = underlay.addresses.iter().filter(|address| address.usable).map(|address| address.net.addr());
    usable.filter(|address| address.is_ipv4() || underlay.mtu.ipv6().is_some()).collect()
}

/// Gives the device exactly these global addresses, in this order, without their `local` routes. Returns true if it had others.
pub(crate) fn sync(netlink: &mut Netlink, device: Link, wanted: &[IpAddr]) -> io::Result<bool> {
    let present = addresses_of(netlink, device)?;
    let mut changed = false;
    for is_v4 in [true, false] {
        let of = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|address| address.is_ipv4() == is_v4).collect()
        };
        changed |= sync_family(netlink, device.index, &of(&present), &of(wanted))?;
    }
    // Those that came back when the device went up, or late: the kernel's doing, and nobody's change.
    delete_local_routes(netlink, device.index, wanted)?;
    Ok(changed)
}

fn sync_family(netlink: &mut Netlink, index: u32, present: &[IpAddr], wanted: &[IpAddr]) -> io::Result<bool> {
    if present == wanted {
        return Ok(false);
    }
    let mut kept: Vec<IpAddr> = present.iter().copied().filter(|address| wanted.contains(address)).collect();
    // The kernel puts a new IPv4 address behind the others, a new IPv6 address before them.
    let is_v4 = wanted.iter().chain(present).any(IpAddr::is_ipv4);
    if !(if is_v4 { wanted.starts_with(&kept) } else { wanted.ends_with(&kept) }) {
        kept.clear();
    }
    for address in present.iter().filter(|address| !kept.contains(address)) {
        let gone = netlink.request(RouteNetlinkMessage::DelAddress(copy(index, *address)), 0);
        match gone {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {}
            result => drop(result?),
        }
    }
    let missing: Vec<IpAddr> = if is_v4 {
        wanted[kept.len()..].to_vec()
    } else {
        wanted[..wanted.len() - kept.len()].iter().rev().copied().collect()
    };
    for address in missing {
        add(netlink, index, address)?;
    }
    Ok(true)
}

/// Adds a copy and deletes its `local` route in one message to the kernel.
fn add(netlink: &mut Netlink, index: u32, address: IpAddr) -> io::Result<()> {
    let new = RouteNetlinkMessage::NewAddress(copy(index, address));
    let local = || RouteNetlinkMessage::DelRoute(local_route(index, address));
    let results = netlink.together(vec![
        BatchItem { message: new, flags: NLM_F_CREATE | NLM_F_EXCL },
        BatchItem { message: local(), flags: 0 },
    ])?;
    let mut results = results.into_iter();
    match results.next().unwrap_or(Ok(())) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        // The family is switched off on the device, or the device is on its way out.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EACCES | libc::EPERM | libc::ENODEV | libc::EINVAL)
            ) && address.is_ipv6() =>
        {
            tracing::debug!(%address, %error, "no copy of an address");
            return Ok(());
        }
        result => result?,
    }
    if results.next().is_none_or(|deleted| deleted.is_ok()) {
        return Ok(());
    }
    for _ in 0..LOOKS {
        thread::sleep(PAUSE);
        if netlink.request(local(), 0).is_ok() {
            return Ok(());
        }
    }
    // The next look at the device finds it.
    tracing::debug!(%address, "the local route of a copy did not come");
    Ok(())
}

/// Deletes the `local` routes of these addresses to the device.
fn delete_local_routes(netlink: &mut Netlink, index: u32, addresses: &[IpAddr]) -> io::Result<()> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for route in dump_routes(netlink, family)? {
            let Some(address) = local_address(&route, index).filter(|address| addresses.contains(address))
            else {
                continue;
            };
            match netlink.request(RouteNetlinkMessage::DelRoute(local_route(index, address)), 0) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => {}
                result => drop(result?),
            }
        }
    }
    Ok(())
}

/// The address whose `local` route to the device this is.
fn local_address(route: &RouteMessage, index: u32) -> Option<IpAddr> {
    let is_local = route.header.kind == RouteType::Local
        && table_of(route) == u32::from(libc::RT_TABLE_LOCAL)
        && route.attributes.contains(&RouteAttribute::Oif(index));
    let destination = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    };
    route.attributes.iter().find_map(destination).filter(|_| is_local)
}

fn local_route(index: u32, address: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    let (family, bits, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = bits;
    route.header.table = libc::RT_TABLE_LOCAL;
    route.header.kind = RouteType::Local;
    // Of any scope and protocol.
    route.header.scope = RouteScope::NoWhere;
    route.header.protocol = RouteProtocol::Unspec;
    route.attributes = vec![RouteAttribute::Destination(destination), RouteAttribute::Oif(index)];
    route
}

/// An address alone: no prefix route, no detection of duplicates, which the device could not do, and no end.
fn copy(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    let is_v4 = address.is_ipv4();
    message.header.family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = if is_v4 { 32 } else { 128 };
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.header.flags = AddressHeaderFlags::Permanent | AddressHeaderFlags::Nodad;
    let flags = AddressFlags::Permanent | AddressFlags::Nodad | AddressFlags::Noprefixroute;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(flags),
    ];
    message
}
