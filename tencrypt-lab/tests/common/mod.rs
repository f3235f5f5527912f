//! The networks the tests of the laboratory use.

use std::net::{Ipv4Addr, Ipv6Addr};

use tencrypt_lab::{Node, Pod, VXLAN_MTU, join};

/// Two nodes, two pods on the first, one on the second; `nodes` in the same order.
pub(crate) struct Network {
    pub(crate) a: Pod,
    pub(crate) b: Pod,
    pub(crate) far: Pod,
    pub(crate) nodes: [Node; 2],
}

impl Network {
    pub(crate) fn new() -> Self {
        let near_node =
            Node::new("10.128.0.1/14".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap();
        let far_node =
            Node::new("10.128.2.1/14".parse().unwrap(), "fd00:128::2:1/64".parse().unwrap()).unwrap();
        join(&near_node, &far_node).unwrap();
        Self {
            a: pod(&near_node, [10, 128, 0, 21], 0x21),
            b: pod(&near_node, [10, 128, 0, 22], 0x22),
            far: pod(&far_node, [10, 128, 2, 23], 0x23),
            nodes: [near_node, far_node],
        }
    }
}

fn pod(node: &Node, v4: [u8; 4], number: u16) -> Pod {
    node.pod(Ipv4Addr::from(v4), Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, number), VXLAN_MTU).unwrap()
}
