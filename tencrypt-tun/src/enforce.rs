//! Enforcement: the nftables table `inet tencrypt`, which drops what must not pass in plain.
//!
//! Routes alone do not hold: a socket bound to the interface ignores them, without any privilege. Chain `in`
//! (prerouting) drops plaintext of protected sources, chain `out` (postrouting) plaintext to protected destinations
//! and to everybody on the link. Both outlive the process that made them. No connection tracking is involved.
//!
//! The table's comment keeps what has to be restored when the table goes, since the process that knew may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::{
    NetfilterMessage,
    nftables::{NfTablesMessage, TableAttribute},
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tencrypt::IpNet;

use crate::{
    filtered::{self, Filtered, Kind},
    name::InterfaceName,
    nat::{self, Found, Ports, Synced},
    netlink::{BatchItem, Netlink},
    nft,
    others::{self, Others},
    ranges::{Range, Ranges, paint},
    ruleset::{self, Features, Policy},
    stand_in::{STAND_IN, stand_in},
    table::{LEAK, LOOP, PLAIN_IN, Set, TABLE},
    table_state::{Content, TableState},
};

/// Ranges in one message: an IPv6 range takes about 100 bytes and an attribute holds 65,535.
const RANGES_A_MESSAGE: usize = 256;

/// An element that is about to time out may be gone, or there still.
const SOON: Duration = Duration::from_secs(1);

/// Single addresses beside the prefixes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Singles<'a> {
    /// External ones, with the end of their time.
    pub(crate) leased: &'a BTreeMap<IpAddr, Instant>,
    /// Internal ones.
    pub(crate) proven: &'a BTreeSet<IpAddr>,
}

/// Content of the sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefixes<'a> {
    pub(crate) protected: &'a [IpNet],
    pub(crate) exempt: &'a [IpNet],
    pub(crate) external: &'a [IpNet],
    pub(crate) internal: &'a [IpNet],
    pub(crate) nameservers: &'a [IpNet],
}

/// State that `down` has to put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) interface: InterfaceName,
    /// `rp_filter` of the interface before it was changed; nothing where it was not.
    pub(crate) rp_filter: Option<u8>,
}

/// Packets dropped by the chains since they were installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Packets that came in from protected sources in plain.
    pub plain_in: u64,
    /// Packets that would have left in plain, to protected destinations or to everybody on the link.
    pub leak: u64,
    /// The tunnel's own packets that a route or rule of somebody else's led into its device.
    pub looped: u64,
    /// Packets that others' chains have dropped on their way in.
    pub filtered: Filtered,
}

/// A connection to nftables in one namespace.
#[derive(Debug)]
pub(crate) struct Enforcement {
    netlink: Netlink,
    /// The table for address translation as it was installed; none: there is none.
    nat: Option<TableState>,
}

impl Enforcement {
    /// Opens a connection in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(NETLINK_NETFILTER)?, nat: None })
    }

    /// Returns what an earlier table says is to be restored. Outer `None`: there is no table.
    pub(crate) fn saved(&mut self) -> io::Result<Option<Option<Saved>>> {
        let tables = self.netlink.dump(nft::inet(NfTablesMessage::GetTable(
            netlink_packet_netfilter::nftables::TableMessage { attributes: Vec::new() },
        )))?;
        for message in tables.into_iter().filter_map(nft::inner) {
            let NfTablesMessage::NewTable(table) = message else { continue };
            let ours =
                |attribute: &TableAttribute| matches!(attribute, TableAttribute::Name(name) if name == TABLE);
            if table.attributes.iter().any(ours) {
                return Ok(Some(table.attributes.iter().find_map(|attribute| match attribute {
                    TableAttribute::UserData(data) => Saved::decode(data),
                    _ => None,
                })));
            }
        }
        Ok(None)
    }

    /// The socket's address, by which the kernel names who has changed something.
    pub(crate) fn port(&self) -> u32 {
        self.netlink.port()
    }

    /// Reads the table as it is; nothing where there is none.
    pub(crate) fn state(&mut self) -> io::Result<Option<TableState>> {
        TableState::read(&mut self.netlink, TABLE, &Set::ALL).map(|(_, state)| state)
    }

    /// Puts the table in place, replacing an earlier one without a moment in between. Without a `policy` the table
    /// has neither chains nor sets. Returns what the kernel lacks, and the table as nobody else has touched it.
    pub(crate) fn install(
        &mut self,
        saved: &Saved,
        policy: Option<(&Policy, &Prefixes<'_>, Singles<'_>)>,
    ) -> io::Result<(Features, TableState)> {
        if policy.is_some() && self.saved()?.is_some() {
            of_best_features(&mut self.netlink, |features| stand_in(table_items(saved, policy, features)))?;
        }
        let installed = TableState::after(&mut self.netlink, (TABLE, &Set::ALL), |netlink| {
            of_best_features(netlink, |features| table_items(saved, policy, features))
        });
        // One that was left by a program that died meanwhile goes too.
        self.remove_stand_in()?;
        installed
    }

    fn remove_stand_in(&mut self) -> io::Result<bool> {
        let delete = NfTablesMessage::DeleteTable(nft::table(STAND_IN, None));
        absent_is_false(self.netlink.batch(vec![item(delete, 0)]))
    }

    /// Looks at what others have. It must be called on a thread in the namespace.
    pub(crate) fn others(&mut self) -> io::Result<Others> {
        others::look(&mut self.netlink)
    }

    /// Keeps the tunnel's own packets out of the address translation of others.
    pub(crate) fn sync_nat(&mut self, found: Found, ports: Ports) -> io::Result<Synced> {
        match nat::sync(&mut self.netlink, found, ports, true, &mut self.nat) {
            // No `socket` expression, or no NAT in this family: by ports, or not at all.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                nat::sync(&mut self.netlink, found, ports, false, &mut self.nat)
            }
            result => result,
        }
    }

    /// Removes the table with all that is in it, and the one for address translation; false: there was none.
    pub(crate) fn remove(&mut self) -> io::Result<bool> {
        nat::remove(&mut self.netlink)?;
        self.remove_stand_in()?;
        let delete = NfTablesMessage::DeleteTable(nft::table(TABLE, None));
        absent_is_false(self.netlink.batch(vec![item(delete, 0)]))
    }

    /// Puts an address into a set, for `timeout` if given; an address already in it gets the new timeout.
    pub(crate) fn add(&mut self, set: Set, address: IpNet, timeout: Option<Duration>) -> io::Result<()> {
        let range = [Range::from(address)];
        let name = set.name(address.addr().is_ipv4());
        let add = |timeout| NfTablesMessage::NewSetElement(nft::elements(TABLE, name, &range, timeout));
        // Kernels before 6.12 keep the old timeout of an element that is added again; it has to be deleted, which
        // fails unless it exists, so it is added first.
        let result = self.netlink.batch(vec![
            item(add(timeout), NLM_F_CREATE),
            item(NfTablesMessage::DeleteSetElement(nft::elements(TABLE, name, &range, None)), 0),
            item(add(timeout), NLM_F_CREATE),
        ]);
        match result {
            // Inside a range that is in the set already.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY)) => Ok(()),
            result => result,
        }
    }

    /// Takes an address out of a set; false: it was not in it, or had timed out.
    pub(crate) fn delete(&mut self, set: Set, address: IpNet) -> io::Result<bool> {
        let name = set.name(address.addr().is_ipv4());
        let elements = nft::elements(TABLE, name, &[Range::from(address)], None);
        absent_is_false(self.netlink.batch(vec![item(NfTablesMessage::DeleteSetElement(elements), 0)]))
    }

    /// Reads what the chains have dropped, by one question: this is done each second.
    pub(crate) fn counters(&mut self) -> io::Result<Counters> {
        let answers = self.netlink.dump(nft::inet(nft::counters_query(TABLE)))?;
        let answers: Vec<_> = answers.into_iter().filter_map(nft::inner).collect();
        let count = |name| {
            let answer = answers.iter().find(|answer| nft::is_counter(answer, TABLE, name));
            let counted = answer.and_then(nft::counted);
            // As the kernel answers the question for one of them.
            counted.map(|counted| counted.packets).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
        };
        Ok(Counters {
            plain_in: count(PLAIN_IN)?,
            leak: count(LEAK)?,
            looped: count(LOOP)?,
            filtered: Filtered::default(),
        })
    }

    /// Reads how many packets of each kind are missing behind the chains of others. Those that came in are read first: what
    /// comes while this reads makes the difference smaller, never larger.
    pub(crate) fn missing(&mut self) -> io::Result<[u64; Kind::ALL.len()]> {
        let [mut before, mut behind] = [[0; Kind::ALL.len()]; 2];
        for (end, counts) in [&mut before, &mut behind].into_iter().enumerate() {
            for (count, kind) in counts.iter_mut().zip(Kind::ALL) {
                *count = self.counter(kind.counters()[end])?;
            }
        }
        Ok(std::array::from_fn(|kind| before[kind].saturating_sub(behind[kind])))
    }

    fn counter(&mut self, name: &str) -> io::Result<u64> {
        let answers = self.netlink.request(nft::inet(nft::counter_query(TABLE, name)), 0)?;
        let counted = answers.into_iter().filter_map(nft::inner).find_map(|message| nft::counted(&message));
        counted.map(|counted| counted.packets).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }
}

impl Saved {
    /// Type of a table's comment in nft's user data (libnftnl, `NFTNL_UDATA_TABLE_COMMENT`): `nft list` shows it.
    const COMMENT: u8 = 0;

    /// As nft stores a comment: type, length, text with a zero byte.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = match self.rp_filter {
            Some(rp_filter) => format!("restore {} rp_filter {rp_filter}", self.interface),
            None => format!("restore {}", self.interface),
        }
        .into_bytes();
        text.push(0);
        [&[Self::COMMENT, text.len() as u8], text.as_slice()].concat()
    }

    /// Nothing, where the comment is not one of ours.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let (&[Self::COMMENT, len], rest) = data.split_first_chunk()? else { return None };
        let text = str::from_utf8(rest.get(..usize::from(len))?.strip_suffix(&[0])?).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let (interface, rp_filter) = match words.as_slice() {
            ["restore", interface] => (interface, None),
            ["restore", interface, "rp_filter", value] => (interface, Some(value.parse().ok()?)),
            _ => return None,
        };
        Some(Self { interface: interface.parse().ok()?, rp_filter })
    }
}

/// Makes a table of as many features as the kernel has, and returns these.
fn of_best_features(
    netlink: &mut Netlink,
    items: impl Fn(Features) -> Vec<BatchItem<NetfilterMessage>>,
) -> io::Result<Features> {
    let mut result = Err(io::Error::from_raw_os_error(libc::ENOENT));
    for features in Features::FROM_BEST {
        result = netlink.batch(items(features)).map(|()| features);
        // A missing expression is ENOENT (nft_expr_type_get); so is nothing else in a batch that makes its own table, sets
        // and counters.
        if !matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ENOENT)) {
            break;
        }
    }
    result
}

/// The batch that makes the table.
fn table_items(
    saved: &Saved,
    policy: Option<(&Policy, &Prefixes<'_>, Singles<'_>)>,
    features: Features,
) -> Vec<BatchItem<NetfilterMessage>> {
    let mut items = vec![
        // Deleting needs a table to delete.
        item(NfTablesMessage::NewTable(nft::table(TABLE, None)), NLM_F_CREATE),
        item(NfTablesMessage::DeleteTable(nft::table(TABLE, None)), 0),
        item(NfTablesMessage::NewTable(nft::table(TABLE, Some(saved.encode()))), NLM_F_CREATE),
    ];
    let Some((policy, prefixes, singles)) = policy else { return items };
    let filtered = Kind::ALL.iter().filter(|_| policy.is_filtered).flat_map(|kind| kind.counters());
    for name in [PLAIN_IN, LEAK, LOOP].into_iter().chain(filtered) {
        items.push(item(nft::counter(TABLE, name), NLM_F_CREATE));
    }
    let mut id = 0;
    for set in Set::ALL {
        for v4 in [true, false] {
            id += 1;
            let key_bytes = if v4 { 4 } else { 16 };
            items.push(item(nft::address_set(TABLE, set.name(v4), id, key_bytes), NLM_F_CREATE));
        }
    }
    for (set, ranges) in prefixes.ranges() {
        items.extend(element_items(set, &ranges));
        items.extend(single_items(set, &ranges, singles));
    }
    let filtered = policy.is_filtered.then(|| filtered::chains(policy));
    items.extend(
        ruleset::chains(policy, features)
            .into_iter()
            .chain(filtered.into_iter().flatten())
            .map(|message| item(message, NLM_F_CREATE | NLM_F_APPEND)),
    );
    items
}

/// Messages that add elements for good.
fn element_items(set: Set, ranges: &Ranges) -> Vec<BatchItem<NetfilterMessage>> {
    let mut items = Vec::new();
    for v4 in [true, false] {
        let ranges: Vec<Range> = ranges.iter().filter(|range| range.first.is_ipv4() == v4).collect();
        for part in ranges.chunks(RANGES_A_MESSAGE) {
            let elements = nft::elements(TABLE, set.name(v4), part, None);
            items.push(item(NfTablesMessage::NewSetElement(elements), NLM_F_CREATE));
        }
    }
    items
}

/// Messages that add single addresses where no range holds them yet.
fn single_items(set: Set, ranges: &Ranges, singles: Singles<'_>) -> Vec<BatchItem<NetfilterMessage>> {
    let now = Instant::now();
    let add = |(address, timeout): (IpAddr, Option<Duration>)| {
        let elements = nft::elements(TABLE, set.name(address.is_ipv4()), &[address.into()], timeout);
        item(NfTablesMessage::NewSetElement(elements), NLM_F_CREATE)
    };
    let is_new = |address: &IpAddr| !ranges.contains(*address);
    match set {
        Set::External => {
            let left =
                singles.leased.iter().map(|(address, end)| (*address, end.saturating_duration_since(now)));
            let left = left.filter(|(address, left)| is_new(address) && !left.is_zero());
            left.map(|(address, left)| add((address, Some(left)))).collect()
        }
        Set::Internal => singles
            .proven
            .iter()
            .filter(|address| is_new(address))
            .map(|address| add((*address, None)))
            .collect(),
        _ => Vec::new(),
    }
}

/// Elements that the sets of a table with these ranges have to have, and may have.
pub(crate) fn contents(
    prefixes: &Prefixes<'_>,
    singles: Singles<'_>,
    now: Instant,
) -> BTreeMap<&'static str, Content> {
    let mut contents: BTreeMap<&'static str, Content> = BTreeMap::new();
    for (set, ranges) in prefixes.ranges() {
        let mut insert = |range: Range, is_required: bool| {
            let content = contents.entry(set.name(range.first.is_ipv4())).or_default();
            content.allowed.insert(range);
            if is_required {
                content.required.insert(range);
            }
        };
        ranges.iter().for_each(|range| insert(range, true));
        match set {
            Set::External => singles.leased.iter().for_each(|(address, end)| {
                insert((*address).into(), *end > now + SOON && !ranges.contains(*address));
            }),
            Set::Internal => singles.proven.iter().for_each(|address| {
                insert((*address).into(), !ranges.contains(*address));
            }),
            _ => {}
        }
    }
    contents
}

impl Prefixes<'_> {
    /// Disjoint ranges: of the classes external, internal and exempt an address belongs to that of its longest prefix.
    fn ranges(&self) -> [(Set, Ranges); 5] {
        let [internal, external, exempt] = paint([self.internal, self.external, self.exempt]);
        [
            (Set::Protected, Ranges::from_prefixes(self.protected)),
            (Set::Exempt, exempt),
            (Set::External, external),
            (Set::Internal, internal),
            (Set::Nameserver, Ranges::from_prefixes(self.nameservers)),
        ]
    }
}

fn item(message: NfTablesMessage, flags: u16) -> BatchItem<NetfilterMessage> {
    BatchItem { message: nft::inet(message), flags }
}

fn absent_is_false(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_restored_survives_the_comment() {
        for (interface, rp_filter) in [("eth0", Some(1)), ("fifteen-bytes-x", Some(0)), ("e", None)] {
            let saved = Saved { interface: interface.parse().expect("name"), rp_filter };
            assert_eq!(Saved::decode(&saved.encode()), Some(saved));
        }
    }

    #[test]
    fn other_comments_are_not_taken_for_ours() {
        let good = Saved { interface: "eth0".parse().expect("name"), rp_filter: Some(1) }.encode();
        assert_eq!(Saved::decode(&good[..good.len() - 1]), None);
        assert_eq!(Saved::decode(&[]), None);
        assert_eq!(Saved::decode(b"\0\x06hello\0"), None);
        assert_eq!(Saved::decode(b"\0\x0crestore a/b\0"), None);
    }
}
