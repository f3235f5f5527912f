//! State of the kernel as text: routes, rules, addresses, links, settings and nftables.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainMessage, DataAttribute, ListAttribute, NfTablesMessage, RuleMessage, SetElementAttribute,
        SetElementFlags, SetElementList, SetElementMessage, SetMessage, TableMessage,
    },
};
use netlink_packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::LinkAttribute,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric},
    rule::{RuleAttribute, RuleFlags, RuleMessage as RoutingRule},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rtnetlink::IpVersion;

use super::net::{Net, sysctl};

/// Everything a capture could have touched, one fact a line.
pub(crate) fn snapshot(net: &Net) -> Vec<String> {
    let mut lines = Vec::new();
    let links = net.wait(net.handle.link().get().execute().try_collect::<Vec<_>>());
    for link in links {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        let name = name.expect("name");
        lines.push(format!("link {name} {:?}", link.header.flags));
        for key in ["rp_filter", "accept_local", "forwarding"] {
            lines.push(format!("ipv4 {name} {key} {}", sysctl("ipv4", &name, key)));
        }
        for key in ["addr_gen_mode", "accept_ra", "accept_redirects", "autoconf", "mtu"] {
            lines.push(format!("ipv6 {name} {key} {}", sysctl("ipv6", &name, key)));
        }
    }
    for key in ["rp_filter", "forwarding"] {
        lines.push(format!("ipv4 all {key} {}", sysctl("ipv4", "all", key)));
        lines.push(format!("ipv4 default {key} {}", sysctl("ipv4", "default", key)));
    }
    let addresses = net.wait(net.handle.address().get().execute().try_collect::<Vec<_>>());
    for message in addresses {
        let kept = |attribute: &&AddressAttribute| !matches!(attribute, AddressAttribute::CacheInfo(_));
        let attributes: Vec<_> = message.attributes.iter().filter(kept).collect();
        lines.push(format!("address {:?} {attributes:?}", message.header));
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in dump_routes(net, family) {
            let kept = |attribute: &&RouteAttribute| !matches!(attribute, RouteAttribute::CacheInfo(_));
            let attributes: Vec<_> = message.attributes.iter().filter(kept).collect();
            lines.push(format!("route {:?} {attributes:?}", message.header));
        }
    }
    lines.extend(dump_rules(net).into_iter().map(|message| format!("rule {message:?}")));
    lines.extend(nftables().into_iter().map(|message| format!("nft {message:?}")));
    lines.sort();
    lines
}

/// Fails with the lines that differ.
pub(crate) fn assert_same(now: &[String], before: &[String]) {
    let beside = |some: &[String], others: &[String]| -> Vec<String> {
        some.iter().filter(|line| !others.contains(line)).cloned().collect()
    };
    let (gone, new) = (beside(before, now), beside(now, before));
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:#?}\nnew: {new:#?}");
    assert_eq!(now.len(), before.len());
}

/// Routes of table 8362, as `ip route` shows them but for the order.
pub(crate) fn routes_8362(net: &Net) -> Vec<String> {
    let mut lines = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in dump_routes(net, family) {
            if message.attributes.contains(&RouteAttribute::Table(8362)) {
                lines.push(route_line(net, &message));
            }
        }
    }
    lines.sort();
    lines
}

fn route_line(net: &Net, message: &RouteMessage) -> String {
    let mut words = vec![format!("{:?}", message.header.kind).to_lowercase()];
    let (mut destination, mut rest) = (String::from("default"), Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                destination = format!("{}/{}", ip(address), message.header.destination_prefix_length);
            }
            RouteAttribute::Oif(index) if words[0] == "unicast" && *index == net.index("tenc0") => {
                rest.push("dev tenc0".to_owned());
            }
            RouteAttribute::PrefSource(address) => rest.push(format!("src {}", ip(address))),
            RouteAttribute::Priority(metric) => rest.push(format!("metric {metric}")),
            RouteAttribute::Metrics(metrics) => {
                rest.extend(metrics.iter().filter_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(format!("mtu {mtu}")),
                    _ => None,
                }))
            }
            _ => {}
        }
    }
    rest.sort();
    words.push(destination);
    words.extend(rest);
    words.join(" ")
}

fn ip(address: &RouteAddress) -> IpAddr {
    match address {
        RouteAddress::Inet(v4) => (*v4).into(),
        RouteAddress::Inet6(v6) => (*v6).into(),
        other => panic!("not an IP address: {other:?}"),
    }
}

pub(crate) fn dump_routes(net: &Net, family: AddressFamily) -> Vec<RouteMessage> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    let all = net.wait(net.handle.route().get(query).execute().try_collect::<Vec<_>>());
    all.into_iter().filter(|route| route.header.address_family == family).collect()
}

fn dump_rules(net: &Net) -> Vec<RoutingRule> {
    let v4 = net.wait(net.handle.rule().get(IpVersion::V4).execute().try_collect::<Vec<_>>());
    let v6 = net.wait(net.handle.rule().get(IpVersion::V6).execute().try_collect::<Vec<_>>());
    [v4, v6].concat()
}

/// Rules of preference 8362, as family, whether inverted, mark and table.
pub(crate) fn rules_8362(net: &Net) -> Vec<(AddressFamily, bool, Option<u32>, Option<u32>)> {
    let rules =
        dump_rules(net).into_iter().filter(|rule| rule.attributes.contains(&RuleAttribute::Priority(8362)));
    rules
        .map(|rule| {
            let (mut mark, mut table) = (None, None);
            for attribute in &rule.attributes {
                match attribute {
                    RuleAttribute::FwMark(value) => mark = Some(*value),
                    RuleAttribute::Table(value) => table = Some(*value),
                    _ => {}
                }
            }
            (rule.header.family, rule.header.flags.contains(RuleFlags::Invert), mark, table)
        })
        .collect()
}

/// Tables, chains, rules and sets, without their elements.
pub(crate) fn nftables() -> Vec<NfTablesMessage> {
    let mut all = nft_dump(NfTablesMessage::GetTable(TableMessage { attributes: vec![] }));
    all.extend(nft_dump(NfTablesMessage::GetChain(ChainMessage { attributes: vec![] })));
    all.extend(nft_dump(NfTablesMessage::GetRule(RuleMessage { attributes: vec![] })));
    all.extend(nft_dump(NfTablesMessage::GetSet(SetMessage { attributes: vec![] })));
    all
}

/// The elements of a set, as ranges `first-end`, the end excluded; open where there is none.
pub(crate) fn elements(set: &str) -> Vec<String> {
    let query = NfTablesMessage::GetSetElement(SetElementMessage {
        attributes: vec![SetElementList::Table("tencrypt".into()), SetElementList::Set(set.into())],
    });
    let mut edges = Vec::new();
    for message in nft_dump(query) {
        let NfTablesMessage::NewSetElement(list) = message else { continue };
        for attribute in list.attributes {
            let SetElementList::Elements(elements) = attribute else { continue };
            edges.extend(elements.into_iter().filter_map(|element| match element {
                ListAttribute::Element(element) => Some(edge(&element)),
                _ => None,
            }));
        }
    }
    edges.sort();
    let mut ranges: Vec<String> = Vec::new();
    for (address, is_end) in edges {
        match ranges.last_mut() {
            Some(open) if is_end && open.ends_with('-') => open.push_str(&address.to_string()),
            _ if is_end => {}
            _ => ranges.push(format!("{address}-")),
        }
    }
    ranges
}

/// An element's address and whether it ends a range, which sorts before the next range's start.
fn edge(element: &[SetElementAttribute]) -> (IpAddr, bool) {
    let (mut address, mut is_end) = (None, false);
    for attribute in element {
        match attribute {
            SetElementAttribute::Key(DataAttribute::Value(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
                address = v4.or(v6).ok();
            }
            SetElementAttribute::Flags(flags) => is_end = flags.contains(SetElementFlags::IntervalEnd),
            _ => {}
        }
    }
    (address.expect("address"), is_end)
}

fn nft_dump(query: NfTablesMessage) -> Vec<NfTablesMessage> {
    let mut socket = Socket::new(NETLINK_NETFILTER).expect("netfilter socket");
    socket.bind_auto().expect("bind");
    socket.connect(&SocketAddr::new(0, 0)).expect("connect");
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut netlink_header = NetlinkHeader::default();
    netlink_header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message =
        NetlinkMessage::new(netlink_header, NetlinkPayload::from(NetfilterMessage::new(header, query)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).expect("send");
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().expect("answer");
        let mut rest = datagram.as_slice();
        while rest.len() >= 16 {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).expect("nftables message");
            rest = &rest[(message.header.length as usize).next_multiple_of(4).min(rest.len())..];
            match message.payload {
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::NfTables(inner),
                    ..
                }) => {
                    found.push(inner);
                }
                NetlinkPayload::Done(_) => return found,
                NetlinkPayload::Error(error) => panic!("nftables dump: {error:?}"),
                other => panic!("unexpected answer: {other:?}"),
            }
        }
    }
}

/// Applies nftables messages of family inet together.
pub(crate) fn nft_batch(messages: Vec<NfTablesMessage>) {
    nft_batch_with(messages.into_iter().map(|message| (message, NLM_F_CREATE)).collect());
}

/// Applies nftables messages of family inet together, with these flags of each.
pub(crate) fn nft_batch_with(messages: Vec<(NfTablesMessage, u16)>) {
    // `NFNL_MSG_BATCH_BEGIN` and `.._END`, for subsystem nftables (include/uapi/linux/netfilter/nfnetlink.h).
    let edge = |kind: u16| {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend([kind.to_ne_bytes(), NLM_F_REQUEST.to_ne_bytes()].concat());
        bytes.extend([0; 8]);
        bytes.extend([0, 0, 0, 10]);
        bytes
    };
    let mut bytes = edge(16);
    for (message, flags) in messages {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let inner = NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
    bytes.extend(edge(17));
    let mut socket = Socket::new(NETLINK_NETFILTER).expect("netfilter socket");
    socket.bind_auto().expect("bind");
    socket.connect(&SocketAddr::new(0, 0)).expect("connect");
    socket.send(&bytes, 0).expect("send");
    let (answer, _) = socket.recv_from_full().expect("answer");
    let code = i32::from_ne_bytes(*answer[16..].first_chunk().expect("a result"));
    assert_eq!(code, 0, "refused");
}
