//! Facts that one Tunnel learnt since its base directory was built.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use ipnet::IpNet;

use super::{Class, Fact, FactChange, base::Statements, table::PrefixTable};

/// Prefixes of a delta. The tunnel's owner folds what it learns into a new base before there are more.
pub(crate) const MAX_DELTA: usize = 4_096;

/// Addresses remembered as internal beyond the life of the fact that said so: 40 B each, 2.6 MB.
pub(crate) const MAX_STICKY: usize = 65_536;

/// The mutable part of the directory.
#[derive(Debug)]
pub(crate) struct Delta {
    table: PrefixTable<Statements>,
    /// Prefixes by the moment their last statement ends, so that the first to go is found without a scan.
    expiry: BTreeMap<Instant, BTreeSet<IpNet>>,
    due: BTreeMap<IpNet, Instant>,
    sticky: BTreeSet<IpAddr>,
}

impl Delta {
    pub(crate) fn new(hash_key: u64) -> Self {
        Self {
            table: PrefixTable::new(hash_key),
            expiry: BTreeMap::new(),
            due: BTreeMap::new(),
            sticky: BTreeSet::new(),
        }
    }

    pub(super) fn table(&self) -> &PrefixTable<Statements> {
        &self.table
    }

    /// Takes one change in. A hint that a single address is internal makes it so until an authoritative source says
    /// otherwise, however short the hint's own life is.
    pub(crate) fn apply(&mut self, change: &FactChange, now: Instant) {
        match change {
            FactChange::Learn(fact) => self.learn(fact, now),
            FactChange::Forget { prefix, source } => {
                let prefix = prefix.trunc();
                if let Some(at) = self.due.get(&prefix).copied() {
                    let statements = self.table.entry(prefix, Statements::default);
                    statements.forget(source);
                    if statements.is_empty() {
                        self.drop_prefix(prefix, at);
                    }
                }
            }
        }
    }

    /// Marks `address` as seen internal.
    pub(crate) fn stick(&mut self, address: IpAddr) {
        if self.sticky.len() < MAX_STICKY {
            self.sticky.insert(address);
        }
    }

    pub(crate) fn is_sticky(&self, address: IpAddr) -> bool {
        self.sticky.contains(&address)
    }

    /// A new base holds all that was applied so far; what is sticky stays.
    pub(crate) fn folded(&mut self, hash_key: u64) {
        self.table = PrefixTable::new(hash_key);
        self.expiry.clear();
        self.due.clear();
    }

    fn learn(&mut self, fact: &Fact, now: Instant) {
        if !fact.is_live(now) {
            return;
        }
        if fact.class == Class::Internal && fact.prefix.prefix_len() == fact.prefix.max_prefix_len() {
            self.stick(fact.prefix.addr());
        }
        let prefix = fact.prefix.trunc();
        let far = now + FOREVER;
        let expires = fact.expires.unwrap_or(far);
        if self.table.find(prefix).is_none() && self.table.len() >= MAX_DELTA {
            self.make_room();
        }
        let statements = self.table.entry(prefix, Statements::default);
        statements.retain(|known| known.is_live(now));
        statements.learn(fact.clone());
        let last = statements.iter().map(|known| known.expires.unwrap_or(far)).max().unwrap_or(expires);
        if let Some(at) = self.due.insert(prefix, last) {
            self.unschedule(prefix, at);
        }
        self.expiry.entry(last).or_default().insert(prefix);
    }

    /// Drops the prefix that would end first. An address that is forgotten is unknown again: asked, never bypassed.
    fn make_room(&mut self) {
        let first =
            self.expiry.first_key_value().and_then(|(at, set)| set.first().map(|prefix| (*at, *prefix)));
        if let Some((at, prefix)) = first {
            self.drop_prefix(prefix, at);
        }
    }

    fn drop_prefix(&mut self, prefix: IpNet, at: Instant) {
        self.table.remove(prefix);
        self.due.remove(&prefix);
        self.unschedule(prefix, at);
    }

    fn unschedule(&mut self, prefix: IpNet, at: Instant) {
        if let Some(set) = self.expiry.get_mut(&at) {
            set.remove(&prefix);
            if set.is_empty() {
                self.expiry.remove(&at);
            }
        }
    }
}

/// Stands for "never" in the order of expiry.
const FOREVER: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 86_400);
