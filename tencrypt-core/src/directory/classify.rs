//! From facts to a class: which statement counts for an address.

use std::{net::IpAddr, time::Instant};

use ipnet::IpNet;

use super::{Class, Directory, Fact, FactSource, PeerId, delta::Delta};
use crate::config::{External, TunnelConfig};

/// What the facts make of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers decide on every case")]
pub enum Standing {
    /// Of the tenant.
    Internal,
    /// Not of the tenant, on the word of an authoritative source, or outside the protected ranges.
    External,
    /// Not of the tenant on the word of DNS alone: passes, but is asked in the background.
    Claimed,
    /// Of the node or the cluster.
    Exempt,
    /// Inside the protected ranges, and nobody has said anything that counts.
    Unknown,
}

/// Why an address stands as it does.
#[derive(Debug, Clone)]
pub(crate) struct Finding<'d> {
    pub(crate) standing: Standing,
    /// The statement that decided, if one did.
    pub(crate) fact: Option<&'d Fact>,
    /// Decided because the address was seen internal before.
    pub(crate) sticky: bool,
}

/// The base and the delta, looked at together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'d> {
    pub(crate) base: &'d Directory,
    pub(crate) delta: &'d Delta,
    pub(crate) config: &'d TunnelConfig,
}

impl<'d> View<'d> {
    /// Rules, first match decides:
    /// 1. the longest authoritative fact (static, Kubernetes), unless a hint about a longer prefix says internal:
    ///    hints may raise protection;
    /// 2. seen internal before;
    /// 3. the longest hint (handshake, DNS); external counts only inside policy;
    /// 4. the protected ranges.
    pub(crate) fn classify(&self, address: IpAddr, now: Instant) -> Finding<'d> {
        let sticky = self.delta.is_sticky(address);
        let authority = self.longest(address, now, FactSource::is_authoritative);
        let hint = self.longest(address, now, |source| !source.is_authoritative());
        if let Some(fact) = authority {
            let raised = hint.filter(|hint| {
                hint.class == Class::Internal && hint.prefix.prefix_len() > fact.prefix.prefix_len()
            });
            let fact = raised.unwrap_or(fact);
            let narrower_sticky = sticky
                && fact.class != Class::Internal
                && fact.prefix.prefix_len() < fact.prefix.max_prefix_len();
            if narrower_sticky {
                return Finding { standing: Standing::Internal, fact: None, sticky: true };
            }
            let standing = match fact.class {
                Class::Internal => Standing::Internal,
                Class::External => Standing::External,
                Class::Exempt => Standing::Exempt,
            };
            return Finding { standing, fact: Some(fact), sticky: false };
        }
        if sticky {
            return Finding { standing: Standing::Internal, fact: hint, sticky: true };
        }
        let protected = self.is_protected(address);
        let standing = match hint.map(|fact| fact.class) {
            Some(Class::Internal) => Standing::Internal,
            Some(Class::External | Class::Exempt) if protected && self.config.external == External::Dns => {
                Standing::Claimed
            }
            _ if protected => Standing::Unknown,
            _ => Standing::External,
        };
        Finding { standing, fact: hint, sticky: false }
    }

    /// The longest live fact that names an owner of `address`.
    pub(crate) fn owner(&self, address: IpAddr, now: Instant) -> Option<(IpNet, PeerId)> {
        self.facts(address)
            .filter(|fact| fact.is_live(now))
            .filter_map(|fact| fact.owner.map(|owner| (fact.prefix, owner)))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
    }

    /// Whether `address` lies in a protected range.
    pub(crate) fn is_protected(&self, address: IpAddr) -> bool {
        self.config.protected.iter().any(|range| range.contains(&address))
    }

    fn longest(&self, address: IpAddr, now: Instant, wanted: impl Fn(&FactSource) -> bool) -> Option<&'d Fact> {
        let counts = |fact: &&'d Fact| fact.is_live(now) && wanted(&fact.source);
        let base = self.base.table().matches(address).flat_map(|(_, facts)| facts.iter()).find(counts);
        let delta = self.delta.table().matches(address).flat_map(|(_, facts)| facts.iter()).find(counts);
        match (base, delta) {
            (Some(base), Some(delta)) => {
                let rank = |fact: &Fact| (fact.prefix.prefix_len(), fact.source.authority());
                // The delta is newer: it wins a tie.
                Some(if rank(base) > rank(delta) { base } else { delta })
            }
            (base, delta) => base.or(delta),
        }
    }

    fn facts(&self, address: IpAddr) -> impl Iterator<Item = &'d Fact> {
        let base = self.base.table().matches(address).flat_map(|(_, facts)| facts.iter());
        base.chain(self.delta.table().matches(address).flat_map(|(_, facts)| facts.iter()))
    }
}
