//! From facts to a class: which statement counts for an address.

use std::{net::IpAddr, time::Instant};

use ipnet::IpNet;

use super::{Class, Directory, Fact, FactSource, PeerId, delta::Delta};
use crate::config::{ExternalAuthority, TunnelConfig};

/// Result of the facts for an address.
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

impl Standing {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::Claimed => "claimed",
            Self::Exempt => "exempt",
            Self::Unknown => "unknown",
        }
    }
}

/// Standing of an address, with what it rests on.
#[derive(Debug, Clone)]
pub(crate) struct Finding<'d> {
    pub(crate) standing: Standing,
    /// The statement that decided, if one did.
    pub(crate) fact: Option<&'d Fact>,
    /// Decided because the address was seen internal before.
    pub(crate) sticky: bool,
    /// End of a statement that was looked at; until then time alone changes nothing.
    pub(crate) until: Option<Instant>,
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
        let until = authority.iter().chain(&hint).filter_map(|fact| fact.expires).min();
        if let Some(fact) = authority {
            let raised = hint.filter(|hint| {
                hint.class == Class::Internal && hint.prefix.prefix_len() > fact.prefix.prefix_len()
            });
            let fact = raised.unwrap_or(fact);
            let narrower_sticky = sticky
                && fact.class != Class::Internal
                && fact.prefix.prefix_len() < fact.prefix.max_prefix_len();
            if narrower_sticky {
                return Finding { standing: Standing::Internal, fact: None, sticky: true, until };
            }
            let standing = match fact.class {
                Class::Internal => Standing::Internal,
                Class::External => Standing::External,
                Class::Exempt => Standing::Exempt,
            };
            return Finding { standing, fact: Some(fact), sticky: false, until };
        }
        if sticky {
            return Finding { standing: Standing::Internal, fact: hint, sticky: true, until };
        }
        let protected = self.is_protected(address);
        let standing = match hint.map(|fact| fact.class) {
            Some(Class::Internal) => Standing::Internal,
            Some(Class::External | Class::Exempt)
                if protected && self.config.external == ExternalAuthority::Dns =>
            {
                Standing::Claimed
            }
            _ if protected => Standing::Unknown,
            _ => Standing::External,
        };
        Finding { standing, fact: hint, sticky: false, until }
    }

    /// The longest live fact that names an owner of `address`: its prefix, the owner, and when it ends.
    pub(crate) fn owner(&self, address: IpAddr, now: Instant) -> Option<(IpNet, PeerId, Option<Instant>)> {
        self.facts(address)
            .filter(|fact| fact.is_live(now))
            .filter_map(|fact| fact.owner.map(|owner| (fact.prefix, owner, fact.expires)))
            .max_by_key(|(prefix, _, _)| prefix.prefix_len())
    }

    /// Tells if `address` lies in a protected range.
    pub(crate) fn is_protected(&self, address: IpAddr) -> bool {
        self.config.protected.iter().any(|range| range.contains(&address))
    }

    fn longest(
        &self,
        address: IpAddr,
        now: Instant,
        wanted: impl Fn(&FactSource) -> bool,
    ) -> Option<&'d Fact> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{directory::FactChange, testing::start};

    const PROTECTED: &str = "10.0.0.0/8";

    fn fact() -> impl Strategy<Value = (Fact, Option<u64>)> {
        let class = prop_oneof![Just(Class::Internal), Just(Class::External), Just(Class::Exempt)];
        let source = prop_oneof![
            Just(FactSource::Static),
            Just(FactSource::Kubernetes),
            Just(FactSource::Handshake),
            Just(FactSource::Dns("a.test".into())),
            Just(FactSource::Dns("b.test".into())),
            Just(FactSource::ReverseDns("c.test".into())),
        ];
        (
            0u32..4,
            0u32..4,
            prop_oneof![Just(8u8), Just(16), Just(24), Just(30), Just(32)],
            class,
            source,
            prop::option::of(1u64..100),
        )
            .prop_map(|(net, host, length, class, source, life)| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 | net << 16 | host);
                let prefix = ipnet::Ipv4Net::new(address, length).unwrap().trunc();
                (Fact::new(prefix, class, source, None), life)
            })
    }

    /// The rules of [`View::classify`], over a plain list.
    fn scan(
        facts: &[Fact],
        sticky: &[IpAddr],
        address: IpAddr,
        now: Instant,
        config: &TunnelConfig,
    ) -> Standing {
        let longest = |authoritative: bool| {
            facts
                .iter()
                .enumerate()
                .filter(|(_, fact)| fact.prefix.contains(&address) && fact.is_live(now))
                .filter(|(_, fact)| fact.source.is_authoritative() == authoritative)
                .max_by_key(|(at, fact)| {
                    (fact.prefix.prefix_len(), fact.source.authority(), std::cmp::Reverse(*at))
                })
                .map(|(_, fact)| fact)
        };
        let sticky = sticky.contains(&address);
        if let Some(authority) = longest(true) {
            let raised = longest(false).is_some_and(|hint| {
                hint.class == Class::Internal && hint.prefix.prefix_len() > authority.prefix.prefix_len()
            });
            let host = authority.prefix.prefix_len() == 32;
            return match authority.class {
                Class::Internal => Standing::Internal,
                _ if raised || sticky && !host => Standing::Internal,
                Class::External => Standing::External,
                Class::Exempt => Standing::Exempt,
            };
        }
        let protected = config.protected.iter().any(|range| range.contains(&address));
        match longest(false).map(|fact| fact.class) {
            _ if sticky => Standing::Internal,
            Some(Class::Internal) => Standing::Internal,
            Some(_) if protected && config.external == ExternalAuthority::Dns => Standing::Claimed,
            _ if protected => Standing::Unknown,
            _ => Standing::External,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn classify_agrees_with_a_linear_scan(
            base in prop::collection::vec(fact(), 0..12),
            later in prop::collection::vec(fact(), 0..12),
            dns: bool,
            elapsed in 0u64..120,
            key: u64,
        ) {
            let begun = start();
            let mut config = TunnelConfig::new([PROTECTED.parse().unwrap()]);
            config.external = if dns { ExternalAuthority::Dns } else { ExternalAuthority::Directory };
            let alive = |(fact, life): (Fact, Option<u64>)| {
                Fact { expires: life.map(|life| begun + Duration::from_secs(life)), ..fact }
            };
            // One statement a prefix and rank: where names of one rank disagree, either is right in its way.
            let mut list: Vec<Fact> = Vec::new();
            let mut fresh = |facts: Vec<(Fact, Option<u64>)>| -> Vec<Fact> {
                let mut kept = Vec::new();
                for fact in facts.into_iter().map(alive) {
                    let rank = |fact: &Fact| (fact.prefix, fact.source.authority());
                    if !list.iter().any(|known| rank(known) == rank(&fact)) {
                        list.push(fact.clone());
                        kept.push(fact);
                    }
                }
                kept
            };
            let (base, later) = (fresh(base), fresh(later));
            let directory = Directory::new(base, key);
            let mut delta = Delta::new(key);
            let mut sticky = Vec::new();
            for fact in &later {
                delta.apply(&FactChange::Learn(fact.clone()), begun);
                if fact.class == Class::Internal && fact.prefix.prefix_len() == 32 {
                    sticky.push(fact.prefix.addr());
                }
            }
            let view = View { base: &directory, delta: &delta, config: &config };
            let now = begun + Duration::from_secs(elapsed);
            for bits in 0..16u32 {
                let address = IpAddr::V4((0x0a00_0000 | (bits >> 2) << 16 | bits & 3).into());
                let found = view.classify(address, now).standing;
                prop_assert_eq!(found, scan(&list, &sticky, address, now, &config), "{}", address);
            }
        }
    }

    #[test]
    fn an_address_outside_the_protected_ranges_is_external_without_a_word() {
        let config = TunnelConfig::new([PROTECTED.parse().unwrap()]);
        let (base, delta) = (Directory::new([], 1), Delta::new(1));
        let view = View { base: &base, delta: &delta, config: &config };
        assert_eq!(view.classify([192, 0, 2, 1].into(), start()).standing, Standing::External);
        assert_eq!(view.classify([10, 0, 0, 1].into(), start()).standing, Standing::Unknown);
    }
}
