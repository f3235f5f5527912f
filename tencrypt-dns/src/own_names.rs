//! The addresses that names of the project's own may have.
//!
//! Only the protected ranges lead to the tunnel. An answer that gives a name of the tenant's an address elsewhere would
//! have its data leave in plain, on nobody's word but that of DNS.

use std::net::IpAddr;

use ipnet::IpNet;
use tencrypt::directory::Class;

use crate::{
    Name, Project,
    message::{CLASS_IN, Data, MessageError, Question, Record, Reply, Sections, record_type},
};

/// The ranges in which names of the project's own have addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers make it")]
pub struct Ranges {
    /// The ranges that lead to the tunnel: pods and services of the cluster.
    pub protected: Vec<IpNet>,
    /// Ranges that are left alone, inside the protected ones or not, such as the nodes' addresses: those of pods with
    /// `hostNetwork`. They go before the protected ones.
    pub exempt: Vec<IpNet>,
}

/// Place of an address among [`Ranges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Protected,
    Exempt,
    Outside,
}

impl Ranges {
    pub(crate) fn place(&self, address: IpAddr) -> Place {
        let holds = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
        match (holds(&self.exempt), holds(&self.protected)) {
            (true, _) => Place::Exempt,
            (false, true) => Place::Protected,
            (false, false) => Place::Outside,
        }
    }
}

/// A name of the project's own with an address that is neither protected nor exempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignAddress {
    /// The name.
    pub name: Name,
    /// The address; `None`: the reply could not be read, and may hold any.
    pub address: Option<IpAddr>,
}

/// Looks for a foreign address that a reply gives a name of the project's own.
///
/// Where such a name was asked for, or is anywhere among the owners and targets of the answer section, no address in that
/// section may be foreign, whoever's it is: what an application makes of records that are no chain is its own affair. In the
/// other sections that holds for the addresses of such names. A reply that cannot be read counts as one with a foreign
/// address if the question was for addresses of such a name, or for a zone that may hold some.
pub(crate) fn foreign_address(
    reply: &Reply<'_>,
    sections: Result<&Sections, MessageError>,
    project: &Project,
    ranges: &Ranges,
) -> Option<ForeignAddress> {
    let question = reply.query().question()?;
    let is_own = |name: &Name| project.class_of(name) == Class::Internal;
    let asked = Some(&question.name).filter(|name| is_own(name));
    let Ok(sections) = sections else {
        let may_hold_any = match reply.query().is_transfer() {
            true => project.has_names_in(&question.name),
            false => asked.is_some() && asks_for_addresses(question),
        };
        return may_hold_any.then(|| ForeignAddress { name: question.name.clone(), address: None });
    };
    let foreign = |record: &Record| address_of(record).filter(|at| ranges.place(*at) == Place::Outside);
    let own = asked.or_else(|| sections.answers.iter().flat_map(names_of).find(|name| is_own(name)));
    let answered = own.and_then(|name| Some((name, sections.answers.iter().find_map(foreign)?)));
    let found = answered.or_else(|| {
        let others = sections.others.iter().filter(|record| is_own(&record.owner));
        others.into_iter().find_map(|record| Some((&record.owner, foreign(record)?)))
    });
    found.map(|(name, address)| ForeignAddress { name: name.clone(), address: Some(address) })
}

fn asks_for_addresses(question: &Question) -> bool {
    use record_type::{A, AAAA, ANY, HTTPS, SVCB};
    question.class == CLASS_IN && [A, AAAA, ANY, HTTPS, SVCB].contains(&question.record_type)
}

/// The address that a connection to that of a record would go to.
fn address_of(record: &Record) -> Option<IpAddr> {
    match &record.data {
        Data::Address(address) | Data::Hint(address) => Some(address.to_canonical()),
        Data::Alias(_) | Data::Pointer(_) => None,
    }
}

/// The names in a chain that a record is a link of.
fn names_of(record: &Record) -> impl Iterator<Item = &Name> {
    let target = match &record.data {
        Data::Alias(target) => Some(target),
        Data::Address(_) | Data::Hint(_) | Data::Pointer(_) => None,
    };
    std::iter::once(&record.owner).chain(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Query, wire};

    const OWN: &str = "web.shop.svc.cluster.local";
    const FOREIGN: &str = "www.example.com";
    const OUTSIDE: &str = "203.0.113.10";

    fn found_in(
        asked: &str,
        record_type: u16,
        answers: &[Vec<u8>],
        additional: &[Vec<u8>],
    ) -> Option<(String, Option<String>)> {
        found(&wire::query(7, asked, record_type), |query| {
            wire::reply_with(query, 0, answers, &[], additional)
        })
    }

    fn found(query: &[u8], reply: impl Fn(&[u8]) -> Vec<u8>) -> Option<(String, Option<String>)> {
        let project = Project::new("shop", Name::from_text("cluster.local").unwrap()).unwrap();
        let net = |text: &str| text.parse().unwrap();
        let ranges = Ranges {
            protected: vec![net("10.96.0.0/12"), net("fd00:96::/64")],
            exempt: vec![net("192.168.0.0/24"), net("10.97.0.0/24")],
        };
        let bytes = reply(query);
        let query = Query::parse(query).unwrap();
        let reply = query.verify(&bytes).unwrap();
        let sections = reply.sections();
        let sections = sections.as_ref().map_err(|error| *error);
        let found = foreign_address(&reply, sections, &project, &ranges)?;
        Some((found.name.to_string(), found.address.map(|address| address.to_string())))
    }

    #[track_caller]
    fn assert_found(found: Option<(String, Option<String>)>, name: &str, address: &str) {
        assert_eq!(found, Some((name.to_owned(), Some(address.to_owned()))));
    }

    #[test]
    fn d06_an_own_name_has_protected_and_exempt_addresses_and_no_others() {
        let with = |address: &str| {
            let kind = if address.contains(':') { wire::AAAA } else { wire::A };
            found_in(OWN, kind, &[wire::address(OWN, 30, address)], &[])
        };
        for inside in ["10.96.7.7", "fd00:96::7", "::ffff:10.96.7.7", "192.168.0.9", "10.97.0.9"] {
            assert_eq!(with(inside), None, "{inside}");
        }
        for outside in [OUTSIDE, "fd00:97::7", "10.128.0.1", "127.0.0.1", "169.254.1.1"] {
            assert_found(with(outside), OWN, outside);
        }
        assert_found(with("::ffff:203.0.113.10"), OWN, OUTSIDE);
    }

    #[test]
    fn d06_one_foreign_address_among_many_is_found_wherever_it_stands() {
        let many = |outside: usize| -> Vec<_> {
            (0..1_400)
                .map(|at| {
                    let last = format!("10.98.{}.{}", at / 250, at % 250 + 1);
                    wire::address(OWN, 30, if at == outside { OUTSIDE } else { &last })
                })
                .collect()
        };
        // Beyond what becomes facts too.
        for at in [0, 700, 1_399] {
            assert_found(found_in(OWN, wire::A, &many(at), &[]), OWN, OUTSIDE);
        }
        assert_eq!(found_in(OWN, wire::A, &many(usize::MAX), &[]), None);
    }

    #[test]
    fn d08_an_own_name_anywhere_in_the_chain_counts() {
        let end = |owner| wire::address(owner, 30, OUTSIDE);
        let out = [wire::alias(OWN, 30, FOREIGN), end(FOREIGN)];
        assert_found(found_in(OWN, wire::A, &out, &[]), OWN, OUTSIDE);
        let into = [wire::alias(FOREIGN, 30, OWN), end(OWN)];
        assert_found(found_in(FOREIGN, wire::A, &into, &[]), OWN, OUTSIDE);
        let through = [wire::alias(FOREIGN, 30, OWN), wire::alias(OWN, 30, "a.example"), end("a.example")];
        assert_found(found_in(FOREIGN, wire::A, &through, &[]), OWN, OUTSIDE);
        let foreign = [wire::alias(FOREIGN, 30, "a.example"), end("a.example")];
        assert_eq!(found_in(FOREIGN, wire::A, &foreign, &[]), None);
        // An alias alone, as the answer to AAAA where there are IPv4 addresses alone.
        assert_eq!(found_in(OWN, wire::AAAA, &[wire::alias(OWN, 30, FOREIGN)], &[]), None);
    }

    #[test]
    fn d08_records_that_are_no_chain_hide_nothing() {
        let address = |owner| wire::address(owner, 30, OUTSIDE);
        for answers in [
            vec![wire::alias(OWN, 30, FOREIGN), address(OWN)],
            vec![wire::alias(OWN, 30, OWN), address(FOREIGN)],
            vec![address("nobody.example")],
        ] {
            assert_found(found_in(OWN, wire::A, &answers, &[]), OWN, OUTSIDE);
        }
        let long: Vec<_> = (0..20)
            .map(|at| wire::alias(&format!("n{at}.example"), 60, &format!("n{}.example", at + 1)))
            .chain([wire::alias("n20.example", 60, OWN), address(OWN)])
            .collect();
        assert_found(found_in("n0.example", wire::A, &long, &[]), OWN, OUTSIDE);
    }

    #[test]
    fn d11_glue_and_hints_are_addresses_too() {
        let service = "_http._tcp.web.shop.svc.cluster.local";
        let target = [&[0, 0, 0, 100, 0, 80][..], &wire::name(OWN)].concat();
        let answer = [wire::record(service, wire::SRV, 30, &target)];
        assert_found(found_in(service, wire::SRV, &answer, &[wire::address(OWN, 30, OUTSIDE)]), OWN, OUTSIDE);
        let right = [wire::address(OWN, 30, "10.96.7.7"), wire::address(FOREIGN, 30, OUTSIDE)];
        assert_eq!(found_in(service, wire::SRV, &answer, &right), None);
        // Priority 1, target of the root, ipv4hint (RFC 9460 section 2.2).
        let hint = [&[0, 1, 0, 0, 4, 0, 4][..], &[203, 0, 113, 10]].concat();
        let answer = [wire::record(OWN, record_type::HTTPS, 30, &hint)];
        assert_found(found_in(OWN, record_type::HTTPS, &answer, &[]), OWN, OUTSIDE);
    }

    #[test]
    fn d03_an_unreadable_answer_about_addresses_of_an_own_name_may_hold_any() {
        let spoilt = |query: &[u8]| {
            let mut reply = wire::reply(query, &[]);
            reply[7] = 200;
            reply
        };
        assert_eq!(found(&wire::query(7, OWN, wire::A), spoilt), Some((OWN.to_owned(), None)));
        assert_eq!(found(&wire::query(7, OWN, wire::TXT), spoilt), None);
        assert_eq!(found(&wire::query(7, FOREIGN, wire::A), spoilt), None);
    }
}
