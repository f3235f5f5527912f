//! The nftables table as the kernel has it, read back and compared with what was installed.
//!
//! What the kernel answers right after a table was installed is what it is to answer from then on: rules and sets are
//! compared as bytes, whatever is in them, and only the elements of the sets by meaning, since the kernel ends some of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::IpAddr,
};

use netlink_packet_core::NlasIterator;
use netlink_packet_netfilter::nftables::{GenAttribute, GenMessage, NfTablesMessage};

use crate::{
    netlink::Netlink,
    nft,
    ranges::{Range, previous},
    table::Set,
};

/// `NFNL_SUBSYS_NFTABLES << 8` (include/uapi/linux/netfilter/nfnetlink.h), to which the number of a message is added.
const NFTABLES: u16 = 10 << 8;
/// `NFPROTO_INET`, the first byte of `struct nfgenmsg`; version and resource id are zero.
const INET: [u8; 4] = [1, 0, 0, 0];
/// `NFTA_LIST_ELEM` and `NFTA_DATA_VALUE`.
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
/// `NFTA_SET_ELEM_LIST_TABLE`, `.._SET` and `.._ELEMENTS`; `NFTA_SET_ELEM_KEY` and `.._FLAGS`.
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_FLAGS: u16 = 3;
/// `NFT_SET_ELEM_INTERVAL_END`: the last byte of the flags, in network byte order.
const INTERVAL_END: u8 = 1;

/// A kind of object in a table: the message that lists it, the attribute with its table's name, and the attributes that say
/// what it is. Left out is what counts: uses, packets, elements.
struct Listed {
    get: u16,
    table: u16,
    kept: &'static [u16],
}

/// `NFT_MSG_GET*` and `NFTA_*` of include/uapi/linux/netfilter/nf_tables.h.
const LISTED: [Listed; 5] = [
    // Table: name, flags, handle, user data.
    Listed { get: 1, table: 1, kept: &[1, 2, 4, 6] },
    // Chain: handle, name, hook, policy, type, flags.
    Listed { get: 4, table: 1, kept: &[2, 3, 4, 5, 7, 10] },
    // Rule: chain, handle, expressions.
    Listed { get: 7, table: 1, kept: &[2, 3, 4] },
    // Set: name, flags, types and lengths of key and data, handle.
    Listed { get: 10, table: 1, kept: &[2, 3, 4, 5, 6, 7, 16] },
    // Counter: name, type, handle.
    Listed { get: 19, table: 1, kept: &[2, 3, 6] },
];
const GET_ELEMENTS: u16 = 13;

/// Times that a table is read or installed again since somebody changes the ruleset meanwhile.
const ATTEMPTS: usize = 8;

/// A table with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TableState {
    name: &'static str,
    /// Table, chains, rules, sets and counters, in the kernel's order.
    objects: Vec<Vec<u8>>,
    elements: BTreeMap<&'static str, BTreeSet<Range>>,
}

/// Elements that a set has to have, and those it may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Content {
    pub(crate) required: BTreeSet<Range>,
    pub(crate) allowed: BTreeSet<Range>,
}

/// A way in which a table differs from what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableFault {
    /// The table of this name.
    Absent(&'static str),
    /// The flags, chains, rules, sets or counters of the table of this name.
    Objects(&'static str),
    /// The set of this name.
    Elements(&'static str),
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(table) => write!(f, "table inet {table} is gone"),
            Self::Objects(table) => write!(f, "table inet {table} was edited"),
            Self::Elements(set) => write!(f, "set {set} was edited"),
        }
    }
}

impl TableState {
    /// Reads the table `name` with those of `sets` that it has, all of one generation, and returns that; nothing where there is
    /// no table.
    pub(crate) fn read(
        netlink: &mut Netlink,
        name: &'static str,
        sets: &[Set],
    ) -> io::Result<(u32, Option<Self>)> {
        for _ in 0..ATTEMPTS {
            let before = generation(netlink)?;
            let state = Self::read_once(netlink, name, sets);
            if generation(netlink)? == before {
                return Ok((before, state?));
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    /// Makes changes that `install` has the kernel make in one transaction, until nobody else has changed anything between
    /// that and reading the table. Returns what `install` did, and the table.
    pub(crate) fn after<T>(
        netlink: &mut Netlink,
        (name, sets): (&'static str, &[Set]),
        mut install: impl FnMut(&mut Netlink) -> io::Result<T>,
    ) -> io::Result<(T, Self)> {
        for _ in 0..ATTEMPTS {
            let before = generation(netlink)?;
            let done = install(netlink)?;
            let (after, state) = Self::read(netlink, name, sets)?;
            if let Some(state) = state.filter(|_| after == next_generation(before)) {
                return Ok((done, state));
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    fn read_once(netlink: &mut Netlink, table: &'static str, sets: &[Set]) -> io::Result<Option<Self>> {
        let mut objects = Vec::new();
        for (place, listed) in LISTED.iter().enumerate() {
            netlink.dump_raw(NFTABLES | listed.get, &INET, |_, message| {
                objects.extend(object(listed, table, message));
            })?;
            if place == 0 && objects.is_empty() {
                return Ok(None);
            }
        }
        let mut elements = BTreeMap::new();
        for name in sets.iter().flat_map(|set| [set.name(true), set.name(false)]) {
            let mut edges = Vec::new();
            let query = [&INET[..], &text(ELEMENTS_TABLE, table), &text(ELEMENTS_SET, name)].concat();
            match netlink.dump_raw(NFTABLES | GET_ELEMENTS, &query, |_, message| {
                edges.extend(message.get(INET.len()..).map(edges_of).unwrap_or_default());
            }) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => drop(elements.insert(name, result.map(|()| ranges_of(edges))?)),
            }
        }
        Ok(Some(Self { name: table, objects, elements }))
    }

    /// Returns what differs in `seen` from this table, whose sets have to have `contents`.
    pub(crate) fn fault(
        &self,
        contents: &BTreeMap<&'static str, Content>,
        seen: Option<&Self>,
    ) -> Option<TableFault> {
        let Some(seen) = seen else { return Some(TableFault::Absent(self.name)) };
        if seen.objects != self.objects || !seen.elements.keys().eq(self.elements.keys()) {
            return Some(TableFault::Objects(self.name));
        }
        let differs = |(name, ranges): (&&'static str, &BTreeSet<Range>)| {
            let none = Content::default();
            let content = contents.get(name).unwrap_or(&none);
            let is_right = ranges.is_subset(&content.allowed) && content.required.is_subset(ranges);
            (!is_right).then_some(TableFault::Elements(name))
        };
        seen.elements.iter().find_map(differs)
    }
}

/// The number of the ruleset's last transaction (`NFTA_GEN_ID`).
pub(crate) fn generation(netlink: &mut Netlink) -> io::Result<u32> {
    let query = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
    let answers = netlink.request(nft::inet(query), 0)?;
    let id = answers.into_iter().filter_map(nft::inner).find_map(|message| match message {
        NfTablesMessage::NewGen(message) => {
            message.attributes.into_iter().find_map(|attribute| match attribute {
                GenAttribute::Id(id) => Some(id),
                _ => None,
            })
        }
        _ => None,
    });
    id.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The number after a generation's: 0 is left out (`nf_tables_commit`).
fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

/// Returns what a message says of an object of the table, if it is of the table.
fn object(listed: &Listed, table: &str, message: &[u8]) -> Option<Vec<u8>> {
    let attributes = message.get(INET.len()..)?;
    if message.first() != INET.first() {
        return None;
    }
    let mut is_ours = false;
    let mut kept = listed.get.to_ne_bytes().to_vec();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        is_ours |= attribute.kind() == listed.table && attribute.value() == [table.as_bytes(), &[0]].concat();
        if listed.kept.contains(&attribute.kind()) {
            kept.extend(attribute.kind().to_ne_bytes());
            kept.extend((attribute.value().len() as u32).to_ne_bytes());
            kept.extend(attribute.value());
        }
    }
    is_ours.then_some(kept)
}

/// The edges in one message of elements: an address, and true if it ends the range before it.
fn edges_of(attributes: &[u8]) -> Vec<(IpAddr, bool)> {
    let lists = NlasIterator::new(attributes).flatten().filter(|attribute| attribute.kind() == ELEMENTS);
    let mut edges = Vec::new();
    for list in lists {
        let elements = NlasIterator::new(list.value()).flatten();
        for element in elements.filter(|element| element.kind() == LIST_ELEMENT) {
            let (mut address, mut is_end) = (None, false);
            for attribute in NlasIterator::new(element.value()).flatten() {
                match attribute.kind() {
                    ELEMENT_KEY => address = address_of(attribute.value()),
                    ELEMENT_FLAGS => {
                        is_end = attribute.value().last().is_some_and(|flags| flags & INTERVAL_END != 0);
                    }
                    _ => {}
                }
            }
            edges.extend(address.map(|address| (address, is_end)));
        }
    }
    edges
}

fn address_of(key: &[u8]) -> Option<IpAddr> {
    let value = NlasIterator::new(key).flatten().find(|attribute| attribute.kind() == DATA_VALUE)?;
    let v4 = <[u8; 4]>::try_from(value.value()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value.value()).map(IpAddr::from)).ok()
}

/// The ranges between edges of one family. One without an end goes on to the last address.
fn ranges_of(mut edges: Vec<(IpAddr, bool)>) -> BTreeSet<Range> {
    // An end before the start at the same address.
    edges.sort_unstable_by_key(|&(address, is_end)| (address, !is_end));
    let mut ranges = BTreeSet::new();
    let mut open: Option<IpAddr> = None;
    for (address, is_end) in edges {
        let last = previous(address);
        if let Some((first, last)) = open.zip(last) {
            ranges.insert(Range { first, last });
        }
        open = (!is_end).then_some(address);
    }
    let last = |first: IpAddr| match first {
        IpAddr::V4(_) => IpAddr::from([0xff; 4]),
        IpAddr::V6(_) => IpAddr::from([0xff; 16]),
    };
    ranges.extend(open.map(|first| Range { first, last: last(first) }));
    ranges
}

/// An attribute with a text, padded to four bytes.
fn text(kind: u16, value: &str) -> Vec<u8> {
    let length = 4 + value.len() + 1;
    let mut attribute = [&(length as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value.as_bytes()].concat();
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn range(first: &str, last: &str) -> Range {
        Range { first: address(first), last: address(last) }
    }

    fn table(objects: &[&str], elements: &[Range]) -> TableState {
        TableState {
            name: "t",
            objects: objects.iter().map(|object| object.as_bytes().to_vec()).collect(),
            elements: BTreeMap::from([("external4", elements.iter().copied().collect())]),
        }
    }

    #[test]
    fn ranges_lie_between_their_edges_in_any_order() {
        let edges = [("10.0.1.0", true), ("10.0.0.0", false), ("10.0.1.0", false), ("10.0.1.1", true)];
        let edges = edges.map(|(text, is_end)| (address(text), is_end)).to_vec();
        let expected = [range("10.0.0.0", "10.0.0.255"), range("10.0.1.0", "10.0.1.0")];
        assert_eq!(ranges_of(edges).into_iter().collect::<Vec<_>>(), expected);
        let open = vec![(address("fd00::"), false)];
        let expected = [range("fd00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")];
        assert_eq!(ranges_of(open).into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(ranges_of(Vec::new()), BTreeSet::new());
    }

    #[test]
    fn a_table_that_lacks_something_or_has_more_is_not_right() {
        let installed = table(&["in", "out"], &[]);
        let (must, may) = (range("10.0.0.1", "10.0.0.1"), range("10.0.0.2", "10.0.0.2"));
        let content = Content { required: [must].into(), allowed: [must, may].into() };
        let contents = BTreeMap::from([("external4", content)]);
        let fault = |seen: Option<TableState>| installed.fault(&contents, seen.as_ref());
        assert_eq!(fault(None), Some(TableFault::Absent("t")));
        assert_eq!(fault(Some(table(&["in", "out"], &[must]))), None);
        assert_eq!(fault(Some(table(&["in", "out"], &[must, may]))), None);
        for objects in [&["in"][..], &["out", "in"], &["in", "out", "more"]] {
            assert_eq!(fault(Some(table(objects, &[must]))), Some(TableFault::Objects("t")), "{objects:?}");
        }
        let elements = Some(TableFault::Elements("external4"));
        assert_eq!(fault(Some(table(&["in", "out"], &[may]))), elements, "one is missing");
        let more = range("0.0.0.0", "255.255.255.255");
        assert_eq!(fault(Some(table(&["in", "out"], &[must, more]))), elements, "a hole");
        assert_eq!(
            fault(Some(TableState { elements: BTreeMap::new(), ..installed.clone() })),
            Some(TableFault::Objects("t"))
        );
    }
}
