//! Facts that one Tunnel learnt since its base directory was built.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use ipnet::IpNet;

use super::{Fact, FactChange, base::Statements, table::PrefixTable};

/// Prefixes of a delta. The tunnel's owner folds what it learns into a new base before there are more.
pub(crate) const MAX_DELTA: usize = 4_096;

/// Addresses remembered as internal because a handshake proved it: 100 bytes each. Beyond that the first to end goes.
pub(crate) const MAX_STICKY: usize = 65_536;

/// The mutable part of the directory.
#[derive(Debug)]
pub(crate) struct Delta {
    table: PrefixTable<Statements>,
    /// Prefixes by the moment their last statement ends, so that the first to go is found without a scan.
    expiry: BTreeMap<Instant, BTreeSet<IpNet>>,
    due: BTreeMap<IpNet, Instant>,
    /// Addresses that a handshake proved to be internal, and until when that counts.
    sticky: BTreeMap<IpAddr, Instant>,
    sticky_ends: BTreeSet<(Instant, IpAddr)>,
}

impl Delta {
    pub(crate) fn new(hash_key: u64) -> Self {
        Self {
            table: PrefixTable::new(hash_key),
            expiry: BTreeMap::new(),
            due: BTreeMap::new(),
            sticky: BTreeMap::new(),
            sticky_ends: BTreeSet::new(),
        }
    }

    pub(super) fn table(&self) -> &PrefixTable<Statements> {
        &self.table
    }

    /// Takes one change in. A hint counts as long as it says, and no longer.
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

    /// Marks `address` as proved to be internal, until then at least.
    pub(crate) fn stick(&mut self, address: IpAddr, until: Instant) {
        let until = self.sticky.get(&address).map_or(until, |set| until.max(*set));
        if let Some(before) = self.sticky.insert(address, until) {
            self.sticky_ends.remove(&(before, address));
        }
        self.sticky_ends.insert((until, address));
        if self.sticky.len() > MAX_STICKY
            && let Some((_, first)) = self.sticky_ends.pop_first()
        {
            self.sticky.remove(&first);
        }
    }

    /// Returns until when `address` counts as internal by what was proved, if it does.
    pub(crate) fn sticky_until(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        self.sticky.get(&address).copied().filter(|until| *until > now)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        directory::{Class, FactSource},
        testing::start,
    };

    fn address(number: usize) -> IpAddr {
        IpAddr::from((number as u32).to_be_bytes())
    }

    #[test]
    fn what_was_proved_counts_until_its_time_and_a_shorter_proof_takes_nothing_away() {
        let (mut delta, now) = (Delta::new(1), start());
        let second = |number| now + Duration::from_secs(number);
        delta.stick(address(1), second(10));
        delta.stick(address(1), second(5));
        assert_eq!(delta.sticky_until(address(1), second(9)), Some(second(10)));
        assert_eq!(delta.sticky_until(address(1), second(10)), None);
        delta.folded(2);
        assert!(delta.sticky_until(address(1), now).is_some(), "a new base takes nothing of it away");
    }

    #[test]
    fn what_was_proved_is_bounded_and_what_ends_first_goes_first() {
        let (mut delta, now) = (Delta::new(1), start());
        let until = |number: usize| now + Duration::from_millis(1 + number as u64);
        for number in (0..MAX_STICKY + 2).rev() {
            delta.stick(address(number), until(number));
        }
        assert_eq!((delta.sticky.len(), delta.sticky_ends.len()), (MAX_STICKY, MAX_STICKY));
        let is_kept = |number: usize| delta.sticky_until(address(number), now).is_some();
        assert!(!is_kept(0) && !is_kept(1) && is_kept(2) && is_kept(MAX_STICKY + 1));
    }

    fn hint(number: usize, second: u64) -> FactChange {
        let expires = start() + Duration::from_secs(second);
        FactChange::Learn(Fact::new(address(number), Class::Internal, source(), Some(expires)))
    }

    fn source() -> FactSource {
        FactSource::Dns("web.shop.svc.cluster.local".into())
    }

    #[test]
    fn facts_are_bounded_and_what_ends_first_goes_first() {
        let (mut delta, now) = (Delta::new(1), start());
        for number in 0..MAX_DELTA + 2 {
            // The last ones end first of all.
            delta.apply(&hint(number, (2 * MAX_DELTA - number) as u64), now);
        }
        let is_known = |number: usize| delta.table.find(address(number).into()).is_some();
        assert_eq!((delta.table.len(), delta.due.len()), (MAX_DELTA, MAX_DELTA));
        assert!(is_known(0) && is_known(MAX_DELTA - 2) && is_known(MAX_DELTA + 1));
        assert!(!is_known(MAX_DELTA - 1) && !is_known(MAX_DELTA));
    }

    #[test]
    fn what_is_taken_back_is_gone_and_so_is_its_place() {
        let (mut delta, now) = (Delta::new(1), start());
        delta.apply(&hint(1, 10), now);
        let other = Fact::new(address(1), Class::External, FactSource::Static, None);
        delta.apply(&FactChange::Learn(other), now);
        let forget = |source| FactChange::Forget { prefix: address(1).into(), source };
        delta.apply(&forget(source()), now);
        let left: Vec<_> =
            delta.table.find(address(1).into()).into_iter().flat_map(Statements::iter).collect();
        assert!(matches!(&left[..], [fact] if fact.source == FactSource::Static));
        delta.apply(&forget(FactSource::Static), now);
        assert_eq!((delta.table.len(), delta.due.len(), delta.expiry.len()), (0, 0, 0));
    }
}
