//! The tunnel's own packets in a namespace where somebody else translates addresses.
//!
//! A sidecar's `REDIRECT` catches what the program sends, and what comes in for it. The first NAT hook that binds a
//! connection wins (`nf_nat_initialized`), so chains before everybody else's translate the tunnel's own packets to what they
//! are. Not `notrack`: a firewall of the pod that lets established connections pass would no longer know them. A NAT chain
//! switches connection tracking on, so there are none where nobody else has one.

use std::{collections::BTreeMap, io};

use netlink_packet_core::{NLA_F_NESTED, NLM_F_APPEND, NLM_F_CREATE, NlasIterator};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{InetHookNumber, MetaKey, NfTablesMessage},
};

use crate::{
    MARK,
    netlink::{BatchItem, Netlink},
    nft::{self, Base, ChainType, Expression, Nat, chain_of, equal, meta, nat, payload, rule, socket_mark},
    table_state::{TableFault, TableState},
};

/// The table's name; its family is `inet`.
pub(crate) const TABLE: &str = "tencrypt_nat";

/// Before destination NAT at -100 and source NAT at 100 of anybody else; NAT chains may not be before -200
/// (`nf_tables_api.c`).
const PRIORITY_DESTINATION: i32 = -150;
const PRIORITY_SOURCE: i32 = 50;

/// Family, place and length of the addresses in a header (RFC 791, RFC 8200).
const FAMILIES: [(u8, u32, u32, u32); 2] = [(2, 12, 16, 4), (10, 8, 24, 16)];

/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE`, and attributes of entries
/// (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const GET_ENTRIES: u16 = 1 << 8 | 1;
const DELETE_ENTRY: u16 = 1 << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_TYPE_MASK: u16 = 0x3fff;
const UDP: u8 = 17;
/// Bytes of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

/// Ports of the tunnel: the first, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) first: u16,
    pub(crate) count: u8,
}

/// NAT chains in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Somebody else's.
    pub(crate) foreign: bool,
    /// One of [`TABLE`].
    pub(crate) own: bool,
}

/// Work that was needed to bring the chains in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synced {
    Nothing,
    /// Others' chains have come or gone.
    Followed,
    /// Somebody had changed the table itself.
    Restored(TableFault),
}

/// Brings the chains in line with what others have; `installed` is the table as it was installed last.
pub(crate) fn sync(
    nft: &mut Netlink,
    found: Found,
    ports: Ports,
    has_socket: bool,
    installed: &mut Option<TableState>,
) -> io::Result<Synced> {
    if !found.foreign {
        *installed = None;
        return Ok(if found.own && remove(nft)? { Synced::Followed } else { Synced::Nothing });
    }
    let mut fault = None;
    if let Some(table) = installed {
        let (_, seen) = TableState::read(nft, TABLE, &[])?;
        fault = table.fault(&BTreeMap::new(), seen.as_ref());
        if fault.is_none() {
            return Ok(Synced::Nothing);
        }
    }
    let install = |nft: &mut Netlink| nft.batch(items(ports, has_socket));
    let ((), table) = TableState::after(nft, (TABLE, &[]), install)?;
    forget(nft, ports)?;
    *installed = Some(table);
    Ok(fault.map_or(Synced::Followed, Synced::Restored))
}

/// The batch that makes the table.
fn items(ports: Ports, has_socket: bool) -> Vec<BatchItem<NetfilterMessage>> {
    let mut items = vec![
        // Deleting needs a table to delete.
        item(NfTablesMessage::NewTable(nft::table(TABLE, None)), NLM_F_CREATE),
        item(NfTablesMessage::DeleteTable(nft::table(TABLE, None)), 0),
        item(NfTablesMessage::NewTable(nft::table(TABLE, None)), NLM_F_CREATE),
    ];
    items.extend(
        chains(ports, has_socket).into_iter().map(|message| item(message, NLM_F_CREATE | NLM_F_APPEND)),
    );
    items
}

/// Removes the chains; false: there were none.
pub(crate) fn remove(nft: &mut Netlink) -> io::Result<bool> {
    match nft.batch(vec![item(NfTablesMessage::DeleteTable(nft::table(TABLE, None)), 0)]) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn item(message: NfTablesMessage, flags: u16) -> BatchItem<NetfilterMessage> {
    BatchItem { message: nft::inet(message), flags }
}

/// The chains with their rules, in order.
fn chains(ports: Ports, has_socket: bool) -> Vec<NfTablesMessage> {
    let marked = || vec![vec![meta(MetaKey::Mark), equal(&MARK.to_ne_bytes())]];
    let for_us = if has_socket {
        vec![vec![socket_mark(), equal(&MARK.to_ne_bytes())]]
    } else {
        (0..ports.count).filter_map(|lane| ports.first.checked_add(lane.into())).map(to_port).collect()
    };
    let planned = [
        ("out", InetHookNumber::LocalOut, PRIORITY_DESTINATION, Nat::Destination, marked()),
        ("in", InetHookNumber::PreRouting, PRIORITY_DESTINATION, Nat::Destination, for_us),
        ("post", InetHookNumber::PostRouting, PRIORITY_SOURCE, Nat::Source, marked()),
    ];
    let mut messages = Vec::new();
    for (name, hook, priority, kind, conditions) in planned {
        messages.push(chain_of(TABLE, name, ChainType::Nat, hook, priority));
        for condition in conditions {
            messages
                .extend(FAMILIES.map(|family| rule(TABLE, name, identity(condition.clone(), kind, family))));
        }
    }
    messages
}

/// Translates the source to itself, or the destination.
fn identity(
    condition: Vec<Expression>,
    kind: Nat,
    (family, source, destination, bytes): (u8, u32, u32, u32),
) -> Vec<Expression> {
    let place = match kind {
        Nat::Source => source,
        Nat::Destination => destination,
    };
    let only = vec![meta(MetaKey::Nfproto), equal(&[family])];
    [only, condition, vec![payload(Base::Network, place, bytes), nat(kind, family)]].concat()
}

fn to_port(port: u16) -> Vec<Expression> {
    vec![meta(MetaKey::L4Proto), equal(&[UDP]), payload(Base::Transport, 2, 2), equal(&port.to_be_bytes())]
}

/// Forgets the connections of the tunnel's ports that were bound before: every datagram keeps such an entry alive, with the
/// translation it once got.
fn forget(nft: &mut Netlink, ports: Ports) -> io::Result<()> {
    let mut stale = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let listed = nft.dump_raw(GET_ENTRIES, &[family, 0, 0, 0], |_, message| {
            stale.extend(of_ports(message, ports));
        });
        match listed {
            // No `nf_conntrack_netlink`: nothing can be said of entries, and they end in time.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                return Ok(());
            }
            result => result?,
        }
    }
    for entry in stale {
        match nft.request_raw(DELETE_ENTRY, &entry) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Returns the request that deletes an entry, if it began from or to one of the ports.
fn of_ports(message: &[u8], ports: Ports) -> Option<Vec<u8>> {
    let mut request = message.get(..NFGENMSG)?.to_vec();
    let mut is_ours = false;
    for attribute in NlasIterator::new(message.get(NFGENMSG..)?) {
        let attribute = attribute.ok()?;
        let kind = attribute.kind() & NLA_TYPE_MASK;
        if kind == CTA_TUPLE_ORIG {
            is_ours = is_tunnel(attribute.value(), ports);
        }
        if matches!(kind, CTA_TUPLE_ORIG | CTA_ZONE) {
            let nested = if kind == CTA_TUPLE_ORIG { NLA_F_NESTED } else { 0 };
            let length = attribute.value().len() + 4;
            request.extend_from_slice(&(length as u16).to_ne_bytes());
            request.extend_from_slice(&(kind | nested).to_ne_bytes());
            request.extend_from_slice(attribute.value());
            request.resize(request.len().next_multiple_of(4), 0);
        }
    }
    is_ours.then_some(request)
}

fn is_tunnel(tuple: &[u8], ports: Ports) -> bool {
    let nested = |bytes: &[u8], wanted: u16| -> Option<Vec<u8>> {
        let found = NlasIterator::new(bytes).flatten().find(|nla| nla.kind() & NLA_TYPE_MASK == wanted);
        found.map(|nla| nla.value().to_vec())
    };
    let Some(protocol) = nested(tuple, CTA_TUPLE_PROTO) else { return false };
    let is_port = |attribute| {
        let value = nested(&protocol, attribute);
        let port = value.and_then(|bytes| bytes.first_chunk().copied()).map(u16::from_be_bytes);
        port.and_then(|port| port.checked_sub(ports.first)).is_some_and(|lane| lane < ports.count.into())
    };
    nested(&protocol, CTA_PROTO_NUM).as_deref() == Some(&[UDP])
        && (is_port(CTA_PROTO_SRC_PORT) || is_port(CTA_PROTO_DST_PORT))
}
