//! A look at a namespace that changes nothing: an interface, and what there is of a capture.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    enforce::Enforcement,
    error::{At as _, CaptureError, Occupied, Step},
    name::InterfaceName,
    netlink::Netlink,
    routing,
    underlay::{Link, Mtu, Underlay},
};

/// The presence of a capture in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Captured {
    /// None.
    No,
    /// Its program is gone: chains and unreachable routes stand, and protected traffic gets an error.
    Closed,
    /// Routes lead to a device: a program holds it.
    Running,
}

/// An interface as a capture would find it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Surveyed {
    /// The sizes that follow from its MTU.
    pub mtu: Mtu,
    /// Its global addresses that can be used now.
    pub addresses: Vec<IpAddr>,
    /// Its global addresses that cannot be used yet: duplicate address detection runs, or has failed.
    pub tentative: Vec<IpAddr>,
    /// The default gateways on it.
    pub gateways: Vec<IpAddr>,
}

/// State of a namespace as [`Capture::install`](crate::Capture::install) would find it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// The interface; `None`: there is none of that name.
    pub interface: Option<Surveyed>,
    /// True if there is a device of the TUN device's name.
    pub device: bool,
    /// The presence of a capture.
    pub captured: Captured,
    /// Something of somebody else's that is where the capture has to go.
    pub occupied: Option<Occupied>,
}

impl Survey {
    /// Looks at the calling thread's namespace: at `interface`, at the name `tun`, and for a capture. Nothing is changed.
    ///
    /// # Errors
    /// [`CaptureError`]; without CAP_NET_ADMIN in the namespace it is one of permission.
    pub fn take(interface: InterfaceName, tun: InterfaceName) -> Result<Self, CaptureError> {
        let netlink = &mut Netlink::open(NETLINK_ROUTE).at(Step::Connect, interface)?;
        let table = Enforcement::open().and_then(|mut nft| nft.saved()).at(Step::Chains, interface)?;
        let leads = routing::leads_to_device(netlink).at(Step::Routes, interface)?;
        let captured = match table {
            _ if leads => Captured::Running,
            Some(Some(_)) => Captured::Closed,
            Some(None) | None => Captured::No,
        };
        let link = Link::find(netlink, interface).at(Step::Discover, interface)?;
        let underlay = link.map(|link| Underlay::discover(netlink, link).at(Step::Discover, interface));
        let underlay = underlay.transpose()?;
        let device = Link::find(netlink, tun).at(Step::Discover, tun)?.is_some();
        let occupied = routing::occupied(netlink).at(Step::Discover, interface)?;
        let interface = underlay.map(|underlay| {
            let of = |usable| {
                let addresses = underlay.addresses.iter().filter(move |address| address.usable == usable);
                addresses.map(|address| address.net.addr()).collect()
            };
            Surveyed {
                mtu: underlay.mtu,
                addresses: of(true),
                tentative: of(false),
                gateways: underlay.gateways.clone(),
            }
        });
        let occupied = occupied.or((table == Some(None)).then_some(Occupied::NftTable));
        Ok(Self { interface, device, captured, occupied })
    }
}
