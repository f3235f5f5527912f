//! The routing rule's place: before everybody else's, behind the local table.
//!
//! A rule that somebody adds without a preference comes before the second of the list (`fib_default_rule_pref`,
//! net/core/fib_rules.c), and so before this crate's, which then decides nothing.

use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use crate::{
    netlink::Netlink,
    routing::{FAMILIES, PREFERENCE, dump_rules, is_own_rule, preference, rule},
    underlay::is_unsupported,
};

/// `RT_TABLE_LOCAL` (include/uapi/linux/rtnetlink.h).
const LOCAL: u32 = 255;

/// A rule, as far as its place matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) preference: u32,
    pub(crate) kind: RuleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleKind {
    Own,
    /// Looks into the table of the pod's own addresses, which has to come first.
    Local,
    Foreign,
}

/// The rules of both families, in the order in which the kernel asks them; no list for a family that it has not got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Rules(pub(crate) [Option<Vec<Rule>>; 2]);

/// Something that is wrong with the rules of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleFault {
    /// There is none of this crate's.
    Missing,
    /// Another one decides before it; or there are two, left by a repair that was interrupted.
    Preceded,
}

/// A rule that has to be put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleRepair {
    /// Index into [`Rules`].
    pub(crate) family: usize,
    pub(crate) fault: RuleFault,
    /// The place that is right; none: somebody's rule stands before the local table, or beside it.
    pub(crate) preference: Option<u32>,
}

impl Rules {
    /// Reads the rules.
    pub(crate) fn read(netlink: &mut Netlink) -> io::Result<Self> {
        let mut families = [None, None];
        for (list, family) in families.iter_mut().zip(FAMILIES) {
            let rules: Vec<Rule> = dump_rules(netlink, family)?.iter().map(Rule::from).collect();
            *list = (!rules.is_empty() || family == AddressFamily::Inet).then_some(rules);
        }
        Ok(Self(families))
    }

    /// Returns what has to be done for this crate's rule to decide before all others but the local table's.
    pub(crate) fn repairs(&self) -> Vec<RuleRepair> {
        let families = self.0.iter().enumerate();
        families
            .filter_map(|(family, rules)| {
                let (fault, preference) = fault(rules.as_ref()?)?;
                Some(RuleRepair { family, fault, preference })
            })
            .collect()
    }
}

/// The fault of a list of rules, and the preference of one that has none.
fn fault(rules: &[Rule]) -> Option<(RuleFault, Option<u32>)> {
    let is = |kind| move |rule: &&Rule| rule.kind == kind;
    let place = |kind| rules.iter().position(|rule| rule.kind == kind);
    let own = rules.iter().filter(is(RuleKind::Own)).count();
    let fault = match (place(RuleKind::Own), place(RuleKind::Foreign)) {
        (None, _) => RuleFault::Missing,
        (Some(own), Some(foreign)) if foreign < own => RuleFault::Preceded,
        _ if own > 1 => RuleFault::Preceded,
        _ => return None,
    };
    let local = rules.iter().find(is(RuleKind::Local)).map_or(0, |rule| rule.preference);
    let foreign = rules.iter().find(is(RuleKind::Foreign)).map(|rule| rule.preference);
    // Of equal preferences the older rule comes first.
    let latest = foreign.map_or(Some(PREFERENCE), |foreign| foreign.checked_sub(1));
    Some((fault, latest.map(|latest| latest.min(PREFERENCE)).filter(|preference| *preference >= local)))
}

impl From<&RuleMessage> for Rule {
    fn from(rule: &RuleMessage) -> Self {
        let table = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = table.unwrap_or_else(|| rule.header.table.into());
        let kind = if is_own_rule(rule) {
            RuleKind::Own
        } else if rule.header.action == RuleAction::ToTable && table == LOCAL {
            RuleKind::Local
        } else {
            RuleKind::Foreign
        };
        Self { preference: preference(rule).unwrap_or_default(), kind }
    }
}

/// Puts the rule of a family in its place: the new one stands before others of this crate's go.
pub(crate) fn put(netlink: &mut Netlink, repair: RuleRepair) -> io::Result<()> {
    let family = FAMILIES[repair.family];
    // Without a right place there is a usual one: better there than nowhere.
    let at = repair.preference.unwrap_or(PREFERENCE);
    match netlink.request(RouteNetlinkMessage::NewRule(rule(family, at)), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if family == AddressFamily::Inet6 && is_unsupported(&error) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => drop(result?),
    }
    let others = dump_rules(netlink, family)?.into_iter();
    for other in others.filter(|rule| is_own_rule(rule) && preference(rule) != Some(at)) {
        match netlink.request(RouteNetlinkMessage::DelRule(other), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => drop(result?),
        }
    }
    Ok(())
}

/// Makes the kernel look up anew the routes of IPv6 sockets that are connected.
///
/// Such a socket keeps the route that it has found for as long as that one's table does not change
/// (`ip6_dst_check`, net/ipv6/route.c): one that found none in this crate's table, and so one in the main table, would not go
/// over to a route that comes later. A change of the rules has all of them look (`fib6_rule_flush_cache`,
/// net/ipv6/fib6_rules.c). IPv4 does so with every change of a route.
pub(crate) fn look_up_anew(netlink: &mut Netlink) -> io::Result<()> {
    // Right behind the one that is always there, which says the same: it decides nothing.
    let twin = rule(AddressFamily::Inet6, PREFERENCE + 1);
    match netlink.request(RouteNetlinkMessage::NewRule(twin.clone()), NLM_F_CREATE | NLM_F_EXCL) {
        Err(error) if is_unsupported(&error) => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => drop(result?),
    }
    netlink.request(RouteNetlinkMessage::DelRule(twin), 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{RuleKind::*, *};

    fn rules(list: &[(u32, RuleKind)]) -> Vec<Rule> {
        list.iter().map(|&(preference, kind)| Rule { preference, kind }).collect()
    }

    #[test]
    fn the_rule_decides_first_behind_the_local_table() {
        let missing = |preference| Some((RuleFault::Missing, preference));
        let preceded = |preference| Some((RuleFault::Preceded, preference));
        let main = (32_766, Foreign);
        for (list, expected) in [
            (&[(0, Local), (8362, Own), main][..], None),
            (&[(0, Local), main], missing(Some(8362))),
            (&[], missing(Some(8362))),
            (&[(0, Local), (8361, Foreign), (8362, Own), main], preceded(Some(8360))),
            (&[(0, Local), (8360, Own), (8361, Foreign), main], None),
            (&[(0, Local), (8362, Foreign), (8362, Own), main], preceded(Some(8361))),
            (&[(0, Local), (100, Foreign), main], missing(Some(99))),
            (&[(0, Local), (1, Foreign), (8362, Own)], preceded(Some(0))),
            (&[(0, Local), (8360, Own), (8362, Own), main], preceded(Some(8362))),
            (&[(0, Local), (0, Foreign), (8362, Own)], preceded(None)),
            // Where somebody has moved the local table.
            (&[(100, Local), (8362, Own), main], None),
            (&[(100, Local), (200, Foreign), (8362, Own)], preceded(Some(199))),
            (&[(50, Foreign), (100, Local), (8362, Own)], preceded(None)),
        ] {
            assert_eq!(fault(&rules(list)), expected, "{list:?}");
        }
    }

    #[test]
    fn a_family_that_the_kernel_has_not_got_needs_no_rule() {
        let standing = rules(&[(0, Local), (8362, Own)]);
        assert_eq!(Rules([Some(standing.clone()), None]).repairs(), []);
        let lost = Rules([Some(standing), Some(Vec::new())]).repairs();
        let expected = RuleRepair { family: 1, fault: RuleFault::Missing, preference: Some(8362) };
        assert_eq!(lost, [expected]);
    }
}
