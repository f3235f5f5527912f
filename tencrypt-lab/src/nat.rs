//! Address translation as kube-proxy does it, for the calling thread's network namespace: a nftables table per family
//! with a chain for service addresses and one for the way back.
//!
//! Expressions and attributes: include/uapi/linux/netfilter/nf_tables.h. Numbers in them are big endian, registers
//! hold packet data as it is on the wire.

use std::net::IpAddr;

use ipnet::Ipv4Net;

use crate::error::{During, Result};
use crate::link::octets;
use crate::netlink::{Netlink, Request};

const TABLE: &str = "lab-services";
const SERVICES: &str = "services";
const RETURN_PATH: &str = "return-path";
const INPUT: &str = "input";

/// The packets to a service address that are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ports {
    /// Every protocol and port, none changed; ICMP echo too.
    All,
    /// TCP and UDP to these ports: service port, target port. Nothing else, as with kube-proxy.
    Only(Vec<(u16, u16)>),
}

/// Makes the tables. Translated connections leave with the node's own address, so that replies come back this way
/// even where the backend could reach the client directly.
pub(crate) fn prepare() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let masquerade = Rule::new(family, RETURN_PATH).translated_destination().masquerade();
        commit(&[
            family.message(NFT_MSG_NEWTABLE, NEW).text(1, TABLE),
            family.chain(SERVICES, libc::NF_INET_PRE_ROUTING as u32, libc::NF_IP_PRI_NAT_DST),
            family.chain(RETURN_PATH, libc::NF_INET_POST_ROUTING as u32, libc::NF_IP_PRI_NAT_SRC),
            masquerade.request(),
        ])?;
    }
    Ok(())
}

/// Forwards connections to `service` to `backends`, one after the other. All of one address family.
pub(crate) fn forward(service: IpAddr, backends: &[IpAddr], ports: &Ports) -> Result<()> {
    let family = Family::of(service);
    let mut rules = Vec::new();
    for (position, backend) in backends.iter().enumerate() {
        // Each rule takes its share of what the rules before it have left over; the last takes the rest.
        let rest = (backends.len() - position) as u32;
        let to_service = || Rule::new(family, SERVICES).destination(service);
        match ports {
            Ports::All => rules.push(to_service().one_in(rest).send_to(*backend, None)),
            Ports::Only(pairs) => {
                for (port, target) in pairs {
                    for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
                        let chosen = to_service().port(protocol as u8, *port).one_in(rest);
                        rules.push(chosen.send_to(*backend, Some(*target)));
                    }
                }
            }
        }
    }
    commit(&rules.into_iter().map(Rule::request).collect::<Vec<_>>())
}

/// Removes the rules of all services.
pub(crate) fn end_services() -> Result<()> {
    commit(&[Family::V4, Family::V6].map(|family| family.without_rules(SERVICES)))
}

/// Lets translated connections keep their source.
pub(crate) fn keep_sources() -> Result<()> {
    commit(&[Family::V4, Family::V6].map(|family| family.without_rules(RETURN_PATH)))
}

/// Gives packets between two ranges the address of this namespace that is nearest to their destination.
pub(crate) fn masquerade(from: Ipv4Net, to: Ipv4Net) -> Result<()> {
    const SOURCE: u32 = 12;
    const DESTINATION: u32 = 16;
    let rule = Rule::new(Family::V4, RETURN_PATH).in_range(SOURCE, from).in_range(DESTINATION, to);
    commit(&[rule.masquerade().request()])
}

/// Side of a pod at which packets are caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Side {
    /// Packets that come in on any device.
    In,
    /// Packets that the pod's own sockets send.
    Out,
}

/// Mark of the packets that [`Side::Out`] lets by: a sidecar's own, which rules elsewhere know by its user.
pub const SIDECAR_MARK: u32 = 0x51de;

/// Sends what is of `protocol`, to `port` if one is given, to port `to` of this namespace, in both families.
pub(crate) fn redirect(side: Side, protocol: u8, port: Option<u16>, to: u16) -> Result<()> {
    let (chain, hook) = match side {
        Side::In => ("redirect-in", libc::NF_INET_PRE_ROUTING),
        Side::Out => ("redirect-out", libc::NF_INET_LOCAL_OUT),
    };
    for family in [Family::V4, Family::V6] {
        let rule = Rule::new(family, chain);
        let caught = match port {
            Some(port) => rule.port(protocol, port),
            None => rule.protocol(protocol),
        };
        let caught = match side {
            Side::In => caught,
            Side::Out => caught.without_mark(SIDECAR_MARK),
        };
        commit(&[
            family.message(NFT_MSG_NEWTABLE, NEW).text(1, TABLE),
            family.chain(chain, hook as u32, libc::NF_IP_PRI_NAT_DST),
            caught.immediate(REGISTER_1, &to.to_be_bytes()).redirect().request(),
        ])?;
    }
    Ok(())
}

/// Drops what comes in and is of no connection that this namespace began, but for loopback and ICMPv6.
pub(crate) fn firewall() -> Result<()> {
    const NFTA_CHAIN_POLICY: u16 = 5;
    for family in [Family::V4, Family::V6] {
        let chain = family
            .filter(INPUT, libc::NF_INET_LOCAL_IN as u32, libc::NF_IP_PRI_FILTER)
            .attr(NFTA_CHAIN_POLICY, &(libc::NF_DROP as u32).to_be_bytes());
        commit(&[
            family.message(NFT_MSG_NEWTABLE, NEW).text(1, TABLE),
            chain,
            Rule::new(family, INPUT).established().accept().request(),
            Rule::new(family, INPUT).on_loopback().accept().request(),
            Rule::new(family, INPUT).protocol(libc::IPPROTO_ICMPV6 as u8).accept().request(),
        ])?;
    }
    Ok(())
}

/// Has the firewall accept what comes in for this port.
pub(crate) fn let_in(protocol: u8, port: u16) -> Result<()> {
    commit(
        &[Family::V4, Family::V6]
            .map(|family| Rule::new(family, INPUT).port(protocol, port).accept().request()),
    )
}

/// Drops what comes in at a device, before it is known to be for this namespace.
pub(crate) fn drop_at(device: &str) -> Result<()> {
    const DROPPED: &str = "dropped";
    for family in [Family::V4, Family::V6] {
        commit(&[
            family.message(NFT_MSG_NEWTABLE, NEW).text(1, TABLE),
            family.filter(DROPPED, libc::NF_INET_PRE_ROUTING as u32, libc::NF_IP_PRI_MANGLE),
            Rule::new(family, DROPPED).at_device(device).drop().request(),
        ])?;
    }
    Ok(())
}

/// Forgets every connection that this namespace tracks (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
pub(crate) fn forget_connections() -> Result<()> {
    const IPCTNL_MSG_CT_DELETE: u16 = 2;
    let kind = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | IPCTNL_MSG_CT_DELETE;
    let all = Request::new(kind, 0, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
    Netlink::netfilter().and_then(|mut netlink| netlink.ask(&all)).during("forget connections")
}

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NEW: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn number(self) -> u8 {
        match self {
            Self::V4 => libc::NFPROTO_IPV4 as u8,
            Self::V6 => libc::NFPROTO_IPV6 as u8,
        }
    }

    fn message(self, kind: u16, flags: u16) -> Request {
        let subsystem = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
        Request::new(subsystem | kind, flags, &[self.number(), 0, 0, 0])
    }

    fn without_rules(self, chain: &str) -> Request {
        self.message(NFT_MSG_DELRULE, 0).text(1, TABLE).text(2, chain)
    }

    fn chain(self, name: &str, hook: u32, priority: i32) -> Request {
        self.chain_of("nat", name, hook, priority)
    }

    fn filter(self, name: &str, hook: u32, priority: i32) -> Request {
        self.chain_of("filter", name, hook, priority)
    }

    fn chain_of(self, kind: &str, name: &str, hook: u32, priority: i32) -> Request {
        const NFTA_CHAIN_TYPE: u16 = 7;
        self.message(NFT_MSG_NEWCHAIN, NEW)
            .text(1, TABLE)
            .text(3, name)
            .nest(4, |inner| inner.attr(1, &hook.to_be_bytes()).attr(2, &priority.to_be_bytes()))
            .text(NFTA_CHAIN_TYPE, kind)
    }
}

/// A rule being written. Expressions use register 1, the last also 2.
struct Rule {
    family: Family,
    chain: &'static str,
    expressions: Vec<(&'static str, Request)>,
}

const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

impl Rule {
    fn new(family: Family, chain: &'static str) -> Self {
        Self { family, chain, expressions: Vec::new() }
    }

    fn with(mut self, name: &'static str, attributes: impl FnOnce(Request) -> Request) -> Self {
        self.expressions.push((name, attributes(Request::new(0, 0, &[]))));
        self
    }

    /// Compares register 1: operation 0 equal, 1 not equal.
    fn compare(self, operation: u32, value: &[u8]) -> Self {
        self.with("cmp", |e| {
            e.attr(1, &REGISTER_1.to_be_bytes())
                .attr(2, &operation.to_be_bytes())
                .nest(3, |data| data.attr(1, value))
        })
    }

    /// Loads packet bytes into register 1; base 1 is the network header, 2 the transport header.
    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        self.with("payload", |e| {
            e.attr(1, &REGISTER_1.to_be_bytes())
                .attr(2, &base.to_be_bytes())
                .attr(3, &offset.to_be_bytes())
                .attr(4, &length.to_be_bytes())
        })
    }

    fn immediate(self, register: u32, value: &[u8]) -> Self {
        self.with("immediate", |e| e.attr(1, &register.to_be_bytes()).nest(2, |data| data.attr(1, value)))
    }

    fn destination(self, address: IpAddr) -> Self {
        let (offset, length) = if address.is_ipv4() { (16, 4) } else { (24, 16) };
        self.payload(1, offset, length).compare(0, &octets(address))
    }

    /// The IPv4 address at this offset of the header is in a range.
    fn in_range(self, offset: u32, range: Ipv4Net) -> Self {
        self.payload(1, offset, 4).masked(range.netmask().octets()).compare(0, &range.network().octets())
    }

    /// Keeps these bits of register 1.
    fn masked(self, bits: [u8; 4]) -> Self {
        self.with("bitwise", |e| {
            e.attr(1, &REGISTER_1.to_be_bytes())
                .attr(2, &REGISTER_1.to_be_bytes())
                .attr(3, &4u32.to_be_bytes())
                .nest(4, |mask| mask.attr(1, &bits))
                .nest(5, |xor| xor.attr(1, &[0; 4]))
        })
    }

    fn port(self, protocol: u8, port: u16) -> Self {
        self.protocol(protocol).payload(2, 2, 2).compare(0, &port.to_be_bytes())
    }

    fn protocol(self, protocol: u8) -> Self {
        const NFT_META_L4PROTO: u32 = 16;
        self.meta(NFT_META_L4PROTO).compare(0, &[protocol])
    }

    fn without_mark(self, mark: u32) -> Self {
        const NFT_META_MARK: u32 = 3;
        self.meta(NFT_META_MARK).compare(1, &mark.to_ne_bytes())
    }

    fn on_loopback(self) -> Self {
        const NFT_META_IIFTYPE: u32 = 8;
        self.meta(NFT_META_IIFTYPE).compare(0, &libc::ARPHRD_LOOPBACK.to_ne_bytes())
    }

    fn meta(self, key: u32) -> Self {
        self.with("meta", |e| e.attr(2, &key.to_be_bytes()).attr(1, &REGISTER_1.to_be_bytes()))
    }

    /// Connections that are known: ct state & (ESTABLISHED | RELATED).
    fn established(self) -> Self {
        const NFT_CT_STATE: u32 = 0;
        const KNOWN: u32 = 1 << 1 | 1 << 2;
        self.with("ct", |e| e.attr(2, &NFT_CT_STATE.to_be_bytes()).attr(1, &REGISTER_1.to_be_bytes()))
            .masked(KNOWN.to_ne_bytes())
            .compare(1, &0u32.to_ne_bytes())
    }

    fn at_device(self, name: &str) -> Self {
        const NFT_META_IIFNAME: u32 = 6;
        let mut padded = name.as_bytes().to_vec();
        padded.resize(libc::IFNAMSIZ, 0);
        self.meta(NFT_META_IIFNAME).compare(0, &padded)
    }

    fn accept(self) -> Self {
        self.verdict(libc::NF_ACCEPT)
    }

    fn drop(self) -> Self {
        self.verdict(libc::NF_DROP)
    }

    fn verdict(self, code: i32) -> Self {
        let code = (code as u32).to_be_bytes();
        // Register 0 is the verdict's; data attribute 2 is a verdict, whose attribute 1 is its code.
        self.with("immediate", |e| {
            e.attr(1, &0u32.to_be_bytes()).nest(2, |data| data.nest(2, |verdict| verdict.attr(1, &code)))
        })
    }

    /// To the port in register 1, at the address of the device that the packet came in on.
    fn redirect(self) -> Self {
        self.with("redir", |e| e.attr(1, &REGISTER_1.to_be_bytes()))
    }

    fn one_in(self, count: u32) -> Self {
        const NFT_NG_INCREMENTAL: u32 = 0;
        if count < 2 {
            return self;
        }
        self.with("numgen", |e| {
            e.attr(1, &REGISTER_1.to_be_bytes())
                .attr(2, &count.to_be_bytes())
                .attr(3, &NFT_NG_INCREMENTAL.to_be_bytes())
                .attr(4, &0u32.to_be_bytes())
        })
        .compare(0, &0u32.to_ne_bytes())
    }

    /// Connections whose destination this namespace has translated: ct status & IPS_DST_NAT.
    fn translated_destination(self) -> Self {
        const NFT_CT_STATUS: u32 = 2;
        const IPS_DST_NAT: u32 = 1 << 5;
        self.with("ct", |e| e.attr(2, &NFT_CT_STATUS.to_be_bytes()).attr(1, &REGISTER_1.to_be_bytes()))
            .masked(IPS_DST_NAT.to_ne_bytes())
            .compare(1, &0u32.to_ne_bytes())
    }

    fn masquerade(self) -> Self {
        self.with("masq", |e| e)
    }

    fn send_to(self, backend: IpAddr, port: Option<u16>) -> Self {
        const NFT_NAT_DNAT: u32 = 1;
        let family = u32::from(self.family.number());
        let mut rule = self.immediate(REGISTER_1, &octets(backend));
        if let Some(port) = port {
            // Registers are 16 bytes wide, so an IPv6 address in register 1 leaves register 2 alone.
            rule = rule.immediate(REGISTER_2, &port.to_be_bytes());
        }
        rule.with("nat", |e| {
            let e = e
                .attr(1, &NFT_NAT_DNAT.to_be_bytes())
                .attr(2, &family.to_be_bytes())
                .attr(3, &REGISTER_1.to_be_bytes());
            if port.is_some() { e.attr(5, &REGISTER_2.to_be_bytes()) } else { e }
        })
    }

    fn request(self) -> Request {
        const NFTA_LIST_ELEM: u16 = 1;
        self.family.message(NFT_MSG_NEWRULE, APPEND).text(1, TABLE).text(2, self.chain).nest(4, |mut list| {
            for (name, attributes) in &self.expressions {
                list = list
                    .nest(NFTA_LIST_ELEM, |e| e.text(1, name).nest(2, |data| data.raw(attributes.body())));
            }
            list
        })
    }
}

fn commit(requests: &[Request]) -> Result<()> {
    // struct nfgenmsg; its last field is the subsystem the transaction is for.
    let header = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
    let begin = Request::new(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, &header);
    let end = Request::new(libc::NFNL_MSG_BATCH_END as u16, 0, &header);
    Netlink::netfilter()
        .and_then(|mut netlink| netlink.transact(&begin, requests, &end))
        .during("set up address translation")
}
