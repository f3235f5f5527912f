//! Settings of the TUN device's link: size, queue, segments, up and down, and its end.

use std::io;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use rtnetlink::LinkUnspec;

use crate::{name::InterfaceName, netlink::Netlink, underlay::Link};

/// The largest payload of a UDP datagram over IPv4, and so of a GSO send: 65,535 less 20 and 8.
const DATAGRAM: u32 = 65_507;
/// Bytes a record adds to a packet: header 16, tag 16.
const RECORD: u32 = 32;
/// Segments of one GSO send (`UDP_MAX_SEGMENTS`, include/linux/udp.h, before Linux 6.9; twice as many since).
const MAX_SEGMENTS: u32 = 64;

/// Sets MTU and queue length (packets) of a link and brings it up.
pub(crate) fn bring_up(netlink: &mut Netlink, link: Link, mtu: u32, queue: u32) -> io::Result<()> {
    let change = LinkUnspec::new_with_index(link.index).mtu(mtu).txqueuelen(queue).up().build();
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Sets the MTU of a link in bytes.
pub(crate) fn set_mtu(netlink: &mut Netlink, link: Link, mtu: u32) -> io::Result<()> {
    let change = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Limits the super-packets the kernel makes for a link to as many segments as [`segments`] says.
///
/// Larger ones are not refused: `gso_features_check` (net/core/dev.c) then cuts them to single packets. Local TCP heeds
/// the limit when it makes them, so in a pod it costs nothing; on a link that forwards others' super-packets, and for a
/// sender that gives `UDP_SEGMENT` more datagrams at once, it costs all of the offload.
pub(crate) fn limit_segments(netlink: &mut Netlink, link: Link, mtu: u32) -> io::Result<()> {
    let mut change = LinkMessage::default();
    change.header.index = link.index;
    change.attributes.push(LinkAttribute::GsoMaxSegs(segments(mtu)));
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Segments of `mtu` bytes whose records fill no more than one GSO datagram: a super-packet is one send.
fn segments(mtu: u32) -> u32 {
    (DATAGRAM / mtu.saturating_add(RECORD)).clamp(1, MAX_SEGMENTS)
}

/// `IFLA_AF_SPEC`, and in it `IFLA_INET_CONF` and `IFLA_INET6_ADDR_GEN_MODE` (include/uapi/linux/if_link.h).
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
/// `IPV4_DEVCONF_RP_FILTER` (include/uapi/linux/ip.h).
const RP_FILTER: u16 = 8;

/// Sets the IPv4 reverse path filter of a link: by netlink, which needs no `/proc/sys` to write to.
pub(crate) fn set_rp_filter(netlink: &mut Netlink, index: u32, value: u8) -> io::Result<()> {
    let value = attribute(RP_FILTER, &u32::from(value).to_ne_bytes());
    let settings = attribute(IFLA_INET_CONF | NLA_F_NESTED, &value);
    set_family(netlink, index, attribute(libc::AF_INET as u16 | NLA_F_NESTED, &settings))
}

/// Sets how a link makes its IPv6 addresses (`IN6_ADDR_GEN_MODE_*`).
pub(crate) fn set_addr_gen_mode(netlink: &mut Netlink, index: u32, mode: u8) -> io::Result<()> {
    let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[mode]);
    set_family(netlink, index, attribute(libc::AF_INET6 as u16 | NLA_F_NESTED, &mode))
}

fn set_family(netlink: &mut Netlink, index: u32, settings: Vec<u8>) -> io::Result<()> {
    let mut change = LinkMessage::default();
    change.header.index = index;
    change.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_AF_SPEC | NLA_F_NESTED, settings)));
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = [&(length as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Gives a link its name. Before Linux 6.2 it has to be down for that.
pub(crate) fn rename(netlink: &mut Netlink, link: Link, name: InterfaceName) -> io::Result<()> {
    let change = || LinkUnspec::new_with_index(link.index).name(name.as_str().to_owned()).build();
    match netlink.request(RouteNetlinkMessage::SetLink(change()), 0) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            take_down(netlink, link)?;
            netlink.request(RouteNetlinkMessage::SetLink(change()), 0).map(drop)
        }
        result => result.map(drop),
    }
}

/// Takes a link down.
pub(crate) fn take_down(netlink: &mut Netlink, link: Link) -> io::Result<()> {
    let change = LinkUnspec::new_with_index(link.index).down().build();
    netlink.request(RouteNetlinkMessage::SetLink(change), 0).map(drop)
}

/// Removes the TUN device `name`, whoever holds it; false: there is none of this name and kind.
pub(crate) fn remove(netlink: &mut Netlink, name: InterfaceName) -> io::Result<bool> {
    let mut query = LinkMessage::default();
    query.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    let answers = match netlink.request(RouteNetlinkMessage::GetLink(query), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
        answers => answers?,
    };
    let index = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) if is_tun(link) => Some(link.header.index),
        _ => None,
    });
    let Some(index) = index else { return Ok(false) };
    let gone = LinkUnspec::new_with_index(index).build();
    match netlink.request(RouteNetlinkMessage::DelLink(gone), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        result => result.map(|_| true),
    }
}

fn is_tun(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Tun)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_packet_of_records_is_one_datagram() {
        for (mtu, expected) in [(1440, 44), (1420, 45), (8940, 7), (32_721, 2), (32_722, 1), (65_476, 1)] {
            assert_eq!(segments(mtu), expected, "{mtu}");
        }
        assert_eq!((segments(68), segments(u32::MAX)), (64, 1));
    }
}
