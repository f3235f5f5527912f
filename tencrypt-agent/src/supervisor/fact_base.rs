//! All facts the control plane has heard, folded into a new base for the lane now and then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tencrypt::directory::{Class, Directory, Fact, FactSource};
use tokio::sync::Notify;

use super::{by_end::ByEnd, told::Told};

/// A lane's delta takes 4,096 facts; it is folded well before.
const FOLD_AT: usize = 1_024;
/// Facts that are remembered, about 300 bytes each. Beyond that those go that are not internal, the soonest to end first, and
/// only then internal ones: names of others, however many they are, make no address of the tenant's forgotten. One that is
/// forgotten is unknown: asked, and never passed in plain.
const MOST: usize = 65_536;
/// Folding no more often than this.
const PACE: Duration = Duration::from_secs(1);

/// The static facts, and those learnt since.
#[derive(Debug)]
pub(crate) struct FactBase {
    fixed: Vec<Fact>,
    told: Told,
    internal: Learnt,
    others: Learnt,
    fresh: usize,
    folded: Option<Instant>,
    full: Arc<Notify>,
}

/// Facts by what they are about and who says so, in the order in which they end.
type Learnt = ByEnd<(IpNet, Arc<str>), End, Fact>;

/// End of a fact; one without comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(Instant),
    Never,
}

impl FactBase {
    /// Knowing only what the configuration says, and what the agent has told.
    #[must_use]
    pub(crate) fn new(fixed: Vec<Fact>, told: Told) -> Self {
        let (internal, others) = (ByEnd::new(), ByEnd::new());
        Self { fixed, told, internal, others, fresh: 0, folded: None, full: Arc::default() }
    }

    /// Returns what is notified when so much is new that a base is due.
    pub(crate) fn full(&self) -> Arc<Notify> {
        self.full.clone()
    }

    /// Returns what the agent has told, to be changed. A base is due at once after a change of it.
    pub(super) fn told(&mut self) -> &mut Told {
        &mut self.told
    }

    /// Remembers facts.
    pub(crate) fn learn(&mut self, facts: &[Fact]) {
        for fact in facts {
            let key = (fact.prefix, source_key(&fact.source));
            let (now, before) = match fact.class {
                Class::Internal => (&mut self.internal, &mut self.others),
                Class::External | Class::Exempt => (&mut self.others, &mut self.internal),
            };
            before.remove(&key);
            now.insert(key, fact.expires.map_or(End::Never, End::At), fact.clone());
            if self.internal.len() + self.others.len() > MOST && self.others.pop_first(|_| true).is_none() {
                self.internal.pop_first(|_| true);
            }
        }
        self.fresh += facts.len();
        if self.fresh >= FOLD_AT {
            self.full.notify_one();
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
        for learnt in [&mut self.internal, &mut self.others] {
            while learnt.pop_first(|end| end <= End::At(now)).is_some() {}
        }
        Some(self.directory(hash_key))
    }

    /// All of it as a base.
    #[must_use]
    pub(crate) fn directory(&self, hash_key: u64) -> Directory {
        let learnt = self.internal.iter().chain(self.others.iter());
        Directory::new(self.fixed.iter().chain(self.told.iter()).chain(learnt).cloned(), hash_key)
    }

    /// Returns the facts that something is internal which stand now and not until `end`.
    pub(crate) fn internal_ending(&self, now: Instant, end: Instant) -> Vec<Fact> {
        let ends_soon = |fact: &&Fact| fact.expires.is_some_and(|expires| expires < end);
        self.internal.iter().take_while(ends_soon).filter(|fact| fact.is_live(now)).cloned().collect()
    }
}

/// Sources are told apart by what they print, escaped: enough for a key.
fn source_key(source: &FactSource) -> Arc<str> {
    source.to_string().into()
}

#[cfg(test)]
mod tests {
    use tencrypt::directory::Standing;

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
        let mut base = FactBase::new(Vec::new(), Told::default());
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
        let mut base = FactBase::new(Vec::new(), Told::default());
        base.learn(&facts(FOLD_AT as u32, now));
        assert_eq!(base.fold(now + PACE, 1).map(|base| base.len()), Some(0));
    }

    /// The first of [`facts`], and internal.
    fn internal(until: Instant) -> Fact {
        let first = facts(1, until).remove(0);
        Fact::new(first.prefix, Class::Internal, first.source, first.expires)
    }

    #[test]
    fn names_of_others_push_nothing_out_that_is_the_tenants() {
        let now = Instant::now();
        let mut base = FactBase::new(Vec::new(), Told::default());
        let own = internal(now + PACE);
        let soon = facts(2, now + PACE).remove(1);
        base.learn(&[own.clone(), soon.clone()]);
        let many = facts(MOST as u32 + 7, now + PACE * 300);
        base.learn(&many[2..]);
        let directory = base.directory(1);
        assert_eq!((directory.len(), base.internal.len(), base.others.len()), (MOST, 1, MOST - 1));
        let standing = |fact: &Fact| {
            let config = tencrypt::TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
            directory.classify(&config, fact.prefix.addr(), now).standing
        };
        assert_eq!(standing(&own), Standing::Internal);
        assert_eq!(standing(&soon), Standing::Unknown, "the first to end");
        assert_eq!(standing(&many[MOST]), Standing::Claimed);
    }

    #[test]
    fn internal_facts_that_end_soon_are_found_and_may_be_prolonged() {
        let now = Instant::now();
        let mut base = FactBase::new(Vec::new(), Told::default());
        base.learn(&[internal(now + PACE * 20)]);
        base.learn(&facts(3, now + PACE)[1..]);
        assert_eq!(base.internal_ending(now, now + PACE * 20), []);
        assert_eq!(base.internal_ending(now, now + PACE * 21), [internal(now + PACE * 20)]);
        assert_eq!(base.internal_ending(now + PACE * 20, now + PACE * 40), [], "it is over");
        base.learn(&[internal(now + PACE * 40)]);
        assert_eq!(base.internal_ending(now, now + PACE * 21), []);
    }

    #[test]
    fn a_static_fact_about_the_address_beats_what_dns_says_of_it() {
        let now = Instant::now();
        let address: std::net::IpAddr = [10, 0, 0, 0].into();
        let fixed = Fact::new(address, Class::External, FactSource::Static, None);
        let mut base = FactBase::new(vec![fixed], Told::default());
        base.learn(&[internal(now + PACE)]);
        let config = tencrypt::TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(base.directory(1).classify(&config, address, now).standing, Standing::External);
    }
}
