//! nftables messages: the parts of include/uapi/linux/netfilter/nf_tables.h this crate uses.
//!
//! netlink-packet-netfilter encodes tables, chains, sets, elements, rules and the plain expressions. `socket`, `fib`
//! and `objref` expressions and counter objects are put together from raw attributes here.

use std::time::Duration;

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, HookNumber, Immediate,
        InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
        RuleAttribute, RuleMessage, SetAttribute, SetElementAttribute, SetElementFlags, SetElementList,
        SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
    },
};

use crate::ranges::{Range, next};

/// One step of a rule.
pub(crate) type Expression = ListAttribute<netlink_packet_netfilter::nftables::ExpressionAttribute>;

/// Start that a payload expression counts from (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// Fate of a packet (include/uapi/linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Drop = 0,
    Accept = 1,
}

/// Packets and bytes a named counter has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
const NFTA_OBJREF_IMM_TYPE: u16 = 1;
const NFTA_OBJREF_IMM_NAME: u16 = 2;
const NFTA_SOCKET_KEY: u16 = 1;
const NFTA_SOCKET_DREG: u16 = 2;
const NFT_SOCKET_MARK: u32 = 1;
const NFTA_EXTHDR_DREG: u16 = 1;
const NFTA_EXTHDR_TYPE: u16 = 2;
const NFTA_EXTHDR_OFFSET: u16 = 3;
const NFTA_EXTHDR_LEN: u16 = 4;
const NFTA_EXTHDR_FLAGS: u16 = 5;
const NFTA_EXTHDR_OP: u16 = 6;
const NFT_EXTHDR_F_PRESENT: u32 = 1;
const NFT_EXTHDR_OP_IPV6: u32 = 0;
const NFT_EXTHDR_OP_IPV4: u32 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 2;
/// `NFT_REG_1` as an attribute value.
const REGISTER_1: u32 = 1;

/// Kind of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainType {
    Filter,
    Nat,
}

/// Side of a packet that is translated (`enum nft_nat_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nat {
    Source = 0,
    Destination = 1,
}

/// Wraps a message for all families.
pub(crate) fn any_family(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0), message)
}

/// Wraps a message for family `inet`.
pub(crate) fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

/// The nftables message inside, if it is one.
pub(crate) fn inner(message: NetfilterMessage) -> Option<NfTablesMessage> {
    match message.inner {
        NetfilterMessageInner::NfTables(message) => Some(message),
        _ => None,
    }
}

pub(crate) fn table(name: &str, user_data: Option<Vec<u8>>) -> TableMessage {
    let mut attributes = vec![TableAttribute::Name(name.to_owned())];
    attributes.extend(user_data.map(TableAttribute::UserData));
    TableMessage { attributes }
}

/// A base chain of type `filter` with policy accept.
pub(crate) fn chain(table: &str, name: &str, hook: InetHookNumber, priority: i32) -> NfTablesMessage {
    chain_of(table, name, ChainType::Filter, hook, priority)
}

/// A base chain with policy accept.
pub(crate) fn chain_of(
    table: &str,
    name: &str,
    kind: ChainType,
    hook: InetHookNumber,
    priority: i32,
) -> NfTablesMessage {
    let kind = match kind {
        ChainType::Filter => "filter",
        ChainType::Nat => "nat",
    };
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(name.to_owned()),
            ChainAttribute::Hook(vec![
                Hook::Number(HookNumber::Inet(hook)),
                Hook::Priority(priority.cast_unsigned()),
            ]),
            ChainAttribute::Policy(Fate::Accept as u32),
            ChainAttribute::Type(kind.to_owned()),
        ],
    })
}

/// A set of address ranges with elements that may time out. `id` tells it from the other sets of one batch.
/// `key_type` is nft's own number for the type, which makes `nft list` readable: 7 ipv4_addr, 8 ipv6_addr.
pub(crate) fn address_set(table: &str, name: &str, id: u32, key_bytes: u32) -> NfTablesMessage {
    let key_type = if key_bytes == 4 { 7 } else { 8 };
    NfTablesMessage::NewSet(SetMessage {
        attributes: vec![
            SetAttribute::Table(table.to_owned()),
            SetAttribute::Name(name.to_owned()),
            SetAttribute::Flags(SetFlags::Interval | SetFlags::Timeout),
            SetAttribute::KeyType(key_type),
            SetAttribute::KeyLen(key_bytes),
            SetAttribute::Id(id),
        ],
    })
}

/// Elements of a set; the caller wraps them into an add or a delete.
pub(crate) fn elements(
    table: &str,
    set: &str,
    ranges: &[Range],
    timeout: Option<Duration>,
) -> SetElementMessage {
    let mut list = Vec::with_capacity(ranges.len() * 2);
    for range in ranges {
        let mut start = vec![SetElementAttribute::Key(value(octets(range.first)))];
        start.extend(timeout.map(|timeout| SetElementAttribute::Timeout(milliseconds(timeout))));
        list.push(ListAttribute::Element(start));
        // A range up to the last address stays open.
        if let Some(end) = next(range.last) {
            list.push(ListAttribute::Element(vec![
                SetElementAttribute::Key(value(octets(end))),
                SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
            ]));
        }
    }
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(list),
        ],
    }
}

pub(crate) fn rule(table: &str, chain: &str, expressions: Vec<Expression>) -> NfTablesMessage {
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
        ],
    })
}

/// A named counter, to be created.
pub(crate) fn counter(table: &str, name: &str) -> NfTablesMessage {
    let mut attributes = counter_name(table, name);
    attributes.push(DefaultNla::new(NFTA_OBJ_DATA | NLA_F_NESTED, Vec::new()));
    NfTablesMessage::NewObject(attributes)
}

/// Asks for a named counter.
pub(crate) fn counter_query(table: &str, name: &str) -> NfTablesMessage {
    NfTablesMessage::GetObject(counter_name(table, name))
}

/// Asks for all named counters of a table, as a dump.
pub(crate) fn counters_query(table: &str) -> NfTablesMessage {
    NfTablesMessage::GetObject(vec![object_table(table), number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER)])
}

/// Tells if an answer is about this counter of this table: older kernels dump those of all tables.
pub(crate) fn is_counter(message: &NfTablesMessage, table: &str, name: &str) -> bool {
    let NfTablesMessage::NewObject(attributes) = message else { return false };
    [object_table(table), text(NFTA_OBJ_NAME, name)].iter().all(|wanted| attributes.contains(wanted))
}

/// Returns what a counter object in an answer has counted.
pub(crate) fn counted(message: &NfTablesMessage) -> Option<Counted> {
    let NfTablesMessage::NewObject(attributes) = message else { return None };
    let mut data = Vec::new();
    for attribute in attributes {
        use netlink_packet_core::Nla as _;
        if attribute.kind() & NLA_TYPE_MASK == NFTA_OBJ_DATA {
            data.resize(attribute.value_len(), 0);
            attribute.emit_value(&mut data);
        }
    }
    let mut counted = Counted::default();
    for attribute in NlasIterator::new(data.as_slice()) {
        let attribute = attribute.ok()?;
        let number = u64::from_be_bytes(*attribute.value().first_chunk()?);
        match attribute.kind() {
            NFTA_COUNTER_BYTES => counted.bytes = number,
            NFTA_COUNTER_PACKETS => counted.packets = number,
            _ => {}
        }
    }
    Some(counted)
}

/// Loads a piece of the packet's meta data into register 1.
pub(crate) fn meta(key: MetaKey) -> Expression {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)]).into()
}

/// Loads `len` bytes of the packet into register 1.
pub(crate) fn payload(base: Base, offset: u32, len: u32) -> Expression {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base as u32),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
    .into()
}

/// Keeps the bits of register 1 that `mask` has.
pub(crate) fn masked(mask: &[u8]) -> Expression {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(value(mask.to_vec())),
        Bitwise::Xor(value(vec![0; mask.len()])),
    ])
    .into()
}

/// Goes on where register 1 equals `data`.
pub(crate) fn equal(data: &[u8]) -> Expression {
    compare(Operator::Equal, data)
}

/// Goes on where register 1 differs from `data`.
pub(crate) fn differs(data: &[u8]) -> Expression {
    compare(Operator::NotEqual, data)
}

/// Goes on where register 1 is not above `data`, both being big-endian numbers.
pub(crate) fn at_most(data: &[u8]) -> Expression {
    compare(Operator::LessThanEqual, data)
}

/// Goes on where register 1 is not below `data`, both being big-endian numbers.
pub(crate) fn at_least(data: &[u8]) -> Expression {
    compare(Operator::GreatherThanEqual, data)
}

/// Goes on where register 1 lies in the set.
pub(crate) fn in_set(name: &str) -> Expression {
    Expressions::Lookup(vec![Lookup::Set(name.to_owned()), Lookup::SourceRegister(Register::Reg1)]).into()
}

/// Loads the mark of the socket the packet is for into register 1 (`CONFIG_NFT_SOCKET`).
pub(crate) fn socket_mark() -> Expression {
    other("socket", vec![number(NFTA_SOCKET_KEY, NFT_SOCKET_MARK), number(NFTA_SOCKET_DREG, REGISTER_1)])
}

/// Loads the type of the destination address, `RTN_*` in host byte order, into register 1 (`CONFIG_NFT_FIB_INET`).
pub(crate) fn destination_type() -> Expression {
    other(
        "fib",
        vec![
            number(NFTA_FIB_DREG, REGISTER_1),
            number(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE),
            number(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR),
        ],
    )
}

/// Loads `len` bytes at `offset` of the first IPv6 extension header of this type into register 1; ends the rule where
/// the packet has none.
pub(crate) fn extension_header(header: u8, offset: u32, len: u32) -> Expression {
    exthdr(NFT_EXTHDR_OP_IPV6, header, offset, len, 0)
}

/// Loads 1 into register 1 where the packet has an IPv6 extension header of this type, else 0.
pub(crate) fn has_extension_header(header: u8) -> Expression {
    exthdr(NFT_EXTHDR_OP_IPV6, header, 0, 1, NFT_EXTHDR_F_PRESENT)
}

/// Loads 1 into register 1 where the packet has this IPv4 option, one of those that the kernel looks for (Linux 5.3),
/// else 0.
pub(crate) fn has_option(option: u8) -> Expression {
    exthdr(NFT_EXTHDR_OP_IPV4, option, 0, 1, NFT_EXTHDR_F_PRESENT)
}

fn exthdr(op: u32, kind: u8, offset: u32, len: u32, flags: u32) -> Expression {
    other(
        "exthdr",
        vec![
            number(NFTA_EXTHDR_DREG, REGISTER_1),
            DefaultNla::new(NFTA_EXTHDR_TYPE, vec![kind]),
            number(NFTA_EXTHDR_OFFSET, offset),
            number(NFTA_EXTHDR_LEN, len),
            number(NFTA_EXTHDR_FLAGS, flags),
            number(NFTA_EXTHDR_OP, op),
        ],
    )
}

/// Translates the packet's connection, of this family (`NFPROTO_*`), to the address in register 1.
pub(crate) fn nat(kind: Nat, family: u8) -> Expression {
    other(
        "nat",
        vec![
            number(NFTA_NAT_TYPE, kind as u32),
            number(NFTA_NAT_FAMILY, family.into()),
            number(NFTA_NAT_REG_ADDR_MIN, REGISTER_1),
        ],
    )
}

/// Counts the packet in a named counter.
pub(crate) fn count(name: &str) -> Expression {
    other("objref", vec![number(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER), text(NFTA_OBJREF_IMM_NAME, name)])
}

/// Ends the chain for the packet.
pub(crate) fn verdict(fate: Fate) -> Expression {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(fate as u32))])),
    ])
    .into()
}

/// An address as a set's key: network byte order.
pub(crate) fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn compare(operator: Operator, data: &[u8]) -> Expression {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(value(data.to_vec())),
    ])
    .into()
}

fn value(data: Vec<u8>) -> DataAttribute {
    DataAttribute::Value(data)
}

fn other(expression_type: &str, attributes: Vec<DefaultNla>) -> Expression {
    Expressions::Other { expression_type: expression_type.to_owned(), attributes }.into()
}

/// The table in the message of a named counter.
pub(crate) fn object_table(table: &str) -> DefaultNla {
    text(NFTA_OBJ_TABLE, table)
}

fn counter_name(table: &str, name: &str) -> Vec<DefaultNla> {
    vec![object_table(table), text(NFTA_OBJ_NAME, name), number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER)]
}

/// nftables attributes are in network byte order.
fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    DefaultNla::new(kind, [value.as_bytes(), &[0]].concat())
}

/// 0 would mean "never" to the kernel.
fn milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)
}
