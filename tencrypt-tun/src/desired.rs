//! Desired state: everything that a capture installs in a namespace or presupposes there, compared with what the kernel has.
//!
//! Nothing here asks the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{
    name::InterfaceName,
    routing::Route,
    rules::{RuleFault, RuleRepair, Rules},
    table::TABLE,
    table_state::{Content, TableFault, TableState},
};

/// A part of what a capture installs or presupposes.
///
/// The order is that of putting back: first what stops plaintext, last what leads packets to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The nftables table with its chains, rules and sets.
    Chains,
    /// The interface's reverse path filter, which is not strict.
    ReversePathFilter,
    /// The TUN device: its name, size, queue and settings, and that it is up.
    Device,
    /// The routes of table 8362, and no others there.
    Routes,
    /// The rules that lead to the table, before all others.
    Rules,
}

impl Part {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Chains, Self::ReversePathFilter, Self::Device, Self::Routes, Self::Rules];

    /// The part's name in reports: one word in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chains => "chains",
            Self::ReversePathFilter => "rp_filter",
            Self::Device => "device",
            Self::Routes => "routes",
            Self::Rules => "rules",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceState {
    pub(crate) name: Option<InterfaceName>,
    pub(crate) up: bool,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Packets.
    pub(crate) queue: u32,
    /// Settings that are not as they have to be.
    pub(crate) altered: Vec<&'static str>,
}

/// Everything that has to stand.
#[derive(Debug)]
pub(crate) struct Desired<'a> {
    /// The table as it was installed; none: it has to be installed anew.
    pub(crate) table: Option<&'a TableState>,
    pub(crate) contents: BTreeMap<&'static str, Content>,
    pub(crate) device: DeviceState,
    pub(crate) routes: BTreeSet<Route>,
}

/// The kernel's state, as far as it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) table: Option<Option<TableState>>,
    /// Outer `Some`: looked at; inner: the interface's own value, where the filter is strict.
    pub(crate) strict: Option<Option<u8>>,
    pub(crate) device: Option<DeviceState>,
    /// Routes of the table; none for one that is not of this crate's making.
    pub(crate) routes: Option<Vec<Option<Route>>>,
    pub(crate) rules: Option<Rules>,
}

/// Something to be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repair {
    Table(TableFault),
    /// The interface's own value is this.
    ReversePathFilter(u8),
    Device(String),
    Routes {
        missing: usize,
        beside: usize,
    },
    Rule(RuleRepair),
}

impl Repair {
    pub(crate) fn part(&self) -> Part {
        match self {
            Self::Table(_) => Part::Chains,
            Self::ReversePathFilter(_) => Part::ReversePathFilter,
            Self::Device(_) => Part::Device,
            Self::Routes { .. } => Part::Routes,
            Self::Rule(_) => Part::Rules,
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(fault) => fault.fmt(f),
            Self::ReversePathFilter(own) => {
                write!(f, "the interface's rp_filter is strict (its own is {own})")
            }
            Self::Device(found) => f.write_str(found),
            Self::Routes { missing, beside } => {
                write!(f, "table 8362 lacks {missing} routes and has {beside} others")
            }
            Self::Rule(repair) => {
                let family = if repair.family == 0 { "IPv4" } else { "IPv6" };
                let fault = match repair.fault {
                    RuleFault::Missing => "is gone",
                    RuleFault::Preceded => "is not the first",
                };
                write!(f, "the {family} rule for table 8362 {fault}")
            }
        }
    }
}

impl Desired<'_> {
    /// Returns what has to be put back, in order.
    pub(crate) fn repairs(&self, seen: &Observed) -> Vec<Repair> {
        let mut repairs = Vec::new();
        if let Some(seen) = &seen.table {
            let fault = match self.table {
                Some(table) => table.fault(&self.contents, seen.as_ref()),
                None => Some(TableFault::Objects(TABLE)),
            };
            repairs.extend(fault.map(Repair::Table));
        }
        repairs.extend(seen.strict.flatten().map(Repair::ReversePathFilter));
        let altered = seen.device.as_ref().and_then(|seen| self.device.difference(seen));
        // The kernel takes routes away with the device's state, so they are looked at again after it.
        let looks_at_routes = altered.is_some();
        repairs.extend(altered.map(Repair::Device));
        if let Some(seen) = &seen.routes {
            let there: BTreeSet<Route> = seen.iter().flatten().copied().collect();
            let missing = self.routes.difference(&there).count();
            let beside = seen.iter().filter(|route| route.is_none_or(|route| !self.routes.contains(&route)));
            let beside = beside.count();
            if missing > 0 || beside > 0 || looks_at_routes {
                repairs.push(Repair::Routes { missing, beside });
            }
        } else if looks_at_routes {
            repairs.push(Repair::Routes { missing: 0, beside: 0 });
        }
        repairs.extend(seen.rules.iter().flat_map(Rules::repairs).map(Repair::Rule));
        repairs
    }
}

impl DeviceState {
    /// Returns what differs in `seen`, in words.
    fn difference(&self, seen: &Self) -> Option<String> {
        let mut found = Vec::new();
        if seen.name != self.name {
            let name = seen.name.map_or_else(String::new, |name| name.to_string());
            found.push(format!("it is called {name}"));
        }
        if seen.up != self.up {
            found.push("it is down".to_owned());
        }
        if seen.mtu != self.mtu {
            found.push(format!("its MTU is {}", seen.mtu));
        }
        if seen.queue != self.queue {
            found.push(format!("its queue is {}", seen.queue));
        }
        if !seen.altered.is_empty() {
            found.push(format!("settings were changed ({})", seen.altered.join(", ")));
        }
        (!found.is_empty()).then(|| format!("the TUN device: {}", found.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        routing::Kind,
        rules::{Rule, RuleKind},
    };

    fn device() -> DeviceState {
        let name = Some("tenc0".parse().expect("name"));
        DeviceState { name, up: true, mtu: 1440, queue: 1000, altered: Vec::new() }
    }

    fn route(prefix: &str, kind: Kind) -> Route {
        Route { kind, prefix: prefix.parse().expect("prefix") }
    }

    fn routes() -> BTreeSet<Route> {
        let source = IpAddr::from([10, 0, 0, 5]);
        let device = Kind::Device { index: 7, source, mtu: None };
        [route("10.0.0.0/8", Kind::Unreachable), route("10.0.0.0/8", device)].into()
    }

    fn desired(table: Option<&TableState>) -> Desired<'_> {
        Desired { table, contents: BTreeMap::new(), device: device(), routes: routes() }
    }

    fn rules(kinds: &[(u32, RuleKind)]) -> Rules {
        let list = kinds.iter().map(|&(preference, kind)| Rule { preference, kind }).collect();
        Rules([Some(list), None])
    }

    fn standing() -> Observed {
        Observed {
            table: Some(Some(TableState::default())),
            strict: Some(None),
            device: Some(device()),
            routes: Some(routes().into_iter().map(Some).collect()),
            rules: Some(rules(&[(0, RuleKind::Local), (8362, RuleKind::Own), (32_766, RuleKind::Foreign)])),
        }
    }

    fn parts(desired: &Desired<'_>, seen: &Observed) -> Vec<Part> {
        desired.repairs(seen).iter().map(Repair::part).collect()
    }

    #[test]
    fn nothing_is_done_where_all_stands_nor_where_nobody_looked() {
        let table = TableState::default();
        assert_eq!(desired(Some(&table)).repairs(&standing()), []);
        assert_eq!(desired(Some(&table)).repairs(&Observed::default()), []);
    }

    #[test]
    fn what_stops_plaintext_is_put_back_before_what_leads_to_the_device() {
        let table = TableState::default();
        let seen = Observed {
            table: Some(None),
            strict: Some(Some(1)),
            device: Some(DeviceState { up: false, ..device() }),
            routes: Some(Vec::new()),
            rules: Some(rules(&[(0, RuleKind::Local), (32_766, RuleKind::Foreign)])),
        };
        assert_eq!(parts(&desired(Some(&table)), &seen), Part::ALL);
    }

    #[test]
    fn each_difference_is_found_by_itself() {
        let table = TableState::default();
        let found = |change: &dyn Fn(&mut Observed)| {
            let mut seen = standing();
            change(&mut seen);
            parts(&desired(Some(&table)), &seen)
        };
        assert_eq!(found(&|seen| seen.table = Some(None)), [Part::Chains]);
        assert_eq!(found(&|seen| seen.strict = Some(Some(0))), [Part::ReversePathFilter]);
        let others = [
            DeviceState { name: None, ..device() },
            DeviceState { up: false, ..device() },
            DeviceState { mtu: 1500, ..device() },
            DeviceState { queue: 1, ..device() },
            DeviceState { altered: vec!["accept_ra"], ..device() },
        ];
        for other in others {
            assert_eq!(found(&|seen| seen.device = Some(other.clone())), [Part::Device, Part::Routes]);
        }
        assert_eq!(found(&|seen| seen.routes = Some(Vec::new())), [Part::Routes]);
        let more = |seen: &mut Observed| seen.routes.iter_mut().for_each(|routes| routes.push(None));
        assert_eq!(found(&more), [Part::Routes], "a route of somebody else's");
        let preceded = [(0, RuleKind::Local), (8361, RuleKind::Foreign), (8362, RuleKind::Own)];
        assert_eq!(found(&|seen| seen.rules = Some(rules(&preceded))), [Part::Rules]);
    }

    #[test]
    fn a_table_that_is_out_of_date_is_installed_anew() {
        assert_eq!(parts(&desired(None), &standing()), [Part::Chains]);
    }
}
