//! The two pods of a proof.

use std::net::IpAddr;

use super::report::{End, Family, State};

/// A pod of the namespace.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// Its name, node and addresses.
    pub(super) end: End,
    /// The agent's pod on its node.
    pub(super) agent: String,
    /// The id of its network namespace.
    pub(super) id: String,
    /// The UDP port of its first lane.
    pub(super) port: u16,
}

impl Candidate {
    /// Its address of a family, if it has one that others can reach.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        let is_reached = |address: &&IpAddr| match (address, family) {
            (IpAddr::V4(v4), Family::Ipv4) => !v4.is_loopback() && !v4.is_link_local(),
            (IpAddr::V6(v6), Family::Ipv6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
            _ => false,
        };
        self.end.addresses.iter().find(is_reached).copied()
    }

    /// All of its addresses, that of this family first.
    pub(super) fn addresses(&self, family: Family) -> Vec<IpAddr> {
        let first = self.address(family);
        let others = self.end.addresses.iter().copied().filter(|&address| Some(address) != first);
        first.into_iter().chain(others).collect()
    }
}

/// Families in which both have an address.
pub(super) fn families(from: &Candidate, to: &Candidate) -> impl Iterator<Item = Family> {
    let both = [Family::Ipv4, Family::Ipv6];
    both.map(|family| (family, from.address(family).is_some() && to.address(family).is_some()))
        .into_iter()
        .filter_map(|(family, is_there)| is_there.then_some(family))
}

/// Chooses two of the protected pods: those that are named, on different nodes if there are any, with as many families as can be.
///
/// # Errors
/// A line: one that is named is not protected, or there are no two.
pub(super) fn choose<'c>(
    candidates: &'c [Candidate],
    others: &[(String, State, Option<String>)],
    (from, to): (Option<&str>, Option<&str>),
) -> Result<(&'c Candidate, &'c Candidate), String> {
    if from.is_some() && from == to {
        return Err("--from and --to name one pod".to_owned());
    }
    let named = |name: Option<&str>| -> Result<Vec<&'c Candidate>, String> {
        let Some(name) = name else { return Ok(candidates.iter().collect()) };
        if let Some(found) = candidates.iter().find(|candidate| candidate.end.pod == name) {
            return Ok(vec![found]);
        }
        Err(match others.iter().find(|(other, ..)| other == name) {
            Some((_, state, Some(reason))) => format!("pod {name} is {}: {reason}", state.as_str()),
            Some((_, state, None)) => format!("pod {name} is {}", state.as_str()),
            None => format!("there is no pod {name} that runs"),
        })
    };
    let (from, to) = (named(from)?, named(to)?);
    let worth =
        |one: &Candidate, other: &Candidate| (one.end.node != other.end.node, families(one, other).count());
    let mut best: Option<(&Candidate, &Candidate)> = None;
    for one in from {
        for &other in to.iter().filter(|other| other.end.pod != one.end.pod) {
            let is_able = families(one, other).next().is_some();
            if is_able && best.is_none_or(|(from, to)| worth(one, other) > worth(from, to)) {
                best = Some((one, other));
            }
        }
    }
    best.ok_or_else(|| {
        format!(
            "it takes two protected pods with addresses of one family, and {} are protected: `status` has the others",
            candidates.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(pod: &str, node: &str, addresses: &[&str]) -> Candidate {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Candidate {
            end: End { pod: pod.into(), node: node.into(), addresses },
            agent: "a".into(),
            id: "4-1".into(),
            port: 8362,
        }
    }

    fn chosen(candidates: &[Candidate], from: Option<&str>, to: Option<&str>) -> Result<[String; 2], String> {
        let others = [("db-0".to_owned(), State::Waiting, Some("no key".to_owned()))];
        let (from, to) = choose(candidates, &others, (from, to))?;
        Ok([from.end.pod.clone(), to.end.pod.clone()])
    }

    #[test]
    fn two_on_different_nodes_are_taken_and_then_those_with_both_families() {
        let all = [
            candidate("a", "n1", &["10.0.0.1", "fd00::1"]),
            candidate("b", "n1", &["10.0.0.2", "fd00::2"]),
            candidate("c", "n2", &["10.0.0.3"]),
            candidate("d", "n2", &["10.0.0.4", "fe80::4", "fd00::4"]),
        ];
        let pair = |one: &str, other: &str| Ok([one.to_owned(), other.to_owned()]);
        assert_eq!(chosen(&all, None, None), pair("a", "d"));
        assert_eq!(chosen(&all, Some("c"), None), pair("c", "a"));
        assert_eq!(chosen(&all, None, Some("c")), pair("a", "c"));
        assert_eq!(chosen(&all, Some("d"), Some("c")), pair("d", "c"));
        assert_eq!(chosen(&all[..2], None, None), pair("a", "b"));
        assert_eq!(all[3].address(Family::Ipv6), Some("fd00::4".parse().unwrap()));
        let sorted: Vec<String> = all[3].addresses(Family::Ipv6).iter().map(ToString::to_string).collect();
        assert_eq!(sorted, ["fd00::4", "10.0.0.4", "fe80::4"]);
        assert_eq!(families(&all[2], &all[3]).collect::<Vec<_>>(), [Family::Ipv4]);
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        let all = [candidate("a", "n1", &["10.0.0.1"]), candidate("b", "n2", &["fd00::2"])];
        let error = |from, to| chosen(&all, from, to).unwrap_err();
        assert_eq!(error(Some("db-0"), None), "pod db-0 is waiting: no key");
        assert_eq!(error(None, Some("x")), "there is no pod x that runs");
        assert_eq!(error(Some("a"), Some("a")), "--from and --to name one pod");
        assert!(error(None, None).contains("and 2 are protected"));
        assert!(chosen(&all[..1], None, None).is_err());
    }
}
