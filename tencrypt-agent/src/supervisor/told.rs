//! The facts that the agent of the node has told, one about a prefix.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use tencrypt::directory::Fact;

use crate::node::Facts;

/// Most facts, about 300 bytes each: a tenant's own pods and services. More are refused, and what stood before stands.
const MOST: usize = 65_536;

/// There would be more facts than are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MOST} facts")]
pub(super) struct TooMany;

/// The agent's facts about a tenant.
#[derive(Debug, Default)]
pub(crate) struct Told {
    facts: BTreeMap<IpNet, Fact>,
    /// The prefixes that were named since an agent has begun anew; `None`: none has, or it has named all.
    named: Option<BTreeSet<IpNet>>,
}

impl Told {
    /// Knows these facts.
    pub(super) fn new(facts: Vec<Fact>) -> Result<Self, TooMany> {
        let facts: BTreeMap<_, _> = facts.into_iter().map(|fact| (fact.prefix, fact)).collect();
        if facts.len() > MOST { Err(TooMany) } else { Ok(Self { facts, named: None }) }
    }

    /// Notes that an agent begins to name everything there is. What stood before stands until it has.
    pub(super) fn begin(&mut self) {
        self.named = Some(BTreeSet::new());
    }

    /// Takes new facts in place of those about the same prefixes, and drops those to be forgotten. Returns true if anything is
    /// other than before.
    ///
    /// # Errors
    /// [`TooMany`]; nothing is changed then.
    pub(super) fn take(&mut self, Facts { learn, forget }: Facts) -> Result<bool, TooMany> {
        let added = learn.iter().map(|fact| fact.prefix).collect::<BTreeSet<_>>();
        let new = added.iter().filter(|prefix| !self.facts.contains_key(prefix)).count();
        let gone = forget.iter().filter(|prefix| self.facts.contains_key(prefix) && !added.contains(prefix));
        let left = self.facts.len() + new - gone.collect::<BTreeSet<_>>().len();
        // What makes no more of them is taken whatever there is: it may raise protection.
        if left > MOST.max(self.facts.len()) {
            return Err(TooMany);
        }
        let mut changed = false;
        for prefix in &forget {
            changed |= self.facts.remove(prefix).is_some();
        }
        for fact in learn {
            let before = self.facts.insert(fact.prefix, fact.clone());
            changed |= before.as_ref() != Some(&fact);
        }
        if let Some(named) = &mut self.named {
            named.extend(added);
        }
        Ok(changed)
    }

    /// Drops what an agent that has begun anew did not name. Returns true if there was any.
    pub(super) fn complete(&mut self) -> bool {
        let Some(named) = self.named.take() else { return false };
        let before = self.facts.len();
        self.facts.retain(|prefix, _| named.contains(prefix));
        self.facts.len() != before
    }

    /// Returns all of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.facts.values()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tencrypt::directory::{Class, FactSource};

    use super::*;

    fn prefix(number: u32) -> IpNet {
        IpNet::from(std::net::IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | number)))
    }

    fn fact(number: u32, class: Class) -> Fact {
        Fact::new(prefix(number), class, FactSource::Kubernetes, None)
    }

    fn learn(facts: impl IntoIterator<Item = Fact>) -> Facts {
        Facts { learn: facts.into_iter().collect(), forget: Vec::new() }
    }

    fn known(told: &Told) -> Vec<(IpNet, Class)> {
        told.iter().map(|fact| (fact.prefix, fact.class)).collect()
    }

    #[test]
    fn a_later_fact_takes_the_place_of_the_one_before_and_the_same_changes_nothing() {
        let mut told = Told::new(vec![fact(1, Class::Internal)]).unwrap();
        assert_eq!(told.take(learn([fact(1, Class::Internal)])), Ok(false));
        assert_eq!(told.take(learn([fact(1, Class::External), fact(2, Class::Internal)])), Ok(true));
        assert_eq!(known(&told), [(prefix(1), Class::External), (prefix(2), Class::Internal)]);
        let forget = Facts { learn: Vec::new(), forget: vec![prefix(1), prefix(7)] };
        assert_eq!(told.take(forget.clone()), Ok(true));
        assert_eq!(told.take(forget), Ok(false));
        assert_eq!(known(&told), [(prefix(2), Class::Internal)]);
    }

    #[test]
    fn what_a_new_agent_does_not_name_stands_until_it_has_named_everything() {
        let mut told = Told::new(vec![fact(1, Class::Internal), fact(2, Class::Internal)]).unwrap();
        assert!(!told.complete(), "nobody has begun anew");
        told.begin();
        assert_eq!(told.take(learn([fact(2, Class::Internal)])), Ok(false));
        assert_eq!(told.take(learn([fact(3, Class::Internal)])), Ok(true));
        assert_eq!(told.iter().count(), 3);
        assert!(told.complete());
        assert_eq!(known(&told), [(prefix(2), Class::Internal), (prefix(3), Class::Internal)]);
        assert!(!told.complete());
    }

    #[test]
    fn more_than_can_be_kept_is_refused_whole() {
        let many = (0..MOST as u32).map(|number| fact(number, Class::Internal));
        let mut told = Told::new(many.clone().collect()).unwrap();
        assert_eq!(told.take(learn([fact(1 << 20, Class::Internal)])), Err(TooMany));
        assert_eq!(told.iter().count(), MOST);
        let exchange = Facts { learn: vec![fact(1 << 20, Class::Internal)], forget: vec![prefix(0)] };
        assert_eq!(told.take(exchange), Ok(true));
        assert_eq!(told.iter().count(), MOST);
        // What is forgotten twice, or learnt again beside it, makes no room.
        let twice = Facts {
            learn: learn([2, 3].map(|number| fact(number << 20, Class::Internal))).learn,
            forget: vec![prefix(1); 2],
        };
        assert_eq!(told.take(twice), Err(TooMany));
        let again = Facts {
            learn: learn([1, 2 << 20].map(|number| fact(number, Class::Internal))).learn,
            forget: vec![prefix(1)],
        };
        assert_eq!(told.take(again), Err(TooMany));
        assert_eq!(told.take(learn([fact(1, Class::External)])), Ok(true), "as many as before");
        assert_eq!(told.iter().count(), MOST);
        assert!(Told::new(many.chain([fact(1 << 20, Class::Internal)]).collect()).is_err());
    }
}
