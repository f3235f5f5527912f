//! The immutable part of the directory, shared by all lanes.

use super::{Fact, FactSource, table::PrefixTable};

/// Facts by prefix: what is known at one moment. Built once, shared as an `Arc`, never changed; a Tunnel adds a small
/// delta of its own (see [`Tunnel::apply_facts`](crate::Tunnel::apply_facts)).
#[derive(Debug, Clone)]
pub struct Directory {
    table: PrefixTable<Statements>,
}

impl Directory {
    /// A directory of `facts`. Of several facts of one source about one prefix the last one counts. `hash_key` should
    /// be random: it keeps outsiders from choosing addresses that collide in the table.
    pub fn new(facts: impl IntoIterator<Item = Fact>, hash_key: u64) -> Self {
        let mut table = PrefixTable::new(hash_key);
        for fact in facts {
            table.entry(fact.prefix, Statements::default).learn(fact);
        }
        Self { table }
    }

    /// Number of prefixes something is known about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Tells if nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn table(&self) -> &PrefixTable<Statements> {
        &self.table
    }
}

/// Statements of all sources about one prefix, the most authoritative first.
#[derive(Debug, Clone, Default)]
pub(super) struct Statements(Vec<Fact>);

impl Statements {
    /// Names that one address is remembered under. A shared virtual host needs a few; a forger gets no more.
    const MAX_NAMES: usize = 4;

    pub(super) fn learn(&mut self, fact: Fact) {
        if let Some(known) = self.0.iter_mut().find(|known| known.source == fact.source) {
            *known = fact;
            return;
        }
        let authority = fact.source.authority();
        let same_rank = self.0.iter().filter(|known| known.source.authority() == authority).count();
        if same_rank >= Self::MAX_NAMES {
            let oldest = self
                .0
                .iter()
                .enumerate()
                .filter(|(_, known)| known.source.authority() == authority)
                .min_by_key(|(_, known)| known.expires)
                .map(|(at, _)| at);
            if let Some(at) = oldest {
                self.0.remove(at);
            }
        }
        let at = self.0.partition_point(|known| known.source.authority() >= authority);
        self.0.insert(at, fact);
    }

    pub(super) fn forget(&mut self, source: &FactSource) {
        self.0.retain(|known| known.source != *source);
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Fact) -> bool) {
        self.0.retain(keep);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{directory::Class, testing::start};

    fn name(name: &str, class: Class, second: u64) -> Fact {
        let expires = start() + Duration::from_secs(second);
        Fact::new(std::net::IpAddr::from([10, 0, 0, 1]), class, FactSource::Dns(name.into()), Some(expires))
    }

    fn names(statements: &Statements) -> Vec<&str> {
        statements.iter().filter_map(|fact| fact.source.dns_name()).collect()
    }

    /// The owner of a zone may give an address as many names as he likes.
    #[test]
    fn an_address_is_remembered_under_four_names_and_the_one_that_ends_first_makes_room() {
        let mut statements = Statements::default();
        let authority =
            Fact::new(std::net::IpAddr::from([10, 0, 0, 1]), Class::Internal, FactSource::Static, None);
        statements.learn(authority);
        for (label, second) in [("a", 40), ("b", 10), ("c", 30), ("d", 20), ("e", 50)] {
            statements.learn(name(label, Class::External, second));
        }
        assert_eq!(names(&statements), ["a", "c", "d", "e"]);
        statements.learn(name("c", Class::External, 60));
        assert_eq!(names(&statements).len(), 4, "a name that is known already takes no other's place");
        assert_eq!(statements.iter().count(), 5, "nor does any take that of another source");
        assert_eq!(statements.iter().next().map(|fact| &fact.source), Some(&FactSource::Static));
    }

    #[test]
    fn what_a_source_takes_back_is_gone_and_what_others_said_stays() {
        let mut statements = Statements::default();
        for label in ["a", "b"] {
            statements.learn(name(label, Class::Internal, 10));
        }
        statements.forget(&FactSource::Dns("a".into()));
        assert_eq!(names(&statements), ["b"]);
        statements.forget(&FactSource::Dns("b".into()));
        assert!(statements.is_empty());
    }
}
