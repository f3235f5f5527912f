//! All facts the control plane has heard, folded into a new base for the lane now and then.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tencrypt::directory::{Directory, Fact, FactSource};

/// A lane's delta takes 4,096 facts; it is folded well before.
const FOLD_AT: usize = 1_024;
/// Facts that are remembered: beyond that the soonest to end go. About 200 bytes each.
const MOST: usize = 65_536;
/// Folding no more often than this.
const PACE: Duration = Duration::from_secs(1);

/// The static facts, and those learnt since.
#[derive(Debug)]
pub(crate) struct FactBase {
    fixed: Vec<Fact>,
    learnt: BTreeMap<(IpNet, String), Fact>,
    fresh: usize,
    folded: Option<Instant>,
}

impl FactBase {
    /// Knowing only what the configuration says.
    #[must_use]
    pub(crate) fn new(fixed: Vec<Fact>) -> Self {
        Self { fixed, learnt: BTreeMap::new(), fresh: 0, folded: None }
    }

    /// Remembers facts.
    pub(crate) fn learn(&mut self, facts: &[Fact]) {
        for fact in facts {
            self.learnt.insert((fact.prefix, source_key(&fact.source)), fact.clone());
        }
        self.fresh += facts.len();
        while self.learnt.len() > MOST {
            let soonest = self.learnt.iter().min_by_key(|(_, fact)| fact.expires).map(|(key, _)| key.clone());
            match soonest {
                Some(key) => drop(self.learnt.remove(&key)),
                None => break,
            }
        }
    }

    /// A new base, if enough has changed since the last one.
    pub(crate) fn fold(&mut self, now: Instant, hash_key: u64) -> Option<Directory> {
        let paced = self.folded.is_none_or(|last| now.saturating_duration_since(last) >= PACE);
        if self.fresh < FOLD_AT || !paced {
            return None;
        }
        self.fresh = 0;
        self.folded = Some(now);
        self.learnt.retain(|_, fact| fact.is_live(now));
        Some(self.directory(hash_key))
    }

    /// All of it as a base.
    #[must_use]
    pub(crate) fn directory(&self, hash_key: u64) -> Directory {
        Directory::new(self.fixed.iter().chain(self.learnt.values()).cloned(), hash_key)
    }
}

/// Sources are told apart by what they print, escaped: enough for a key.
fn source_key(source: &FactSource) -> String {
    source.to_string()
}

#[cfg(test)]
mod tests {
    use tencrypt::directory::Class;

    use super::*;

    fn facts(count: u32, until: Instant) -> Vec<Fact> {
        (0..count)
            .map(|number| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 | number);
                let name = FactSource::Dns(format!("{number}.test").into());
                Fact::new(IpNet::from(std::net::IpAddr::V4(address)), Class::External, name, Some(until))
            })
            .collect()
    }

    #[test]
    fn a_base_is_made_when_enough_is_new_and_no_more_often_than_once_a_second() {
        let now = Instant::now();
        let mut base = FactBase::new(Vec::new());
        base.learn(&facts(FOLD_AT as u32 - 1, now + PACE * 60));
        assert!(base.fold(now, 1).is_none());
        base.learn(&facts(FOLD_AT as u32, now + PACE * 60));
        assert_eq!(base.fold(now, 1).map(|base| base.len()), Some(FOLD_AT));
        base.learn(&facts(FOLD_AT as u32 * 2, now + PACE * 60));
        assert!(base.fold(now + PACE / 2, 1).is_none());
        assert_eq!(base.fold(now + PACE, 1).map(|base| base.len()), Some(FOLD_AT * 2));
    }

    #[test]
    fn facts_that_have_ended_are_not_folded() {
        let now = Instant::now();
        let mut base = FactBase::new(Vec::new());
        base.learn(&facts(FOLD_AT as u32, now));
        assert_eq!(base.fold(now + PACE, 1).map(|base| base.len()), Some(0));
    }
}
