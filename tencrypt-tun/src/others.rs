//! Chains of others in the namespace, as far as they may concern the tunnel's packets.

use std::{fs, io};

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
};

use crate::{
    nat::{self, Found},
    netlink::Netlink,
    nft,
    stand_in::STAND_IN,
    table::TABLE,
};

/// Tables of iptables-legacy in the namespace of the thread that reads them. The files are not there without it.
const LEGACY: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

/// Chains that a look at the tables of the namespace found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Others {
    pub(crate) nat: Found,
    /// Somebody else's chain that may drop what comes in.
    pub(crate) filter: bool,
}

/// Looks at the tables of the namespace. It must be called on a thread in there.
pub(crate) fn look(nft: &mut Netlink) -> io::Result<Others> {
    let legacy: Vec<String> = LEGACY.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let has_legacy_nat = legacy.iter().flat_map(|tables| tables.lines()).any(|table| table == "nat");
    let mut others = Others {
        nat: Found { foreign: has_legacy_nat, own: false },
        filter: legacy.iter().any(|tables| !tables.trim().is_empty()),
    };
    let query = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    for chain in nft.dump(nft::any_family(query))?.into_iter().filter_map(nft::inner) {
        let NfTablesMessage::NewChain(chain) = chain else { continue };
        let is_of = |table: &str| chain.attributes.contains(&ChainAttribute::Table(table.to_owned()));
        if is_of(nat::TABLE) {
            others.nat.own = true;
        } else if !is_of(TABLE) && !is_of(STAND_IN) {
            others.nat.foreign |= chain.attributes.contains(&ChainAttribute::Type("nat".to_owned()));
            let is_filter = chain.attributes.contains(&ChainAttribute::Type("filter".to_owned()));
            others.filter |= is_filter && chain.attributes.iter().any(lets_in);
        }
    }
    Ok(others)
}

/// Tells if an attribute is the hook of a chain that sees what comes in, before or behind the routing decision.
fn lets_in(attribute: &ChainAttribute) -> bool {
    let ChainAttribute::Hook(hook) = attribute else { return false };
    let is_in = |number: &Hook| {
        matches!(number, Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting | InetHookNumber::LocalIn)))
    };
    hook.iter().any(is_in)
}
