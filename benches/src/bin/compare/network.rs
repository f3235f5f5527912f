//! The networks in which is measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tencrypt_lab::{self as lab, NetNs, Node, PLAIN_MTU, Pod, VXLAN_MTU};

use crate::contender::Contender;

/// A network between two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scene {
    /// Two namespaces and a veth pair, MTU 1500.
    Cable,
    /// Pods of two nodes whose bridges VXLAN joins, MTU 1450.
    Vxlan,
    /// As [`Scene::Cable`], and the server is external to the tencrypt of the client.
    External,
}

impl Scene {
    /// The contenders measured here, in the order of the tables.
    pub(crate) fn contenders(self) -> &'static [Contender] {
        match self {
            Self::Cable => &Contender::ALL,
            Self::Vxlan | Self::External => &[Contender::Plain, Contender::Tencrypt, Contender::Against],
        }
    }

    /// The heading of its part of the report.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cable => "Two namespaces and a veth pair, MTU 1500",
            Self::Vxlan => "Pods of two nodes joined by VXLAN, MTU 1450",
            Self::External => "A destination that is external to a tencrypt that runs",
        }
    }

    /// The pod network's ranges, which tencrypt protects: of each family in which the ends have an address.
    pub(crate) fn ranges(self) -> &'static [&'static str] {
        match self {
            Self::Cable | Self::External => &["10.200.0.0/24"],
            Self::Vxlan => &["10.128.0.0/14", "fd00:128::/64"],
        }
    }

    /// Builds it.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub(crate) fn build(self) -> lab::Result<Network> {
        match self {
            Self::Cable | Self::External => {
                let addresses = [1, 2].map(|last| Ipv4Addr::new(10, 200, 0, last));
                let places = [NetNs::new()?, NetNs::new()?];
                let net = |address| ipnet::Ipv4Net::new_assert(address, 24);
                let [one, other] = &places;
                lab::cable([(one, net(addresses[0])), (other, net(addresses[1]))], PLAIN_MTU)?;
                Ok(Network {
                    places: Places::Bare(places),
                    addresses: addresses.map(IpAddr::V4),
                    _nodes: None,
                })
            }
            Self::Vxlan => {
                let [near, far] = [0, 2].map(node);
                let nodes = [near?, far?];
                lab::join(&nodes[0], &nodes[1])?;
                let pods = [pod(&nodes[0], 0)?, pod(&nodes[1], 2)?];
                let addresses = [pods[0].v4(), pods[1].v4()];
                Ok(Network { places: Places::Pods(pods), addresses, _nodes: Some(nodes) })
            }
        }
    }
}

/// The two ends, client first, and what lies between them; gone when dropped.
pub(crate) struct Network {
    places: Places,
    /// Their addresses, of `eth0`.
    pub(crate) addresses: [IpAddr; 2],
    _nodes: Option<[Node; 2]>,
}

enum Places {
    Bare([NetNs; 2]),
    Pods([Pod; 2]),
}

impl Network {
    /// The namespaces of both ends.
    pub(crate) fn ends(&self) -> [&NetNs; 2] {
        match &self.places {
            Places::Bare([one, other]) => [one, other],
            Places::Pods([one, other]) => [one.netns(), other.netns()],
        }
    }
}

fn node(third: u8) -> lab::Result<Node> {
    let v6 = Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, third.into(), 1);
    Node::new(
        ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, 128, third, 1), 14),
        ipnet::Ipv6Net::new_assert(v6, 64),
    )
}

fn pod(node: &Node, third: u8) -> lab::Result<Pod> {
    let v6 = Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, third.into(), 0x21);
    node.pod(Ipv4Addr::new(10, 128, third, 21), v6, VXLAN_MTU)
}
