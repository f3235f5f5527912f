//! Devices, addresses and routes of the calling thread's network namespace (rtnetlink(7)).

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use ipnet::IpNet;

use crate::error::{During, Result};
use crate::netlink::{CREATE, Netlink, Request};
use crate::netns::NetNs;
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
    pub(crate) netns: &'a NetNs,
    pub(crate) name: &'a str,
    pub(crate) mac: Mac,
}

/// Makes a veth pair: one end here, the other in the peer's namespace.
pub(crate) fn add_veth(name: &str, mac: Mac, peer: &Peer<'_>, mtu: u32) -> Result<()> {
    const VETH_INFO_PEER: u16 = 1;
    let mtu = mtu.to_ne_bytes();
    let there = std::fs::File::open(peer.netns.path()).during("open a network namespace")?;
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
                        .attr(libc::IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes())
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
    let family = family(gateway);
    let scope = libc::RT_SCOPE_UNIVERSE;
    let header = [
        family,
        to.prefix_len(),
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        scope,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let request = Request::new(libc::RTM_NEWROUTE, CREATE, &header)
        .attr(libc::RTA_DST, &octets(to.addr()))
        .attr(libc::RTA_GATEWAY, &octets(gateway));
    ask(request, "add a route")
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
