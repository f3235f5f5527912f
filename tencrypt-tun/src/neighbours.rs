//! Packets that wait for a neighbour's link-layer address.
//!
//! They wait behind all hooks: what an application sent before the chains stood, or while somebody had flushed them, would
//! leave in plain when the neighbour answers, seconds later.

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use crate::netlink::Netlink;

/// Drops what waits for any neighbour, but at the TUN device; returns how many neighbours had to be asked anew.
pub(crate) fn drop_waiting(netlink: &mut Netlink, tun: u32) -> io::Result<usize> {
    let mut dropped = 0;
    for answer in netlink.dump(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
        let RouteNetlinkMessage::NewNeighbour(neighbour) = answer else { continue };
        let index = neighbour.header.ifindex;
        if index == tun || neighbour.header.state != NeighbourState::Incomplete {
            continue;
        }
        let mut gone = NeighbourMessage::default();
        gone.header.family = neighbour.header.family;
        gone.header.ifindex = index;
        let is_destination =
            |attribute: &NeighbourAttribute| matches!(attribute, NeighbourAttribute::Destination(_));
        gone.attributes = neighbour.attributes.into_iter().filter(is_destination).collect();
        match netlink.request(RouteNetlinkMessage::DelNeighbour(gone), 0) {
            // Found, or given up, meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => {
                result?;
                dropped += 1;
            }
        }
    }
    Ok(dropped)
}
