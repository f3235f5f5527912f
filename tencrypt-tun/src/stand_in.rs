//! A table that stands in for the one that is being replaced.
//!
//! The kernel replaces a table in one step, but not for a packet that its chains are just looking at. Which rules it meets is
//! chosen when it enters a chain, what is in a set when it is looked for (`nft_genmask_cur`, net/netfilter), and of the same
//! priority the new table's chains come first (`nf_hook_entries_grow`). So such a packet passes the new chains, which are not in
//! force yet, and then the old ones, whose sets no longer are. A second table with the same content, from before until
//! after, stops it.

use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner,
    nftables::{
        ChainAttribute, NfTablesMessage, RuleAttribute, SetAttribute, SetElementList, TableAttribute,
    },
};

use crate::{netlink::BatchItem, nft, table::TABLE};

/// The table's name; its family is `inet`.
pub(crate) const STAND_IN: &str = "tencrypt_next";

/// Turns the batch that makes the table into one that makes the other.
pub(crate) fn stand_in(items: Vec<BatchItem<NetfilterMessage>>) -> Vec<BatchItem<NetfilterMessage>> {
    items
        .into_iter()
        .map(|BatchItem { message, flags }| BatchItem { message: renamed(message), flags })
        .collect()
}

fn renamed(mut message: NetfilterMessage) -> NetfilterMessage {
    let NetfilterMessageInner::NfTables(inner) = &mut message.inner else { return message };
    let both = || [TABLE, STAND_IN].map(str::to_owned);
    match inner {
        NfTablesMessage::NewTable(table) | NfTablesMessage::DeleteTable(table) => {
            replace(&mut table.attributes, both().map(TableAttribute::Name));
        }
        NfTablesMessage::NewChain(chain) => replace(&mut chain.attributes, both().map(ChainAttribute::Table)),
        NfTablesMessage::NewRule(rule) => replace(&mut rule.attributes, both().map(RuleAttribute::Table)),
        NfTablesMessage::NewSet(set) => replace(&mut set.attributes, both().map(SetAttribute::Table)),
        NfTablesMessage::NewSetElement(elements) => {
            replace(&mut elements.attributes, both().map(SetElementList::Table));
        }
        NfTablesMessage::NewObject(attributes) => {
            replace(attributes, [TABLE, STAND_IN].map(nft::object_table));
        }
        _ => {}
    }
    message
}

fn replace<T: PartialEq>(attributes: &mut [T], [old, new]: [T; 2]) {
    if let Some(attribute) = attributes.iter_mut().find(|attribute| **attribute == old) {
        *attribute = new;
    }
}
