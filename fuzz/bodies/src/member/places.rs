//! Addresses of the pods, of the liar and of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tencrypt::TunnelConfig;

use crate::input::Input;

pub(super) const PORT: u16 = TunnelConfig::DEFAULT_PORT;
pub(super) const PODS: [IpAddr; 2] = [v4(1), v4(2)];
pub(super) const PODS_V6: [IpAddr; 2] = [v6(1), v6(2)];
pub(super) const LIAR: IpAddr = v4(3);
/// An address that the network leads to the second pod.
pub(super) const VIP: IpAddr = v4(9);
pub(super) const NOBODY: IpAddr = v4(77);
/// Not of the cluster.
pub(super) const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

const fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

const fn v6(last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
}

/// One of them.
pub(super) fn place(input: &mut Input<'_>) -> IpAddr {
    let all = [PODS[0], PODS[1], LIAR, VIP, NOBODY, OUTSIDE];
    all[input.index(all.len())]
}
