//! Packets that come in for the tunnel or by it, and that somebody else's rules drop on the way.
//!
//! A firewall of the pod's own knows nothing of the tunnel: it drops in silence, and behind chain `in`. So packets are counted
//! before all other chains and behind them, and the difference is what others dropped, whatever hook, priority or tool they
//! use. Only small packets that are whole count, since the kernel may put fragments together in between; a first packet of a
//! connection is one.

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey, NfTablesMessage};

use crate::{
    nft::{Base, Expression, at_least, at_most, chain, count, equal, meta, payload, rule},
    ruleset::{FAMILIES, Family, Policy, UDP, accept, at},
    table::{Set, TABLE},
};

/// Bytes of the longest packet out of the device that counts: IPv6's least MTU, so that what was put together is longer.
const SMALL: u16 = 1280;
/// The same of a datagram to the tunnel. A handshake message is one packet always, of up to 1,420 bytes.
const DATAGRAM: u16 = 1500;

/// Packets that somebody else's rules have dropped on their way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Filtered {
    /// Datagrams to the tunnel's ports.
    pub datagrams: u64,
    /// Packets of captured DNS at the device: queries on their way to the proxy, and answers.
    pub names: u64,
    /// Other packets at the device: of the tunnel's peers, to the pod.
    pub packets: u64,
}

/// A kind of packets that are counted at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Datagrams,
    Names,
    Packets,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Datagrams, Self::Names, Self::Packets];

    /// Names of the counters: before all other chains, and behind them.
    pub(crate) fn counters(self) -> [&'static str; 2] {
        match self {
            Self::Datagrams => ["datagrams_before", "datagrams_behind"],
            Self::Names => ["names_before", "names_behind"],
            Self::Packets => ["packets_before", "packets_behind"],
        }
    }
}

/// The chains that count, with their rules. What is translated to another host's passes by way of `forward`.
pub(crate) fn chains(policy: &Policy) -> Vec<NfTablesMessage> {
    let places = [
        ("before", InetHookNumber::PreRouting, i32::MIN),
        ("behind", InetHookNumber::LocalIn, i32::MAX),
        ("behind-forward", InetHookNumber::Forward, i32::MAX),
    ];
    let mut messages = Vec::new();
    for (end, (name, hook, priority)) in [0, 1, 1].into_iter().zip(places) {
        messages.push(chain(TABLE, name, hook, priority));
        for family in FAMILIES {
            messages.extend(rules(family, policy, end).into_iter().map(|steps| rule(TABLE, name, steps)));
        }
    }
    messages
}

fn rules(family: &Family, policy: &Policy, end: usize) -> [Vec<Expression>; 3] {
    let counted = |kind: Kind| vec![count(kind.counters()[end]), accept()];
    let from_tunnel = || at(MetaKey::Iif, policy.tun);
    let last = policy.port.saturating_add(u16::from(policy.lanes.saturating_sub(1)));
    let to_tunnel = vec![
        meta(MetaKey::L4Proto),
        equal(&[UDP]),
        payload(Base::Transport, 2, 2),
        at_least(&policy.port.to_be_bytes()),
        at_most(&last.to_be_bytes()),
    ];
    let small = || family.whole_up_to(SMALL);
    [
        [small(), from_tunnel(), family.source_among(Set::Nameserver), counted(Kind::Names)].concat(),
        [small(), from_tunnel(), counted(Kind::Packets)].concat(),
        [family.whole_up_to(DATAGRAM), to_tunnel, counted(Kind::Datagrams)].concat(),
    ]
}
