//! Devices, addresses and routes of the calling thread's network namespace (rtnetlink(7)).

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::error::{During, Error, Result};
use crate::netlink::{CREATE, Netlink, Request, attributes};
use crate::sys;

/// Ethernet address.
pub type Mac = [u8; 6];

/// UDP port of VXLAN (RFC 7348 section 5).
pub(crate) const VXLAN_PORT: u16 = 4789;

/// Sets a device up.
pub(crate) fn up(name: &str) -> Result<()> {
    set_up(name, true)
}

/// Sets a device up or down.
pub(crate) fn set_up(name: &str, up: bool) -> Result<()> {
    const IFF_UP: u32 = libc::IFF_UP as u32;
    let header = link_header(index(name)?, if up { IFF_UP } else { 0 }, IFF_UP);
    ask(Request::new(libc::RTM_NEWLINK, 0, &header), "set a device up or down")
}

/// Sets the MTU of a device, bytes.
pub(crate) fn set_mtu(name: &str, mtu: u32) -> Result<()> {
    let header = link_header(index(name)?, 0, 0);
    ask(Request::new(libc::RTM_NEWLINK, 0, &header).attr(libc::IFLA_MTU, &mtu.to_ne_bytes()), "set an MTU")
}

/// Puts a device into a bridge.
pub(crate) fn set_master(name: &str, bridge: &str) -> Result<()> {
    let master = index(bridge)?.to_ne_bytes();
    let header = link_header(index(name)?, 0, 0);
    ask(
        Request::new(libc::RTM_NEWLINK, 0, &header).attr(libc::IFLA_MASTER, &master),
        "put a device into a bridge",
    )
}

/// Makes a bridge that forwards at once: no spanning tree, no multicast snooping.
pub(crate) fn add_bridge(name: &str, mac: Mac) -> Result<()> {
    const IFLA_BR_FORWARD_DELAY: u16 = 1;
    const IFLA_BR_STP_STATE: u16 = 5;
    const IFLA_BR_MCAST_SNOOPING: u16 = 23;
    let request = new_link(name).attr(libc::IFLA_ADDRESS, &mac).nest(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "bridge").nest(libc::IFLA_INFO_DATA, |data| {
            data.attr(IFLA_BR_FORWARD_DELAY, &0u32.to_ne_bytes())
                .attr(IFLA_BR_STP_STATE, &0u32.to_ne_bytes())
                .attr(IFLA_BR_MCAST_SNOOPING, &[0])
        })
    });
    ask(request, "make a bridge")
}

/// One end of a veth pair in another namespace.
pub(crate) struct Peer<'a> {
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
}

/// Makes a veth pair: one end here, the other in the peer's namespace.
pub(crate) fn add_veth(name: &str, mac: Mac, peer: &Peer<'_>, mtu: u32) -> Result<()> {
    const VETH_INFO_PEER: u16 = 1;
    let mtu = mtu.to_ne_bytes();
    let request = new_link(name).attr(libc::IFLA_ADDRESS, &mac).attr(libc::IFLA_MTU, &mtu).nest(
        libc::IFLA_LINKINFO,
        |info| {
            info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |other| {
                    other
                        .raw(&link_header(0, 0, 0))
                        .text(libc::IFLA_IFNAME, peer.name)
                        .attr(libc::IFLA_ADDRESS, &peer.mac)
                        .attr(libc::IFLA_MTU, &mtu)
                        .attr(libc::IFLA_NET_NS_FD, &peer.netns.as_raw_fd().to_ne_bytes())
                })
            })
        },
    );
    ask(request, "make a veth pair")
}

/// Makes a VXLAN device with one remote end, which carries every frame (RFC 7348).
pub(crate) fn add_vxlan(
    name: &str,
    mac: Mac,
    vni: u32,
    local: Ipv4Addr,
    remote: Ipv4Addr,
    mtu: u32,
) -> Result<()> {
    const IFLA_VXLAN_ID: u16 = 1;
    const IFLA_VXLAN_GROUP: u16 = 2;
    const IFLA_VXLAN_LOCAL: u16 = 4;
    const IFLA_VXLAN_PORT: u16 = 15;
    let request = new_link(name)
        .attr(libc::IFLA_ADDRESS, &mac)
        .attr(libc::IFLA_MTU, &mtu.to_ne_bytes())
        .nest(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "vxlan").nest(libc::IFLA_INFO_DATA, |data| {
                data.attr(IFLA_VXLAN_ID, &vni.to_ne_bytes())
                    .attr(IFLA_VXLAN_GROUP, &remote.octets())
                    .attr(IFLA_VXLAN_LOCAL, &local.octets())
                    .attr(IFLA_VXLAN_PORT, &VXLAN_PORT.to_be_bytes())
            })
        });
    ask(request, "make a VXLAN device")
}

/// Removes a device.
pub(crate) fn delete(name: &str) -> Result<()> {
    ask(Request::new(libc::RTM_DELLINK, 0, &link_header(index(name)?, 0, 0)), "remove a device")
}

/// Gives a device an address, usable at once (no duplicate address detection).
pub(crate) fn add_address(name: &str, address: IpNet) -> Result<()> {
    const IFA_FLAGS: u16 = 8;
    let request = address_request(libc::RTM_NEWADDR, CREATE, name, address)?;
    let request = match address {
        IpNet::V4(net) => request.attr(libc::IFA_BROADCAST, &net.broadcast().octets()),
        IpNet::V6(_) => request.attr(IFA_FLAGS, &u32::from(libc::IFA_F_NODAD as u8).to_ne_bytes()),
    };
    ask(request, "add an address")
}

/// Takes an address from a device.
pub(crate) fn delete_address(name: &str, address: IpNet) -> Result<()> {
    ask(address_request(libc::RTM_DELADDR, 0, name, address)?, "remove an address")
}

/// Adds a unicast route to the main table.
pub(crate) fn add_route(to: IpNet, gateway: IpAddr) -> Result<()> {
    let request = route_request(libc::RTM_NEWROUTE, CREATE, to).attr(libc::RTA_GATEWAY, &octets(gateway));
    ask(request, "add a route")
}

/// Takes a route out of the main table.
pub(crate) fn delete_route(to: IpNet) -> Result<()> {
    ask(route_request(libc::RTM_DELROUTE, 0, to), "delete a route")
}

fn route_request(kind: u16, flags: u16, to: IpNet) -> Request {
    let (table, protocol, scope) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE);
    let header =
        [family(to.addr()), to.prefix_len(), 0, 0, table, protocol, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    Request::new(kind, flags, &header).attr(libc::RTA_DST, &octets(to.addr()))
}

/// Waits until a device has its IPv6 link-local address and every IPv6 address of it is usable: the kernel finishes
/// them on a work queue of its own, even without duplicate address detection (net/ipv6/addrconf.c).
pub(crate) fn wait_for_v6(name: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(10);
    let index = index(name)?;
    let end = Instant::now() + LIMIT;
    while !v6_is_ready(index).during("look at IPv6 addresses")? {
        if Instant::now() >= end {
            return Err(Error::Timeout { what: "the kernel's setting up of IPv6", limit: LIMIT });
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn v6_is_ready(index: u32) -> io::Result<bool> {
    let v6 = libc::AF_INET6 as u8;
    let mut netlink = Netlink::route()?;
    let mut addresses = Vec::new();
    for (_, body) in netlink.dump(&Request::new(libc::RTM_GETADDR, 0, &[v6, 0, 0, 0, 0, 0, 0, 0]))? {
        // struct ifaddrmsg: family, prefix length, flags, scope, index
        let Some((header, rest)) = body.split_at_checked(8) else { continue };
        if header[4..] == index.to_ne_bytes() {
            let tentative = u32::from(header[2]) & libc::IFA_F_TENTATIVE != 0;
            let address = attributes(rest)
                .find(|(kind, _)| *kind == libc::IFA_ADDRESS)
                .map(|(_, value)| value.to_vec());
            addresses.push((address.unwrap_or_default(), tentative));
        }
    }
    let mut local = Vec::new();
    for (_, body) in
        netlink.dump(&Request::new(libc::RTM_GETROUTE, 0, &[v6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))?
    {
        // struct rtmsg, the type at byte 7
        let Some((header, rest)) = body.split_at_checked(12) else { continue };
        if header[7] == libc::RTN_LOCAL {
            local.extend(
                attributes(rest).find(|(kind, _)| *kind == libc::RTA_DST).map(|(_, value)| value.to_vec()),
            );
        }
    }
    let has_link_local = addresses.iter().any(|(address, _)| address.starts_with(&[0xfe, 0x80]));
    Ok(has_link_local && addresses.iter().all(|(address, tentative)| !tentative && local.contains(address)))
}

/// The index of a device.
pub(crate) fn index(name: &str) -> Result<u32> {
    let text = CString::new(name).map_err(io::Error::other).during("name a device")?;
    match sys::interface_index(&text) {
        0 => Err(io::Error::from_raw_os_error(libc::ENODEV)).during("find a device"),
        index => Ok(index),
    }
}

/// The address's bytes, in network byte order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn address_request(kind: u16, flags: u16, name: &str, address: IpNet) -> Result<Request> {
    let mut header = vec![family(address.addr()), address.prefix_len(), 0, 0];
    header.extend_from_slice(&index(name)?.to_ne_bytes());
    let bytes = octets(address.addr());
    Ok(Request::new(kind, flags, &header).attr(libc::IFA_LOCAL, &bytes).attr(libc::IFA_ADDRESS, &bytes))
}

fn new_link(name: &str) -> Request {
    Request::new(libc::RTM_NEWLINK, CREATE, &link_header(0, 0, 0)).text(libc::IFLA_IFNAME, name)
}

/// struct ifinfomsg
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn ask(request: Request, what: &'static str) -> Result<()> {
    Netlink::route().and_then(|mut netlink| netlink.ask(&request)).during(what)
}
