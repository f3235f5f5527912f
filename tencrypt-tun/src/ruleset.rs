//! The rules of the two chains.

use netlink_packet_netfilter::nftables::{InetHookNumber, MetaKey, NfTablesMessage};
use tencrypt::UnansweredPolicy;

use crate::{
    MARK,
    name::InterfaceName,
    nft::{
        Base, Expression, Fate, at_most, chain, count, destination_type, differs, equal, extension_header,
        has_extension_header, has_option, in_set, masked, meta, payload, rule, socket_mark, verdict,
    },
    table::{LEAK, LOOP, PLAIN_IN, Set, TABLE},
};

/// Before everything else that looks at incoming packets, connection tracking's -200 included (`NF_IP_PRI_RAW`).
const PRIORITY_IN: i32 = -300;

/// After everything else that may still change a packet, source NAT's 100 included.
const PRIORITY_OUT: i32 = 300;

/// Values of `meta nfproto` (include/uapi/linux/netfilter.h).
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

const IGMP: u8 = 2;
pub(crate) const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// ICMPv6 types: RFC 4443 (too big), RFC 2710 (MLD), RFC 4861 (neighbour discovery), RFC 3810 (MLDv2 report).
const PACKET_TOO_BIG: u8 = 2;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICIT: u8 = 133;
const ROUTER_ADVERT: u8 = 134;
const NEIGHBOUR_SOLICIT: u8 = 135;
const NEIGHBOUR_ADVERT: u8 = 136;
const MLD2_REPORT: u8 = 143;

/// Ports of a DHCP client's message, source and destination (RFC 2131 section 4.1, RFC 8415 section 7.2).
const DHCP_PORTS: [u8; 4] = port_pair(68, 67);
const DHCPV6_PORTS: [u8; 4] = port_pair(546, 547);
/// `BOOTREQUEST`, in the first byte, and the cookie in front of the options (RFC 951, RFC 2131 section 3).
const BOOTREQUEST: u8 = 1;
const DHCP_COOKIE: (u32, [u8; 4]) = (236, [99, 130, 83, 99]);
/// All_DHCP_Relay_Agents_and_Servers, and the last of the messages that a client sends (RFC 8415 sections 7.1, 7.3).
const DHCPV6_SERVERS: [u8; 16] = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
const INFORMATION_REQUEST: u8 = 11;
/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;

/// Types of IPv6 extension headers that send a packet elsewhere first, or divide it (RFC 8200 sections 4.4, 4.5).
const ROUTING_HEADER: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
/// Loose and strict source routes (RFC 791 section 3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// `LOOPBACK_IFINDEX` (include/net/flow.h): the loopback device's in each namespace.
const LOOPBACK: u32 = 1;

/// `RTN_BROADCAST` (include/uapi/linux/rtnetlink.h).
const RTN_BROADCAST: u32 = 3;

/// Parameters of the rules beside the sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) interface: InterfaceName,
    /// Index of the TUN device: its name may come to be another device's.
    pub(crate) tun: u32,
    /// UDP port of the tunnel's first lane, for kernels that cannot look at a packet's socket; the others' follow.
    pub(crate) port: u16,
    pub(crate) lanes: u8,
    pub(crate) unknown: UnansweredPolicy,
    /// True if somebody else has chains that may drop what comes in: then what they drop is counted.
    pub(crate) is_filtered: bool,
}

/// Optional parts of nftables the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    /// `CONFIG_NFT_SOCKET`. Without it the tunnel's ports are let in instead of its sockets, and answers of a nameserver
    /// that counts as protected are dropped.
    pub(crate) socket: bool,
    /// `CONFIG_NFT_FIB_INET`. Without it the interface's own broadcast address is dropped only where it lies in a
    /// protected range.
    pub(crate) fib: bool,
}

impl Features {
    pub(crate) const FROM_BEST: [Self; 4] = [
        Self { socket: true, fib: true },
        Self { socket: true, fib: false },
        Self { socket: false, fib: true },
        Self { socket: false, fib: false },
    ];
}

/// Both chains with their rules, in order.
pub(crate) fn chains(policy: &Policy, features: Features) -> Vec<NfTablesMessage> {
    let mut messages = Vec::new();
    messages.push(chain(TABLE, "in", InetHookNumber::PreRouting, PRIORITY_IN));
    messages.extend(inbound(policy, features).into_iter().map(|steps| rule(TABLE, "in", steps)));
    messages.push(chain(TABLE, "out", InetHookNumber::PostRouting, PRIORITY_OUT));
    messages.extend(outbound(policy, features).into_iter().map(|steps| rule(TABLE, "out", steps)));
    messages
}

/// Packets at a device. All but loopback and the tunnel are such by which the tenant's packets could go in plain: the pod's own
/// interface, another network's, or one that is called otherwise by now.
pub(crate) fn at(key: MetaKey, index: u32) -> Vec<Expression> {
    vec![meta(key), equal(&index.to_ne_bytes())]
}

fn inbound(policy: &Policy, features: Features) -> Vec<Vec<Expression>> {
    // The tunnel first: each packet that an application receives by it is looked at here.
    let inside = [policy.tun, LOOPBACK];
    let mut rules = inside.map(|index| [at(MetaKey::Iif, index), vec![accept()]].concat()).to_vec();
    if features.socket {
        rules.push(vec![socket_mark(), equal(&MARK.to_ne_bytes()), accept()]);
    } else {
        rules.extend(
            (0..policy.lanes).filter_map(|lane| policy.port.checked_add(lane.into())).map(to_udp_port),
        );
    }
    // Later fragments have no ports, and so no socket; the first one has decided for them. Where the pod tracks
    // connections they were put together before this chain.
    for family in FAMILIES {
        rules.push(family.source_in(Set::Nameserver, [family.later_fragment(), vec![accept()]].concat()));
    }
    // A neighbour's advertisement carries its global address as source: without these even the tunnel finds nobody.
    // Off-link senders cannot make a hop limit of 255 (RFC 4861 section 7.1).
    for kind in [NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT, ROUTER_ADVERT] {
        rules.push(icmpv6(kind, true));
    }
    rules.push(icmpv6(PACKET_TOO_BIG, false));
    for family in FAMILIES {
        rules.push(family.source_in(Set::Exempt, vec![accept()]));
        // Proven members of the tenant never speak in plain, whatever wider range they lie in.
        rules.push(family.source_in(Set::Internal, drop_and_count(PLAIN_IN)));
        if policy.unknown == UnansweredPolicy::Drop {
            rules.push(family.source_in(Set::External, vec![accept()]));
            rules.push(family.source_in(Set::Protected, drop_and_count(PLAIN_IN)));
        }
    }
    rules
}

fn outbound(policy: &Policy, features: Features) -> Vec<Vec<Expression>> {
    let mark = MARK.to_ne_bytes();
    // The first rule decides every packet that an application sends into the tunnel: with loop guard and loopback before it,
    // `sendto` takes 1.03 of the time (1,200 bytes, medians of 11 to 15 rounds).
    let mut rules = vec![
        [at(MetaKey::Oif, policy.tun), vec![meta(MetaKey::Mark), differs(&mark), accept()]].concat(),
        // Somebody's route or rule leads the tunnel's own packets into the tunnel, which would seal them again for ever.
        [at(MetaKey::Oif, policy.tun), drop_and_count(LOOP)].concat(),
        vec![meta(MetaKey::Mark), equal(&mark), accept()],
        [at(MetaKey::Oif, LOOPBACK), vec![accept()]].concat(),
    ];
    // Such a packet names its first stop only, which may be exempt, and goes on in plain from there.
    for option in SOURCE_ROUTES {
        rules.push([V4.only(), vec![has_option(option), equal(&[1])], drop_and_count(LEAK)].concat());
    }
    let routed = vec![has_extension_header(ROUTING_HEADER), equal(&[1])];
    rules.push([V6.only(), routed, drop_and_count(LEAK)].concat());
    for kind in [NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT, ROUTER_SOLICIT] {
        rules.push(icmpv6(kind, true));
    }
    for kind in [MLD_QUERY, MLD_REPORT, MLD_DONE, MLD2_REPORT] {
        rules.push(icmpv6(kind, false));
    }
    for family in FAMILIES {
        rules.push(family.destination_in(Set::Exempt, vec![accept()]));
        rules.push(family.destination_in(Set::Internal, drop_and_count(LEAK)));
        rules.push(family.destination_in(Set::External, vec![accept()]));
        rules.push(family.destination_in(Set::Protected, drop_and_count(LEAK)));
    }
    // What follows is to everybody on the link of the tenant's network; on others that is their matter.
    rules.push(vec![meta(MetaKey::Oifname), differs(&policy.interface.padded()), accept()]);
    rules.extend([dhcp_request(), dhcpv6_request()]);
    rules.push([V4.only(), vec![meta(MetaKey::L4Proto), equal(&[IGMP]), accept()]].concat());
    // 224.0.0.0/4, 255.255.255.255, ff00::/8, fe80::/10: everybody on the link, or one behind a route-less address.
    rules.push([V4.destination_masked(&[0xf0], &[0xe0]), drop_and_count(LEAK)].concat());
    rules.push([V4.destination_masked(&[0xff; 4], &[0xff; 4]), drop_and_count(LEAK)].concat());
    if features.fib {
        let broadcast = vec![destination_type(), equal(&RTN_BROADCAST.to_ne_bytes())];
        rules.push([V4.only(), broadcast, drop_and_count(LEAK)].concat());
    }
    rules.push([V6.destination_masked(&[0xff], &[0xff]), drop_and_count(LEAK)].concat());
    rules.push([V6.destination_masked(&[0xff, 0xc0], &[0xfe, 0x80]), drop_and_count(LEAK)].concat());
    rules
}

/// Places of the addresses in a family's header (RFC 791, RFC 8200).
pub(crate) struct Family {
    nfproto: u8,
    source: u32,
    destination: u32,
    bytes: u32,
}

const V4: Family = Family { nfproto: NFPROTO_IPV4, source: 12, destination: 16, bytes: 4 };
const V6: Family = Family { nfproto: NFPROTO_IPV6, source: 8, destination: 24, bytes: 16 };
pub(crate) const FAMILIES: [&Family; 2] = [&V4, &V6];

impl Family {
    fn only(&self) -> Vec<Expression> {
        vec![meta(MetaKey::Nfproto), equal(&[self.nfproto])]
    }

    fn source_in(&self, set: Set, then: Vec<Expression>) -> Vec<Expression> {
        self.address_in(self.source, set, then)
    }

    fn destination_in(&self, set: Set, then: Vec<Expression>) -> Vec<Expression> {
        self.address_in(self.destination, set, then)
    }

    fn address_in(&self, offset: u32, set: Set, then: Vec<Expression>) -> Vec<Expression> {
        [self.only(), self.among(offset, set), then].concat()
    }

    fn among(&self, offset: u32, set: Set) -> Vec<Expression> {
        let name = set.name(self.nfproto == NFPROTO_IPV4);
        vec![payload(Base::Network, offset, self.bytes), in_set(name)]
    }

    /// The source of a packet of this family is in the set.
    pub(crate) fn source_among(&self, set: Set) -> Vec<Expression> {
        self.among(self.source, set)
    }

    /// The packet is of this family, no fragment, and has so many bytes at most.
    pub(crate) fn whole_up_to(&self, bytes: u16) -> Vec<Expression> {
        let steps = match self.nfproto {
            // Total length; more fragments, and offset.
            NFPROTO_IPV4 => vec![
                payload(Base::Network, 2, 2),
                at_most(&bytes.to_be_bytes()),
                payload(Base::Network, 6, 2),
                masked(&[0x3f, 0xff]),
                equal(&[0, 0]),
            ],
            // The length behind the header of 40 bytes.
            _ => vec![
                payload(Base::Network, 4, 2),
                at_most(&(bytes - 40).to_be_bytes()),
                has_extension_header(FRAGMENT_HEADER),
                equal(&[0]),
            ],
        };
        [self.only(), steps].concat()
    }

    /// The packet is a fragment that is not the first of its datagram.
    fn later_fragment(&self) -> Vec<Expression> {
        // 13 bits in units of 8 bytes: at the end of IPv4's field, at the front of IPv6's.
        let (load, mask) = match self.nfproto {
            NFPROTO_IPV4 => (payload(Base::Network, 6, 2), [0x1f, 0xff]),
            _ => (extension_header(FRAGMENT_HEADER, 2, 2), [0xff, 0xf8]),
        };
        vec![load, masked(&mask), differs(&[0, 0])]
    }

    /// The first bytes of the destination, masked, are `wanted`.
    fn destination_masked(&self, mask: &[u8], wanted: &[u8]) -> Vec<Expression> {
        let load = payload(Base::Network, self.destination, mask.len() as u32);
        [self.only(), vec![load, masked(mask), equal(wanted)]].concat()
    }
}

pub(crate) fn accept() -> Expression {
    verdict(Fate::Accept)
}

fn drop_and_count(counter: &str) -> Vec<Expression> {
    vec![count(counter), verdict(Fate::Drop)]
}

fn to_udp_port(port: u16) -> Vec<Expression> {
    vec![
        meta(MetaKey::L4Proto),
        equal(&[UDP]),
        payload(Base::Transport, 2, 2),
        equal(&port.to_be_bytes()),
        accept(),
    ]
}

/// Accepts what a DHCP client without an address, or without its server, says to everybody: by ports, destination and
/// form, since an application may send to port 67 as well.
fn dhcp_request() -> Vec<Expression> {
    let (cookie, magic) = DHCP_COOKIE;
    [
        V4.destination_masked(&[0xff; 4], &[0xff; 4]),
        udp_ports(DHCP_PORTS),
        vec![payload(Base::Transport, UDP_HEADER, 1), equal(&[BOOTREQUEST])],
        vec![payload(Base::Transport, UDP_HEADER + cookie, 4), equal(&magic), accept()],
    ]
    .concat()
}

/// The same for DHCPv6.
fn dhcpv6_request() -> Vec<Expression> {
    [
        V6.destination_masked(&[0xff; 16], &DHCPV6_SERVERS),
        udp_ports(DHCPV6_PORTS),
        vec![payload(Base::Transport, UDP_HEADER, 1), at_most(&[INFORMATION_REQUEST]), accept()],
    ]
    .concat()
}

/// The packet is UDP between these ports.
fn udp_ports(ports: [u8; 4]) -> Vec<Expression> {
    vec![meta(MetaKey::L4Proto), equal(&[UDP]), payload(Base::Transport, 0, 4), equal(&ports)]
}

/// Source and destination port as they stand in a header.
const fn port_pair(source: u16, destination: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    [a, b, c, d]
}

/// Accepts one type of ICMPv6, only from on-link if so wanted.
fn icmpv6(kind: u8, on_link: bool) -> Vec<Expression> {
    let mut steps = [V6.only(), vec![meta(MetaKey::L4Proto), equal(&[ICMPV6])]].concat();
    if on_link {
        steps.extend([payload(Base::Network, 7, 1), equal(&[255])]);
    }
    steps.extend([payload(Base::Transport, 0, 1), equal(&[kind]), accept()]);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(features: Features) -> String {
        let policy = Policy {
            interface: "eth0".parse().expect("name"),
            tun: 7,
            port: 8362,
            lanes: 2,
            unknown: UnansweredPolicy::Drop,
            is_filtered: false,
        };
        format!("{:?}", chains(&policy, features))
    }

    #[test]
    fn a_kernel_without_an_expression_is_not_asked_for_it() {
        let ports = [8362_u16, 8363, 8364].map(|port| format!("{:?}", equal(&port.to_be_bytes())));
        for features in Features::FROM_BEST {
            let shown = shown(features);
            assert_eq!(shown.contains("\"socket\""), features.socket);
            assert_eq!(shown.contains("\"fib\""), features.fib);
            let open = ports.each_ref().map(|port| shown.contains(port));
            let lanes = !features.socket;
            assert_eq!(open, [lanes, lanes, false], "the ports are let in only instead of the sockets");
        }
    }
}
